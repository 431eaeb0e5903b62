//! Metadata of keys: in a region of three nodes, through nodes and a router, and over regions.
// Helpers of tests panic as tests do.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

use std::time::Duration;

use cloudkv_test_harness::region::MultiRegionCluster;
use cloudkv_test_harness::{HttpResponse, RoutedRegion, eventually};
use serde_json::Value;

const STATE_TIMEOUT: Duration = Duration::from_secs(30);
/// Header of metadata.
const METADATA: &str = "x-cloudkv-metadata";
/// Maximum size of metadata in its compact form, in bytes.
const MAX_METADATA_BYTES: usize = 1024;

#[tokio::test]
async fn metadata_comes_back_compact() {
    let region = RoutedRegion::start().await;
    let clients = region.clients();
    let bucket = clients[0].create_bucket().await;
    // As it is sent and as it comes back: numbers, escapes and the order of fields stay.
    let metadata = [
        (
            r#"{ "b" : 1.50, "a" : [ true ] }"#,
            r#"{"b":1.50,"a":[true]}"#,
        ),
        (
            r#"{"a": "two  words \" \\"}"#,
            r#"{"a":"two  words \" \\"}"#,
        ),
        (r#"{"city": "Z\u00fcrich"}"#, r#"{"city":"Z\u00fcrich"}"#),
        (r#"{"key": "\ud83d\udd11"}"#, r#"{"key":"\ud83d\udd11"}"#),
    ];
    for (index, (writer, reader)) in region.client_pairs().iter().enumerate() {
        let name = format!("k{index}");
        let path = bucket.key_path(&name);
        for (sent, returned) in metadata {
            let put = writer.put(&path, "value").header(METADATA, sent).await;
            let etag = put.assert_status(200).assert_empty().etag();
            for read in [reader.get(&path), reader.head(&path)] {
                let read = read.await;
                assert_eq!(read.assert_status(200).header(METADATA), returned);
                assert_eq!(read.etag(), etag);
            }
            // A cache takes over the headers of a 304 (RFC 9111, 4.3.4).
            let unchanged = reader.get(&path).header("if-none-match", &etag).await;
            assert_eq!(unchanged.assert_status(304).header(METADATA), returned);
            let listed = reader.listed_key(&bucket, &name).await;
            let expected: Value = serde_json::from_str(returned).unwrap();
            assert_eq!(listed["metadata"], expected);
        }
    }
}

#[tokio::test]
async fn a_put_replaces_or_removes_metadata() {
    let region = RoutedRegion::start().await;
    let clients = region.clients();
    let bucket = clients[0].create_bucket().await;
    for (index, (writer, reader)) in region.client_pairs().iter().enumerate() {
        let name = format!("k{index}");
        let path = bucket.key_path(&name);
        for removal in [None, Some("{}"), Some("{ }")] {
            for returned in [r#"{"a":1}"#, r#"{"b":2}"#] {
                let put = writer.put(&path, "value").header(METADATA, returned);
                put.await.assert_status(200);
                let get = reader.get(&path).await;
                assert_eq!(get.assert_status(200).header(METADATA), returned);
            }
            let put = writer.put(&path, "value");
            let put = match removal {
                Some(empty) => put.header(METADATA, empty),
                None => put,
            };
            put.await.assert_status(200);
            let get = reader.get(&path).await;
            let metadata = get.assert_status(200).find_header(METADATA);
            assert_eq!(metadata, None, "after {removal:?}");
            let listed = reader.listed_key(&bucket, &name).await;
            assert_eq!(listed["metadata"], Value::Null);
        }
        // A key that is deleted takes its metadata along.
        let put = writer.put(&path, "value").header(METADATA, r#"{"a":1}"#);
        put.await.assert_status(200);
        writer.delete(&path).await.assert_status(200);
        let get = reader.get(&path).await;
        assert_eq!(get.assert_status(404).find_header(METADATA), None);
    }
}

/// Returns metadata that has this size in its compact form, with spaces in between.
fn spaced_metadata(bytes: usize) -> String {
    let text = "x".repeat(bytes - r#"{"k":""}"#.len());
    format!(r#"{{  "k" :  "{text}"  }}"#)
}

#[tokio::test]
async fn bad_metadata_is_refused_and_nothing_is_written() {
    let region = RoutedRegion::start().await;
    let clients = region.clients();
    let bucket = clients[0].create_bucket().await;
    let kept = r#"{"kept":true}"#;
    let too_long = spaced_metadata(MAX_METADATA_BYTES + 1);
    let bad = [
        "",
        "text",
        "1",
        "null",
        "\"text\"",
        "[1]",
        "{",
        "{\"a\":1}}",
        "{'a':1}",
        "{a:1}",
        "{\"a\":1,}",
        "{\"half of a pair\":\"\\ud83d\"}",
        "{\"city\":\"Z\u{fc}rich\"}",
        &too_long,
    ];
    for (index, api) in clients.iter().enumerate() {
        let path = bucket.key_path(&format!("k{index}"));
        let put = api.put(&path, "kept").header(METADATA, kept).await;
        let etag = put.assert_status(200).etag();
        for metadata in bad {
            for call in [api.put(&path, "never"), api.patch(&path)] {
                let answer = call.header(METADATA, metadata).await;
                assert_eq!(answer.status, 400, "{metadata:?}: {answer:?}");
                answer.assert_error(400, "invalid_header");
            }
        }
        let twice = api.put(&path, "never").header(METADATA, kept);
        let twice = twice.header(METADATA, r#"{"kept":false}"#).await;
        twice.assert_error(400, "invalid_header");
        let get = api.get(&path).await;
        assert_eq!((get.text(), get.etag()), ("kept", etag));
        assert_eq!(get.header(METADATA), kept);
        let longest = spaced_metadata(MAX_METADATA_BYTES);
        let put = api.put(&path, "new").header(METADATA, &longest).await;
        put.assert_status(200);
        let get = api.get(&path).await;
        assert_eq!(get.header(METADATA).len(), MAX_METADATA_BYTES);
    }
}

#[tokio::test]
async fn a_patch_changes_the_metadata_and_keeps_the_rest() {
    let region = RoutedRegion::start().await;
    let clients = region.clients();
    let bucket = clients[0].create_bucket().await;
    let changes = [
        (r#"{ "a" : 2 }"#, Some(r#"{"a":2}"#)),
        ("{}", None),
        (r#"{"b":1}"#, Some(r#"{"b":1}"#)),
    ];
    for (index, (writer, reader)) in region.client_pairs().iter().enumerate() {
        let name = format!("k{index}");
        let path = bucket.key_path(&name);
        let put = writer.put(&format!("{path}?ttl=1h"), "value");
        let put = put.header("content-type", "text/x");
        let put = put.header(METADATA, r#"{"a":1}"#).await;
        let mut etag = put.assert_status(200).etag();
        let before = reader.listed_key(&bucket, &name).await;
        for (sent, returned) in changes {
            let patch = writer.patch(&path).header(METADATA, sent).await;
            let changed = patch.assert_status(200).assert_empty().etag();
            assert_ne!(changed, etag, "a new version");
            etag = changed;
            let get = reader.get(&path).await;
            assert_eq!((get.text(), get.etag()), ("value", etag.clone()));
            assert_eq!(get.find_header(METADATA), returned);
            assert_eq!(get.header("content-type"), "text/x");
            assert_eq!(get.header("expires"), put.header("expires"));
            let listed = reader.listed_key(&bucket, &name).await;
            assert_eq!(listed["expires_at"], before["expires_at"]);
        }
        let patch = writer.patch(&format!("{path}?ttl=2h")).await;
        patch.assert_status(200);
        let get = reader.get(&path).await;
        assert_eq!(get.header(METADATA), r#"{"b":1}"#);
        assert_ne!(get.header("expires"), put.header("expires"));
    }
}

/// Changes the metadata of a key that was seen elsewhere, and retries while the region is behind.
async fn patch_since(
    world: &MultiRegionCluster,
    seat: usize,
    path: &str,
    (token, metadata): (&str, &str),
) -> HttpResponse {
    eventually("the region isn't behind", STATE_TIMEOUT, async || {
        let patch = world.api(seat).patch(path).header(METADATA, metadata);
        let patch = patch.header("x-cloudkv-min-version", token).await;
        if patch.status == 503 {
            patch.assert_error(503, "behind");
            return None;
        }
        Some(patch)
    })
    .await
}

/// A PATCH keeps the value that its region has: with the token of a newer one it must not undo that.
#[tokio::test]
async fn a_patch_with_a_token_changes_what_the_client_has_seen_in_another_region() {
    let world = MultiRegionCluster::start(&["eu", "us", "ap"], 1, 3).await;
    let bucket = world.api(1).create_bucket().await;
    let path = bucket.key_path("k");
    let metadata = |round: usize| format!(r#"{{"round":{round}}}"#);
    world.delay_regions(Duration::from_millis(60));
    let first = world.api(0).put(&path, "value 0").await;
    let mut token = first.header("x-cloudkv-version").to_owned();
    for round in 1..6 {
        let value = format!("value {round}");
        let put = world.api(round % 3).put(&path, value.clone());
        let put = put.header("x-cloudkv-min-version", &token).await;
        let seen = put.assert_status(200).header("x-cloudkv-version");
        let other = (round + 1) % 3;
        let patch = patch_since(&world, other, &path, (seen, &metadata(round))).await;
        token = patch
            .assert_status(200)
            .header("x-cloudkv-version")
            .to_owned();
        let get = world.api(other).get(&path).await;
        assert_eq!((get.text(), get.etag()), (&value[..], patch.etag()));
        assert_eq!(get.header(METADATA), metadata(round));
    }
    world.isolate_region(1);
    let put = world.api(0).put(&path, "cut off").await;
    let token = put.assert_status(200).header("x-cloudkv-version");
    let patch = world.api(1).patch(&format!("{path}?ttl=1h"));
    let patch = patch
        .header("x-cloudkv-min-version", token)
        .unchecked()
        .await;
    patch.assert_error(503, "behind");
    world.network.heal();
    world.wait_bucket_converged(&bucket).await;
    for seat in 0..3 {
        let get = world.api(seat).get(&path).await;
        assert_eq!((get.text(), get.etag()), ("cut off", put.etag()));
    }
    world.wait_no_retained_changes().await;
}
