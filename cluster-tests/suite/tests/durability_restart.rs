//! Content of a data directory across restarts, and its lock.
// Helpers of tests panic as tests do.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

use std::time::{Duration, SystemTime};

use cloudkv_test_harness::run_to_exit;
use cloudkv_test_harness::{ApiClient, Node, NodeOptions};
use serde_json::Value;

#[tokio::test]
async fn a_data_directory_is_locked_by_one_process() {
    let node = Node::start().await;
    let bucket = node.api().create_bucket().await;
    let directory = node.data_dir();
    let second = run_to_exit(NodeOptions::default().command(&directory)).await;
    assert!(second.code.is_some_and(|code| code != 0), "{second:?}");
    second.assert_mentions(&[directory.to_str().expect("a path of UTF-8")]);
    // The first one goes on, and its addresses stay.
    node.api()
        .put(&bucket.key_path("k"), "v")
        .await
        .assert_status(200);
    let written = std::fs::read_to_string(directory.join("addresses.json")).unwrap();
    assert!(written.contains(&node.http().to_string()), "{written}");
}

#[tokio::test]
async fn the_number_of_shards_of_a_directory_is_fixed() {
    let mut node = Node::start().await;
    let bucket = node.api().create_bucket().await;
    node.api()
        .put(&bucket.key_path("k"), "v")
        .await
        .assert_status(200);
    node.terminate().await;
    let changed = NodeOptions {
        shards: Some(4),
        ..NodeOptions::default()
    };
    let refusal = run_to_exit(changed.command(&node.data_dir())).await;
    assert!(refusal.code.is_some_and(|code| code != 0), "{refusal:?}");
    refusal.assert_mentions(&["4", "8", "shards"]);
    node.restart().await;
    assert_eq!(
        node.api()
            .get(&bucket.key_path("k"))
            .await
            .assert_status(200)
            .text(),
        "v"
    );
}

#[tokio::test]
async fn keys_with_their_types_times_and_deletes_survive_a_crash_and_a_stop() {
    let mut node = Node::start().await;
    let api = node.api();
    let bucket = api.create_bucket().await;
    let put = |name: &str| {
        api.put(&bucket.key_path(name), "v")
            .header("content-type", "text/x")
    };
    for name in [
        "deleted",
        "kept",
        "for-a-second?ttl=1s",
        "for-an-hour?ttl=1h",
        "for-two-s?ttl=2s",
    ] {
        put(name).await.assert_status(200);
    }
    api.delete(&bucket.key_path("deleted"))
        .await
        .assert_status(200);
    let kept = api.get(&bucket.key_path("kept")).await;
    let hour = api.get(&bucket.key_path("for-an-hour")).await;
    let both_expired = SystemTime::now() + Duration::from_millis(2300);
    for crash in [true, false] {
        if crash {
            node.kill_9();
            // Keys expire while the node is down.
            let remaining = both_expired
                .duration_since(SystemTime::now())
                .unwrap_or_default();
            tokio::time::sleep(remaining).await;
        } else {
            node.terminate().await;
        }
        node.restart().await;
        let api = node.api();
        for name in ["deleted", "for-a-second", "for-two-s"] {
            api.get(&bucket.key_path(name))
                .await
                .assert_error(404, "not_found");
        }
        for (name, before) in [("kept", &kept), ("for-an-hour", &hour)] {
            let after = api.get(&bucket.key_path(name)).await;
            for header in ["etag", "last-modified", "expires", "content-type"] {
                assert_eq!(
                    after.find_header(header),
                    before.find_header(header),
                    "{name}"
                );
            }
            assert_eq!(after.assert_status(200).text(), "v");
        }
        assert_eq!(
            api.get(&bucket.listing_path()).await.lines(),
            ["for-an-hour", "kept"]
        );
    }
    let newer = node.api().put(&bucket.key_path("kept"), "new").await.etag();
    assert!(newer > kept.etag(), "versions rise over restarts: {newer}");
}

#[tokio::test]
async fn buckets_and_accounts_survive_a_crash_and_a_stop() {
    let mut node = Node::start().await;
    let api = node.api();
    let first = api.create_bucket_with(&[("comment", "a note")]).await;
    let second = api
        .create_bucket_for(&first.account, &[("access", "protected")])
        .await;
    let deleted = api.create_bucket_for(&first.account, &[]).await;
    let delete = api
        .delete(&format!("{}?confirm=0", deleted.path()))
        .api_key(&first.account);
    delete.await.assert_status(200);
    let change = api
        .patch(&first.path())
        .api_key(&first.account)
        .query(&[("plan", "pro")]);
    change.await.assert_status(200);
    let before = descriptions(&api, &first.account).await;
    for crash in [true, false] {
        if crash {
            node.kill_9();
        } else {
            node.terminate().await;
        }
        node.restart().await;
        let api = node.api();
        assert_eq!(descriptions(&api, &first.account).await, before);
        api.get(&second.key_path("k"))
            .await
            .assert_error(401, "unauthorized");
        let get = api.get(&second.key_path("k")).api_key(&first.account).await;
        get.assert_error(404, "not_found");
        api.put(&deleted.key_path("k"), "v")
            .await
            .assert_error(404, "unknown_bucket");
        let newest = api
            .create_bucket_for(&first.account, &[("plan", "pro")])
            .await;
        let path = format!("{}?confirm=0", newest.path());
        api.delete(&path)
            .api_key(&first.account)
            .await
            .assert_status(200);
    }
}

/// Returns an account's buckets without the counters, which the test's own requests change.
async fn descriptions(api: &ApiClient, account: &str) -> Vec<Value> {
    let mut buckets = api.get("/buckets").api_key(account).await.json()["buckets"].take();
    let buckets = buckets.as_array_mut().expect("a list");
    for bucket in buckets.iter_mut() {
        let fields = bucket.as_object_mut().expect("a bucket");
        fields.retain(|name, _| !name.starts_with("key_get_"));
    }
    std::mem::take(buckets)
}
