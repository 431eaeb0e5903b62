//! Watching a bucket: requests that are a watch, those that are refused, and who may watch.
// Helpers of tests panic as tests do.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

use std::collections::BTreeSet;

use cloudkv_test_harness::batches::{self, LINES};
use cloudkv_test_harness::watch::EventRequest;
use cloudkv_test_harness::{Bucket, NodeLease, SharedNode};

static NODE: SharedNode = SharedNode::new();

fn watch(node: &NodeLease, bucket: &Bucket, query: &str) -> EventRequest {
    EventRequest::to_bucket(node.http(), bucket, query)
}

#[tokio::test]
async fn tokens_that_are_none_and_those_of_other_buckets_are_refused() {
    let node = NODE.lease().await;
    let api = node.api();
    let (bucket, other) = (api.create_bucket().await, api.create_bucket().await);
    let stream = watch(&node, &other, "").open_ready().await;
    let token = stream.last_event_id().unwrap();
    let mut messages = BTreeSet::new();
    let endless = "A".repeat(2000);
    let malformed = ["x", "AQ", "not/base64=", &token[..10], &endless];
    let malformed = malformed.map(|token| (token, false));
    for (wrong, is_other) in malformed.into_iter().chain([(token, true)]) {
        let key_path = bucket.key_path("k");
        for request in [
            watch(&node, &bucket, &format!("?since={wrong}")),
            watch(&node, &bucket, "").last_event_id(wrong),
            watch(&node, &bucket, "?initial=true").last_event_id(wrong),
            EventRequest::new(node.http(), &key_path).last_event_id(wrong),
        ] {
            let refusal = request.refusal().await;
            refusal.assert_error(400, "invalid_resume_token");
            let message = refusal.json()["message"].to_string();
            assert_eq!(message.contains("another bucket"), is_other, "{message}");
            messages.insert(message);
        }
    }
    assert!(messages.len() >= 2, "{messages:?}");
}

#[tokio::test]
async fn other_parameters_are_refused() {
    let node = NODE.lease().await;
    let api = node.api();
    let bucket = api.create_bucket().await;
    let long = format!("?prefix={}", "k".repeat(1025));
    for query in [
        "?initial=yes",
        "?values=1",
        "?limit=10",
        "?delimiter=/",
        "?colour=red",
        "?prefix=a&prefix=b",
        &long,
    ] {
        let refusal = watch(&node, &bucket, query).refusal().await;
        refusal.assert_error(400, "invalid_parameter");
    }
    let of_key = |query: &str| {
        let path = format!("{}{query}", bucket.key_path("k"));
        EventRequest::new(node.http(), &path)
    };
    let refusal = of_key("?prefix=a").refusal().await;
    refusal.assert_error(400, "invalid_parameter");
    let too_long = bucket.key_path(&"k".repeat(65));
    let refusal = EventRequest::new(node.http(), &too_long).refusal().await;
    refusal.assert_error(400, "invalid_key");
}

#[tokio::test]
async fn only_get_with_the_type_by_name_is_a_watch() {
    let node = NODE.lease().await;
    let api = node.api();
    let bucket = api.create_bucket().await;
    let key = bucket.key_path("k");
    api.put(&key, "value").await.assert_status(200);
    for accept in ["*/*", "text/*", "text/plain, text/event-stream;q=0"] {
        let list = api.get(&bucket.listing_path()).header("accept", accept);
        assert_eq!(list.await.assert_status(200).lines(), ["k"], "{accept}");
        let get = api.get(&key).header("accept", accept).await;
        assert_eq!(get.assert_status(200).text(), "value", "{accept}");
    }
    let stream = "text/event-stream";
    for path in [&bucket.listing_path(), &key] {
        let head = api.head(path).header("accept", stream).await;
        head.assert_status(200).assert_empty();
        assert_ne!(head.header("content-type"), stream);
    }
    let put = api.put(&key, "other").header("accept", stream).await;
    put.assert_status(200).assert_empty();
    let batch = batches::post(&api, &bucket, &[batches::get("k")]);
    let batch = batch.header("accept", stream).await;
    assert_eq!(batch.assert_status(200).header("content-type"), LINES);
    // With the type among others, in any case.
    for accept in ["text/html, TEXT/Event-Stream", "text/event-stream;q=0.1"] {
        let request = watch(&node, &bucket, "");
        let mut stream = request.header("accept", accept).open().await;
        stream.expect("ready").await;
    }
}

#[tokio::test]
async fn whoever_may_read_may_watch() {
    let node = NODE.lease().await;
    let api = node.api();
    let other = api.create_bucket().await.account;
    let unknown = "11111111-2222-4333-8444-555555555555";
    for (access, is_protected) in [("public-read", false), ("protected", true)] {
        let bucket = api.create_bucket_with(&[("access", access)]).await;
        for path in [bucket.listing_path(), bucket.key_path("k")] {
            let request = || EventRequest::new(node.http(), &path);
            let keys = [
                (None, 401, "unauthorized"),
                (Some(unknown), 401, "unauthorized"),
                (Some(other.as_str()), 403, "forbidden"),
            ];
            for (key, status, code) in keys {
                let request = match key {
                    Some(key) => request().header("api-key", key),
                    None => request(),
                };
                if is_protected {
                    request.refusal().await.assert_error(status, code);
                } else {
                    request.open_ready().await;
                }
            }
            let owners = request().header("api-key", &bucket.account);
            owners.open_ready().await;
        }
    }
}
