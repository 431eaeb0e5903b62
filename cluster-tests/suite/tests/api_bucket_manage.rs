//! Listing, changing and deleting buckets, and the account key that it takes.
// Helpers of tests panic as tests do.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

use std::time::SystemTime;

use cloudkv_test_harness::{ApiClient, Bucket, SharedNode};
use futures_util::future::join_all;
use http::Method;
use serde_json::{Value, json};

static NODE: SharedNode = SharedNode::new();

async fn list(api: &ApiClient, account: &str) -> Vec<Value> {
    let answer = api.get("/buckets").api_key(account).await;
    assert_eq!(
        answer.assert_status(200).header("content-type"),
        "application/json; charset=utf-8"
    );
    answer.json()["buckets"].as_array().expect("a list").clone()
}

#[tokio::test]
async fn buckets_are_listed_oldest_first_with_all_fields() {
    let node = NODE.lease().await;
    let api = node.api();
    let first = api
        .create_bucket_with(&[("comment", "the first, with \"quotes\" and \u{1f511}")])
        .await;
    let second = api
        .create_bucket_for(&first.account, &[("access", "public-read")])
        .await;
    let third = api
        .create_bucket_for(&first.account, &[("access", "protected")])
        .await;
    let listed = list(&api, &first.account).await;
    let ids: Vec<&str> = listed
        .iter()
        .map(|bucket| bucket["id"].as_str().unwrap())
        .collect();
    assert_eq!(ids, [&first.id, &second.id, &third.id]);
    let modes: Vec<_> = listed
        .iter()
        .map(|bucket| (&bucket["mode"], &bucket["plan"]))
        .collect();
    assert_eq!(
        json!(modes),
        json!([
            ["public", "free"],
            ["public-read", "pro"],
            ["protected", "business"]
        ])
    );
    assert_eq!(
        listed[0]["comment"],
        "the first, with \"quotes\" and \u{1f511}"
    );
    for bucket in &listed {
        let mut fields: Vec<&str> = bucket
            .as_object()
            .unwrap()
            .keys()
            .map(String::as_str)
            .collect();
        fields.sort_unstable();
        let expected = [
            "comment",
            "created_at",
            "default_ttl",
            "estimated_keys",
            "id",
            "key_get_failed",
            "key_get_success",
            "mode",
            "plan",
        ];
        assert_eq!(fields, expected);
        for counter in ["estimated_keys", "key_get_success", "key_get_failed"] {
            assert_eq!(bucket[counter], 0);
        }
    }
    assert_eq!(listed[1]["comment"], Value::Null);
    let mut created: Vec<SystemTime> = listed.iter().map(creation_time).collect();
    assert!(created.is_sorted(), "{listed:?}");
    created
        .iter()
        .for_each(|at| assert!(at.elapsed().is_ok_and(|age| age.as_secs() < 60)));
    created.dedup();
    assert_eq!(created.len(), 3);
}

/// Parses `created_at`, RFC 3339 in UTC with microseconds: `2019-11-17T21:40:30.691263Z`.
fn creation_time(bucket: &Value) -> SystemTime {
    let text = bucket["created_at"].as_str().expect("a text");
    assert!(
        text.len() == 27 && text.ends_with('Z') && &text[19..20] == ".",
        "{text}"
    );
    humantime::parse_rfc3339(text).unwrap_or_else(|error| panic!("{text}: {error}"))
}

#[tokio::test]
async fn accounts_see_only_their_own_buckets() {
    let node = NODE.lease().await;
    let api = node.api();
    let (mine, yours) = (api.create_bucket().await, api.create_bucket().await);
    assert_eq!(list(&api, &mine.account).await[0]["id"], mine.id.as_str());
    assert_eq!(list(&api, &yours.account).await.len(), 1);
}

#[tokio::test]
async fn managing_needs_the_key_of_the_buckets_account() {
    let node = NODE.lease().await;
    let api = node.api();
    let (mine, yours) = (api.create_bucket().await, api.create_bucket().await);
    let unknown = "11111111-2222-4333-8444-555555555555";
    for key in [
        None,
        Some(""),
        Some("{{account_key}}"),
        Some(unknown),
        Some("nonsense"),
    ] {
        let calls = [
            api.get("/buckets"),
            api.patch(&mine.path()).urlencoded("comment=stolen"),
            api.delete(&format!("{}?confirm=0", mine.path())),
        ];
        for call in calls {
            let call = match key {
                Some(key) => call.api_key(key),
                None => call,
            };
            call.await.assert_error(401, "unauthorized");
        }
    }
    let patch = api
        .patch(&mine.path())
        .api_key(&yours.account)
        .urlencoded("comment=stolen");
    patch.await.assert_error(403, "forbidden");
    let delete = api
        .delete(&format!("{}?confirm=0", mine.path()))
        .api_key(&yours.account);
    delete.await.assert_error(403, "forbidden");
    let summary = api.bucket_summary(&mine).await;
    assert_eq!(summary["comment"], Value::Null, "nothing has changed");
}

#[tokio::test]
async fn an_unknown_bucket_is_not_found() {
    let node = NODE.lease().await;
    let api = node.api();
    let account = api.create_bucket().await.account;
    for id in [
        "a0000000000000",
        "nonsense",
        "b0h6hqok6kAT3d",
        "a-h6hqok6kAT3d",
    ] {
        for (method, query) in [(Method::PATCH, "comment=x"), (Method::DELETE, "confirm=0")] {
            let call = api.request(method, &format!("/buckets/{id}?{query}"));
            call.api_key(&account)
                .await
                .assert_error(404, "unknown_bucket");
        }
    }
}

#[tokio::test]
async fn a_comment_is_set_and_cleared_in_every_form() {
    let node = NODE.lease().await;
    let api = node.api();
    let bucket = api.create_bucket().await;
    let patch = || api.patch(&bucket.path()).api_key(&bucket.account);
    let multipart =
        "--b\r\nContent-Disposition: form-data; name=\"comment\"\r\n\r\none\r\n--b--\r\n";
    let calls = [
        (patch().urlencoded(multipart), json!("one")),
        (patch().multipart(&[("comment", "two")]), json!("two")),
        (patch().urlencoded("comment=th+r%C3%A9e"), json!("th rée")),
        (patch().urlencoded("comment="), Value::Null),
        (patch().json(&json!({"comment": "four"})), json!("four")),
        (
            patch().query(&[("comment", "five & more")]),
            json!("five & more"),
        ),
        (patch().json(&json!({"comment": ""})), Value::Null),
    ];
    for (call, expected) in calls {
        call.await.assert_status(200).assert_empty();
        assert_eq!(api.bucket_summary(&bucket).await["comment"], expected);
    }
}

#[tokio::test]
async fn the_access_mode_cannot_be_changed() {
    let node = NODE.lease().await;
    let api = node.api();
    let bucket = api.create_bucket().await;
    let patch = api
        .patch(&bucket.path())
        .api_key(&bucket.account)
        .urlencoded("access=protected");
    patch
        .await
        .assert_error_in(400, &["invalid_parameter", "invalid_access"]);
    assert_eq!(api.bucket_summary(&bucket).await["mode"], "public");
}

async fn change_plan(
    api: &ApiClient,
    bucket: &Bucket,
    plan: &str,
) -> cloudkv_test_harness::HttpResponse {
    api.patch(&bucket.path())
        .api_key(&bucket.account)
        .query(&[("plan", plan)])
        .await
}

#[tokio::test]
async fn a_plan_is_changed_and_its_limits_hold_from_then_on() {
    let node = NODE.lease().await;
    let api = node.api();
    let bucket = api.create_bucket_with(&[("comment", "stays")]).await;
    let big = "x".repeat(16_384);
    api.put(&bucket.key_path("big"), big.clone())
        .await
        .assert_error(413, "value_too_large");
    for plan in ["business", "pro", "free", "business"] {
        change_plan(&api, &bucket, plan)
            .await
            .assert_status(200)
            .assert_empty();
        assert_eq!(api.bucket_summary(&bucket).await["plan"], plan);
    }
    api.put(&bucket.key_path("big"), big)
        .await
        .assert_status(200);
    assert_eq!(api.bucket_summary(&bucket).await["comment"], "stays");
    change_plan(&api, &bucket, "gold")
        .await
        .assert_error(400, "invalid_plan");
}

#[tokio::test]
async fn a_change_to_a_plan_that_lacks_the_mode_or_is_full_is_refused() {
    let node = NODE.lease().await;
    let api = node.api();
    let bucket = api.create_bucket_with(&[("access", "protected")]).await;
    for plan in ["free", "pro"] {
        let answer = change_plan(&api, &bucket, plan).await;
        assert!(matches!(answer.status, 403 | 409), "{answer:?}");
        assert!(["plan_limit", "exceeds_plan"].contains(&answer.error_code().as_str()));
    }
    assert_eq!(api.bucket_summary(&bucket).await["plan"], "business");
    join_all((0..10).map(|_| api.create_bucket_for(&bucket.account, &[]))).await;
    let eleventh = api
        .create_bucket_for(&bucket.account, &[("plan", "pro")])
        .await;
    let answer = change_plan(&api, &eleventh, "free").await;
    assert!(matches!(answer.status, 403 | 409), "{answer:?}");
    assert!(["plan_limit", "exceeds_plan"].contains(&answer.error_code().as_str()));
}

#[tokio::test]
async fn deleting_needs_the_right_number_of_keys() {
    let node = NODE.lease().await;
    let api = node.api();
    let bucket = api.create_bucket().await;
    for name in ["a", "b", "c"] {
        api.put(&bucket.key_path(name), "v")
            .await
            .assert_status(200);
    }
    let delete = |query: &str| {
        api.delete(&format!("{}{query}", bucket.path()))
            .api_key(&bucket.account)
            .into_future()
    };
    delete("").await.assert_error(400, "confirm_required");
    for query in ["?confirm=three", "?confirm=-3", "?confirm=3.0"] {
        delete(query).await.assert_error(400, "invalid_parameter");
    }
    for query in ["?confirm=2", "?confirm=4", "?confirm=18446744073709551615"] {
        let answer = delete(query).await;
        answer.assert_error(409, "confirm_mismatch");
        assert_eq!(answer.json()["keys"], 3, "the answer has the right number");
    }
    assert_eq!(
        api.get(&bucket.key_path("a"))
            .await
            .assert_status(200)
            .text(),
        "v"
    );
    delete("?confirm=3").await.assert_status(200).assert_empty();
    delete("?confirm=3")
        .await
        .assert_error(404, "unknown_bucket");
}

#[tokio::test]
async fn a_deleted_bucket_and_its_keys_are_unknown_at_once() {
    let node = NODE.lease().await;
    let api = node.api();
    let kept = api.create_bucket().await;
    for access in ["public", "public-read", "protected"] {
        let bucket = api
            .create_bucket_for(&kept.account, &[("access", access)])
            .await;
        let put = api.put(&bucket.key_path("k"), "v").api_key(&bucket.account);
        put.await.assert_status(200);
        let delete = api
            .delete(&format!("{}?confirm=1", bucket.path()))
            .api_key(&bucket.account);
        delete.await.assert_status(200);
        let calls = [
            api.get(&bucket.key_path("k")),
            api.get(&bucket.listing_path()),
            api.put(&bucket.key_path("k"), "again"),
            api.delete(&bucket.key_path("k")),
            api.patch(&bucket.path()).urlencoded("comment=x"),
        ];
        for call in calls {
            call.api_key(&bucket.account)
                .await
                .assert_error(404, "unknown_bucket");
        }
    }
    assert_eq!(list(&api, &kept.account).await.len(), 1);
    api.get(&kept.key_path("k"))
        .await
        .assert_error(404, "not_found");
}
