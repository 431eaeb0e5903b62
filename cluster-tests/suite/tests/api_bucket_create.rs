//! Creating buckets: every form of the request, access modes, plans, accounts.
// Helpers of tests panic as tests do.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

use cloudkv_test_harness::{Bucket, RawRequest, SharedNode};
use futures_util::future::join_all;
use serde_json::json;
use uuid::Uuid;

static NODE: SharedNode = SharedNode::new();

#[tokio::test]
async fn a_bucket_created_without_a_key_makes_an_account() {
    let node = NODE.lease().await;
    let answer = node.api().post("/buckets").await;
    answer.assert_status(201);
    assert_eq!(
        answer.header("content-type"),
        "application/json; charset=utf-8"
    );
    let fields: Vec<String> = answer.json().as_object().unwrap().keys().cloned().collect();
    assert_eq!(fields, ["account_id", "bucket_id", "mode", "plan"]);
    let bucket = Bucket::from_response(&answer);
    assert_eq!(
        (bucket.mode.as_str(), bucket.plan.as_str()),
        ("public", "free")
    );
    let account = Uuid::parse_str(&bucket.account).expect("the account's key is a UUID");
    assert_eq!(account.get_version_num(), 4);
    assert_eq!(account.to_string(), bucket.account, "in its usual form");
    assert!(
        bucket.id.starts_with('a') && bucket.id.len() == 14,
        "{}",
        bucket.id
    );
    assert!(
        bucket.id.bytes().all(|byte| byte.is_ascii_alphanumeric()),
        "{}",
        bucket.id
    );
}

#[tokio::test]
async fn parameters_are_accepted_in_every_form() {
    let node = NODE.lease().await;
    let api = node.api();
    let create = || api.post("/buckets");
    let answers = [
        create()
            .multipart(&[("access", "protected"), ("comment", "a note & more")])
            .await,
        create()
            .urlencoded("access=protected&comment=a+note+%26+more")
            .await,
        create()
            .json(&json!({"access": "protected", "comment": "a note & more"}))
            .await,
        create()
            .query(&[("access", "protected"), ("comment", "a note & more")])
            .await,
    ];
    for answer in answers {
        let bucket = Bucket::from_response(&answer);
        assert_eq!(
            (bucket.mode.as_str(), bucket.plan.as_str()),
            ("protected", "business")
        );
        assert_eq!(
            api.bucket_summary(&bucket).await["comment"],
            "a note & more"
        );
    }
}

#[tokio::test]
async fn a_multipart_body_is_parsed_despite_an_urlencoded_header() {
    let node = NODE.lease().await;
    let body = "--xyz\r\nContent-Disposition: form-data; name=\"access\"\r\n\r\npublic-read\r\n\
                --xyz--\r\n";
    let answer = node
        .api()
        .post("/buckets")
        .header("content-type", "text/plain")
        .body(body);
    assert_eq!(Bucket::from_response(&answer.await).mode, "public-read");
    let answer = RawRequest::new("POST", "/buckets")
        .header("Content-Type", "application/x-www-form-urlencoded")
        .parse_body(body.as_bytes())
        .send(node.http())
        .await;
    assert_eq!(Bucket::from_response(&answer).mode, "public-read");
}

#[tokio::test]
async fn without_a_plan_the_lowest_that_offers_the_mode_is_taken() {
    let node = NODE.lease().await;
    let api = node.api();
    let cases = [
        ("public", "public", "free"),
        ("public-read", "public-read", "pro"),
        ("read-public", "public-read", "pro"),
        ("protected", "protected", "business"),
    ];
    for (access, mode, plan) in cases {
        let bucket = api.create_bucket_with(&[("access", access)]).await;
        assert_eq!((bucket.mode.as_str(), bucket.plan.as_str()), (mode, plan));
    }
}

#[tokio::test]
async fn a_named_plan_is_taken_if_it_offers_the_mode() {
    let node = NODE.lease().await;
    let api = node.api();
    let fits = [
        ("public", "free"),
        ("public", "pro"),
        ("public", "business"),
        ("public-read", "pro"),
        ("public-read", "business"),
        ("protected", "business"),
    ];
    for (access, plan) in fits {
        let bucket = api
            .create_bucket_with(&[("access", access), ("plan", plan)])
            .await;
        assert_eq!((bucket.mode.as_str(), bucket.plan.as_str()), (access, plan));
    }
    for (access, plan) in [
        ("public-read", "free"),
        ("protected", "free"),
        ("protected", "pro"),
    ] {
        let answer = api
            .post("/buckets")
            .query(&[("access", access), ("plan", plan)])
            .await;
        answer.assert_error(403, "plan_limit");
    }
}

#[tokio::test]
async fn unknown_modes_and_plans_and_broken_bodies_are_refused() {
    let node = NODE.lease().await;
    let api = node.api();
    for access in ["private", "PUBLIC", "public ", "0"] {
        let answer = api.post("/buckets").query(&[("access", access)]).await;
        answer.assert_error(400, "invalid_access");
    }
    for plan in ["gold", "Free", "free,pro"] {
        api.post("/buckets")
            .query(&[("plan", plan)])
            .await
            .assert_error(400, "invalid_plan");
    }
    let broken = api
        .post("/buckets")
        .header("content-type", "application/json")
        .body("{\"access\":");
    broken.await.assert_error(400, "invalid_body");
    let wrong_type = api.post("/buckets").json(&json!({"access": 5})).await;
    wrong_type.assert_error_in(
        400,
        &["invalid_body", "invalid_access", "invalid_parameter"],
    );
    let cut = api
        .post("/buckets")
        .header("content-type", "multipart/form-data; boundary=xyz")
        .body("--xyz\r\nContent-Disposition: form-data; name=\"access\"\r\n\r\npubl");
    cut.await.assert_error(400, "invalid_body");
}

#[tokio::test]
async fn a_huge_body_is_refused_before_it_is_read() {
    let node = NODE.lease().await;
    let answer = RawRequest::new("POST", "/buckets")
        .header("Content-Type", "application/json")
        .header("Content-Length", "1000000000")
        .send(node.http())
        .await;
    answer.assert_error(413, "body_too_large");
}

#[tokio::test]
async fn a_bucket_joins_the_account_whose_key_is_sent() {
    let node = NODE.lease().await;
    let api = node.api();
    let first = api.create_bucket().await;
    let second = api.create_bucket_for(&first.account, &[]).await;
    assert_eq!(second.account, first.account, "the answer repeats the key");
    assert_ne!(second.id, first.id);
    let listed = api.get("/buckets").api_key(&first.account).await.json();
    assert_eq!(listed["buckets"].as_array().unwrap().len(), 2);
}

#[tokio::test]
async fn an_unset_key_counts_as_none_and_a_wrong_one_is_refused() {
    let node = NODE.lease().await;
    let api = node.api();
    let first = Bucket::from_response(&api.post("/buckets").api_key("").await);
    let second = Bucket::from_response(&api.post("/buckets").api_key("{{account_key}}").await);
    assert_ne!(first.account, second.account);
    let unknown = Uuid::from_u128(0x1234_5678_9abc_4def_8123_4567_89ab_cdef).to_string();
    for key in [
        unknown.as_str(),
        "nonsense",
        "{account_key}",
        &first.account[..35],
    ] {
        api.post("/buckets")
            .api_key(key)
            .await
            .assert_error(401, "unauthorized");
    }
}

#[tokio::test]
async fn an_account_has_ten_free_buckets_and_any_number_of_others() {
    let node = NODE.lease().await;
    let api = node.api();
    let first = api.create_bucket().await;
    // Concurrently: a count that is read and then written would let too many pass.
    let create = || api.post("/buckets").api_key(&first.account).into_future();
    let answers = join_all((0..14).map(|_| create())).await;
    let (created, refused): (Vec<_>, Vec<_>) = answers.iter().partition(|a| a.status == 201);
    assert_eq!(created.len(), 9, "one existed before: {answers:?}");
    refused.iter().for_each(|answer| {
        answer.assert_error(403, "plan_limit");
    });
    for plan in ["pro", "business"] {
        api.create_bucket_for(&first.account, &[("plan", plan)])
            .await;
    }
    create().await.assert_error(403, "plan_limit");
    let delete = api
        .delete(&first.path())
        .api_key(&first.account)
        .query(&[("confirm", "0")]);
    delete.await.assert_status(200);
    create().await.assert_status(201);
    create().await.assert_error(403, "plan_limit");
}
