//! Estimates and counters in `GET /buckets`, published at most some seconds late.
// Helpers of tests panic as tests do.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

use std::time::Duration;

use cloudkv_test_harness::{ApiClient, Bucket, SharedNode, eventually};
use serde_json::{Value, json};

static NODE: SharedNode = SharedNode::new();

/// Counters are published within 10 s; the rest is for a busy machine.
const PUBLISH_TIMEOUT: Duration = Duration::from_secs(15);

async fn wait_published(api: &ApiClient, bucket: &Bucket, field: &str, expected: &Value) {
    let what = format!("{field} is published as {expected}");
    eventually(&what, PUBLISH_TIMEOUT, async || {
        (api.bucket_summary(bucket).await[field] == *expected).then_some(())
    })
    .await;
}

#[tokio::test]
async fn reads_are_counted_as_hits_and_misses() {
    let node = NODE.lease().await;
    let api = node.api();
    let (bucket, idle) = (api.create_bucket().await, api.create_bucket().await);
    api.put(&bucket.key_path("k"), "v").await.assert_status(200);
    for _ in 0..7 {
        api.get(&bucket.key_path("k")).await.assert_status(200);
    }
    api.head(&bucket.key_path("k")).await.assert_status(200);
    api.get(&bucket.key_path("k"))
        .header("if-none-match", "*")
        .await
        .assert_status(304);
    for _ in 0..3 {
        api.get(&bucket.key_path("absent")).await.assert_status(404);
    }
    api.head(&bucket.key_path("absent"))
        .await
        .assert_status(404);
    // Requests that read no key don't count.
    api.get(&bucket.listing_path()).await.assert_status(200);
    api.get(&format!("{}?prefix=x", bucket.listing_path()))
        .await
        .assert_status(404);
    api.delete(&bucket.key_path("absent"))
        .await
        .assert_status(200);
    api.get(&bucket.key_path("k%zz")).await.assert_status(400);
    wait_published(&api, &bucket, "key_get_success", &json!(9)).await;
    wait_published(&api, &bucket, "key_get_failed", &json!(4)).await;
    wait_published(&api, &bucket, "estimated_keys", &json!(1)).await;
    let idle = api.bucket_summary(&idle).await;
    assert_eq!(
        (&idle["key_get_success"], &idle["key_get_failed"]),
        (&json!(0), &json!(0))
    );
}

#[tokio::test]
async fn a_bucket_is_deleted_with_the_number_that_was_published_last() {
    let node = NODE.lease().await;
    let api = node.api();
    let bucket = api.create_bucket().await;
    for name in ["a", "b", "c", "d"] {
        api.put(&bucket.key_path(name), "v")
            .await
            .assert_status(200);
    }
    api.delete(&bucket.key_path("d")).await.assert_status(200);
    wait_published(&api, &bucket, "estimated_keys", &json!(3)).await;
    api.put(&bucket.key_path("e"), "v").await.assert_status(200);
    let delete = |confirm: u32| {
        let path = format!("{}?confirm={confirm}", bucket.path());
        api.delete(&path).api_key(&bucket.account).into_future()
    };
    delete(7).await.assert_error(409, "confirm_mismatch");
    delete(3).await.assert_status(200);
    api.get(&bucket.key_path("a"))
        .await
        .assert_error(404, "unknown_bucket");
}

#[tokio::test]
async fn zero_deletes_a_bucket_only_while_no_key_is_live_in_it() {
    let node = NODE.lease().await;
    let api = node.api();
    let bucket = api.create_bucket().await;
    let delete = || {
        let path = format!("{}?confirm=0", bucket.path());
        api.delete(&path).api_key(&bucket.account).into_future()
    };
    assert_eq!(api.bucket_summary(&bucket).await["estimated_keys"], 0);
    let (stays, expires) = (bucket.key_path("stays"), bucket.key_path("expires"));
    api.put(&stays, "v").await.assert_status(200);
    api.put(&format!("{expires}?ttl=5s"), "v")
        .await
        .assert_status(200);
    let refused = delete().await;
    refused.assert_error(409, "confirm_mismatch");
    assert_eq!(refused.json()["keys"], 2, "the answer has the right number");
    api.delete(&stays).await.assert_status(200);
    eventually("the other key expires", PUBLISH_TIMEOUT, async || {
        (api.head(&expires).await.status == 404).then_some(())
    })
    .await;
    delete().await.assert_status(200);
    api.get(&stays).await.assert_error(404, "unknown_bucket");
}
