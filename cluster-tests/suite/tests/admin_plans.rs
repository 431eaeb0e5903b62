//! Operators change the limits of plans, and the plan of a bucket.
// Helpers of tests panic as tests do.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

use std::process::Output;

use cloudkv_test_harness::node_command;
use cloudkv_test_harness::{Node, NodeOptions};
use http::Method;
use serde_json::{Value, json};

/// Sends a change to the admin port; returns status and body.
async fn send_change(node: &Node, method: Method, path: &str, body: &Value) -> (u16, Value) {
    let call = node.admin_api().request(method, path).json(body);
    let answer = call.unchecked().await;
    (answer.status, answer.json())
}

/// Runs `cloudkv-node admin` for this node.
fn command(node: &Node, args: &[&str]) -> Output {
    let port = node.admin_api().address().to_string();
    let mut command = node_command();
    command.args(["admin", "--admin", &port]).args(args);
    command.output().unwrap()
}

#[track_caller]
fn assert_succeeds(node: &Node, args: &[&str]) -> String {
    let output = command(node, args);
    assert!(output.status.success(), "{args:?}: {output:?}");
    String::from_utf8(output.stdout).unwrap()
}

#[track_caller]
fn assert_fails(node: &Node, args: &[&str]) -> String {
    let output = command(node, args);
    assert!(!output.status.success(), "{args:?}: {output:?}");
    String::from_utf8(output.stderr).unwrap()
}

#[tokio::test]
async fn a_raised_limit_is_in_force_at_once_for_old_and_new_buckets_and_survives_a_crash() {
    let mut node = Node::start().await;
    let value = "v".repeat(5000);
    let old = node.api().create_bucket().await;
    let put = node.api().put(&old.key_path("k"), value.clone()).await;
    put.assert_error(413, "value_too_large");

    let changes = json!({ "value_bytes": 8192, "key_bytes": 1024 });
    let (status, terms) = send_change(&node, Method::PATCH, "/plans/free", &changes).await;
    assert_eq!(status, 200, "{terms}");
    let expected = json!({
        "plan": "free", "keys": 10_000, "key_bytes": 1024, "value_bytes": 8192, "buckets": 10,
        "bytes": 0, "access": ["public"],
    });
    assert_eq!(terms, expected);

    let new = node.api().create_bucket().await;
    let long = "k".repeat(1024);
    for restarted in [false, true] {
        if restarted {
            node.kill_9();
            node.restart().await;
        }
        let api = node.api();
        for bucket in [&old, &new] {
            for key in ["k", &long] {
                api.put(&bucket.key_path(key), value.clone())
                    .await
                    .assert_status(200);
                assert_eq!(
                    api.get(&bucket.key_path(key))
                        .await
                        .assert_status(200)
                        .text(),
                    value
                );
            }
            let put = api.put(&bucket.key_path("k"), "v".repeat(8193)).await;
            put.assert_error(413, "value_too_large");
        }
        let plans = node.admin_api().get("/plans").unchecked().await;
        assert_eq!(plans.assert_status(200).json()["plans"][0], expected);
    }
}

#[tokio::test]
async fn the_number_of_keys_and_of_buckets_can_be_changed_by_command() {
    let node = Node::start().await;
    let api = node.api();
    let bucket = api.create_bucket().await;
    let shown = assert_succeeds(&node, &["plan", "set", "free", "--keys=2", "--buckets=1"]);
    assert!(shown.contains("keys         2\n"), "{shown}");
    for key in ["a", "b"] {
        api.put(&bucket.key_path(key), "v").await.assert_status(200);
    }
    let put = api.put(&bucket.key_path("c"), "v").await;
    put.assert_error(403, "plan_limit");
    let create = api.post("/buckets").api_key(&bucket.account).await;
    create.assert_error(403, "plan_limit");

    assert_succeeds(&node, &["plan", "set", "free", "--keys=3", "--buckets=0"]);
    api.put(&bucket.key_path("c"), "v").await.assert_status(200);
    let put = api.put(&bucket.key_path("d"), "v").await;
    put.assert_error(403, "plan_limit");
    for _ in 0..11 {
        api.create_bucket_for(&bucket.account, &[]).await;
    }
    let listed = assert_succeeds(&node, &["plan", "list", "--json"]);
    let listed: Value = serde_json::from_str(&listed).unwrap();
    assert_eq!(listed["plans"][0]["keys"], 3);
    assert_eq!(listed["plans"][1]["keys"], 100_000_000);
    assert!(assert_succeeds(&node, &["plan", "list"]).contains("business"));
}

#[tokio::test]
async fn operators_set_plans_where_self_service_is_off() {
    let options = NodeOptions {
        args: vec!["--plans-self-service=false".to_owned()],
        ..NodeOptions::default()
    };
    let mut node = Node::start_with(options).await;
    let bucket = node.api().create_bucket().await;
    let request_pro = |node: &Node| {
        let call = node.api().patch(&bucket.path()).api_key(&bucket.account);
        call.query(&[("plan", "pro")])
    };
    request_pro(&node)
        .await
        .assert_error(402, "plan_not_self_service");

    assert_succeeds(&node, &["bucket-plan", &bucket.id, "business"]);
    let value = "v".repeat(16_384);
    let put = node.api().put(&bucket.key_path("k"), value).await;
    put.assert_status(200);
    node.terminate().await;
    node.restart().await;
    let summary = node.api().bucket_summary(&bucket).await;
    assert_eq!(summary["plan"], "business");

    // The bucket's content doesn't fit into a smaller plan.
    let path = format!("{}/plan", bucket.path());
    let (status, body) = send_change(&node, Method::PUT, &path, &json!({ "plan": "pro" })).await;
    assert_eq!((status, &body["error"]), (409, &json!("exceeds_plan")));
    let refused = assert_fails(&node, &["bucket-plan", &bucket.id, "free"]);
    assert!(refused.contains("409"), "{refused}");
    node.api()
        .delete(&bucket.key_path("k"))
        .await
        .assert_status(200);
    let (status, body) = send_change(&node, Method::PUT, &path, &json!({ "plan": "pro" })).await;
    assert_eq!((status, body), (200, json!({ "plan": "pro" })));
    request_pro(&node).await.assert_status(200);
    assert!(
        !node.log_text().contains(&bucket.id),
        "IDs stay out of logs"
    );
}

#[tokio::test]
async fn wrong_changes_are_refused_and_change_nothing() {
    let node = Node::start().await;
    let before = node.admin_api().get("/plans").unchecked().await.json();
    for (plan, body, status, code) in [
        ("free", json!({ "key_bytes": 1025 }), 400, "invalid_limit"),
        ("free", json!({ "key_bytes": 0 }), 400, "invalid_limit"),
        (
            "free",
            json!({ "value_bytes": 1_048_577 }),
            400,
            "invalid_limit",
        ),
        (
            "free",
            json!({ "value_bytes": 0, "keys": 5 }),
            400,
            "invalid_limit",
        ),
        ("free", json!({ "keys": 0 }), 400, "invalid_limit"),
        ("free", json!({}), 400, "invalid_limit"),
        ("free", json!({ "keys": "5" }), 400, "invalid_body"),
        ("free", json!({ "access": [] }), 400, "invalid_body"),
        ("gold", json!({ "keys": 5 }), 404, "unknown_plan"),
    ] {
        let path = format!("/plans/{plan}");
        let (actual, answer) = send_change(&node, Method::PATCH, &path, &body).await;
        assert_eq!((actual, &answer["error"]), (status, &json!(code)), "{body}");
    }
    let after = node.admin_api().get("/plans").unchecked().await.json();
    assert_eq!(after, before);
    let refused = assert_fails(&node, &["plan", "set", "pro", "--value-bytes=1048577"]);
    assert!(refused.contains("from 1 to 1048576"), "{refused}");
    let refused = assert_fails(&node, &["bucket-plan", "a0123456789ABC", "pro"]);
    assert!(refused.contains("no such bucket"), "{refused}");
}

#[tokio::test]
async fn plan_changes_need_the_admin_token() {
    let token = "0123456789abcdef";
    let options = NodeOptions {
        env: vec![("CLOUDKV_ADMIN_TOKEN".to_owned(), token.to_owned())],
        ..NodeOptions::default()
    };
    let node = Node::start_with(options).await;
    let body = json!({ "keys": 5 });
    let (status, body) = send_change(&node, Method::PATCH, "/plans/free", &body).await;
    assert_eq!((status, &body["error"]), (401, &json!("unauthorized")));
    assert_fails(&node, &["plan", "set", "free", "--keys=5"]);
    assert_succeeds(
        &node,
        &["plan", "set", "free", "--keys=5", "--token", token],
    );
}
