//! Watching a bucket: events and their fields, and keys that are selected.
// Helpers of tests panic as tests do.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

use std::collections::BTreeMap;
use std::time::Duration;

use cloudkv_test_harness::batches;
use cloudkv_test_harness::watch::{EventRequest, WatchOptions, list_bucket};
use cloudkv_test_harness::{ApiClient, Bucket, NodeLease, SharedNode};
use serde_json::{Value, json};

static NODE: SharedNode = SharedNode::new();

fn watch(node: &NodeLease, bucket: &Bucket, query: &str) -> EventRequest {
    EventRequest::to_bucket(node.http(), bucket, query)
}

async fn delete_bucket(api: &ApiClient, bucket: &Bucket, keys: usize) {
    let path = format!("{}?confirm={keys}", bucket.path());
    let deletion = api.delete(&path).api_key(&bucket.account).await;
    deletion.assert_status(200);
}

#[tokio::test]
async fn a_stream_has_its_headers_and_begins_with_ready() {
    let node = NODE.lease().await;
    let bucket = node.api().create_bucket().await;
    for path in [bucket.listing_path(), bucket.key_path("k")] {
        let request = EventRequest::new(node.http(), &path);
        let mut stream = request.header("origin", "https://example.com").open().await;
        assert_eq!(stream.head.header("content-type"), "text/event-stream");
        assert_eq!(stream.head.header("access-control-allow-origin"), "*");
        assert_eq!(stream.head.find_header("content-length"), None);
        let ready = stream.expect_data("ready").await;
        assert_eq!(ready, json!({"region": "local"}));
        assert_eq!(stream.retry(), Some(Duration::from_secs(2)));
    }
}

#[tokio::test]
async fn each_change_is_told_with_all_fields() {
    let node = NODE.lease().await;
    let api = node.api();
    let bucket = api.create_bucket().await;
    let mut stream = watch(&node, &bucket, "").open_ready().await;
    let path = bucket.key_path("caf\u{e9}/1");

    let put = api.put(&format!("{path}?ttl=1h"), "value");
    let put = put.header("content-type", "text/x").await;
    let etag = put.assert_status(200).etag();
    let told = stream.expect_data("put").await;
    assert_eq!(told, api.listed_key(&bucket, "caf\u{e9}/1").await);
    assert_eq!(told["name"], "caf\u{e9}/1");
    assert_eq!(told["version"], etag.trim_matches('"'));
    assert_eq!(
        (&told["size"], &told["content_type"]),
        (&json!(5), &json!("text/x"))
    );
    assert!(told["expires_at"].is_string() && told["metadata"].is_null());
    assert!(told["modified_at"].is_string(), "{told}");

    let patch = api.patch(&format!("{path}?persist=true"));
    let patch = patch.header("x-cloudkv-metadata", r#"{"a": [1.50]}"#).await;
    patch.assert_status(200);
    let told = stream.expect_data("put").await;
    assert_eq!(told, api.listed_key(&bucket, "caf\u{e9}/1").await);
    assert_eq!(told["version"], patch.etag().trim_matches('"'));
    assert_eq!(told["metadata"], json!({"a": [1.5]}));
    assert!(told["expires_at"].is_null(), "{told}");

    // What changes nothing isn't told.
    let refused = api.put(&path, "never").header("if-none-match", "*").await;
    refused.assert_error(412, "precondition_failed");
    let refused = api.delete(&path).header("if-match", "\"x\"").await;
    refused.assert_error(412, "precondition_failed");
    api.delete(&path).await.assert_status(200);
    let told = stream.expect_data("delete").await;
    assert_eq!(
        told["name"], "caf\u{e9}/1",
        "the deletion is the next event"
    );
    let fields: Vec<&String> = told.as_object().unwrap().keys().collect();
    assert_eq!(fields, ["name", "version"]);

    api.put(&path, "").await.assert_status(200);
    let told = stream.expect_data("put").await;
    assert_eq!(told, api.listed_key(&bucket, "caf\u{e9}/1").await);
    assert_eq!(told["size"], 0);
}

#[tokio::test]
async fn operations_of_a_batch_are_told() {
    let node = NODE.lease().await;
    let api = node.api();
    let bucket = api.create_bucket().await;
    let mut stream = watch(&node, &bucket, "").open_ready().await;
    // In all shards.
    let names: Vec<String> = (0..40).map(|number| format!("k{number}")).collect();
    let puts: Vec<Value> = names.iter().map(|name| batches::put(name, "v")).collect();
    let written = batches::execute(&api, &bucket, &puts).await;
    let mut versions = BTreeMap::new();
    for _ in &names {
        let told = stream.expect_data("put").await;
        versions.insert(told["name"].to_string(), told["version"].clone());
    }
    for outcome in &written {
        let version = versions.remove(&outcome["key"].to_string());
        assert_eq!(version.as_ref(), Some(&outcome["version"]));
    }
    let touch = |name: &String| json!({"op": "touch", "key": name, "ttl": "1h"});
    let mut operations: Vec<Value> = names[..20].iter().map(touch).collect();
    operations.extend(names[20..].iter().map(|name| batches::delete(name)));
    operations.extend([batches::get("k0"), batches::delete("absent")]);
    batches::execute(&api, &bucket, &operations).await;
    let told = stream.take_by_name(40).await;
    for (number, name) in names.iter().enumerate() {
        let expected = if number < 20 { "put" } else { "delete" };
        assert_eq!(told[name].0, expected, "{name}");
    }
}

#[tokio::test]
async fn an_expiry_is_told_when_its_time_comes() {
    let node = NODE.lease().await;
    let api = node.api();
    let bucket = api.create_bucket().await;
    let mut stream = watch(&node, &bucket, "").open_ready().await;
    let persisted = bucket.key_path("persisted");
    let put = api.put(&format!("{persisted}?ttl=3s"), "v").await;
    put.assert_status(200);
    stream.expect("put").await;
    let patch = api.patch(&format!("{persisted}?persist=true")).await;
    patch.assert_status(200);
    stream.expect("put").await;
    // It would have expired before this one.
    let path = bucket.key_path("k");
    let put = api.put(&format!("{path}?ttl=4s"), "v").await;
    let version = put.assert_status(200).etag();
    let written = stream.expect_data("put").await;
    assert_eq!(written["name"], "k");
    let told = stream.expect_data("expire").await;
    assert_eq!(
        told,
        json!({"name": "k", "version": version.trim_matches('"')}),
        "the version is that of the key"
    );
    api.get(&path).await.assert_error(404, "not_found");
    api.delete(&persisted).await.assert_status(200);
    let told = stream.expect_data("delete").await;
    assert_eq!(told["name"], "persisted", "it hasn't expired");
}

#[tokio::test]
async fn a_prefix_or_a_key_selects_what_is_told() {
    let node = NODE.lease().await;
    let api = node.api();
    let bucket = api.create_bucket().await;
    let of_prefix = "?prefix=a%2F%C3%A9";
    let mut prefix = watch(&node, &bucket, of_prefix).open_ready().await;
    let key = bucket.key_path("a/%C3%A9");
    let mut key = EventRequest::new(node.http(), &key).open_ready().await;
    let mut all = watch(&node, &bucket, "?prefix=").open_ready().await;
    let names = ["a", "a/\u{e9}", "a/\u{e9}/b", "a/e", "A/\u{e9}", "b"];
    let puts = names.map(|name| batches::put(name, "v"));
    batches::execute(&api, &bucket, &puts).await;
    let told = all.take_by_name(names.len()).await;
    assert_eq!(told.len(), names.len());
    let told = prefix.take_by_name(2).await;
    let told: Vec<&String> = told.keys().collect();
    assert_eq!(told, ["a/\u{e9}", "a/\u{e9}/b"]);
    assert_eq!(key.expect_data("put").await["name"], "a/\u{e9}");
    // Whatever else was on its way comes before the end.
    delete_bucket(&api, &bucket, names.len()).await;
    for stream in [&mut prefix, &mut key] {
        stream.expect_end().await;
    }
}

#[tokio::test]
async fn values_come_as_text_or_base64() {
    let node = NODE.lease().await;
    let api = node.api();
    let bucket = api.create_bucket().await;
    let mut stream = watch(&node, &bucket, "?values=true").open_ready().await;
    let options = WatchOptions {
        has_values: true,
        ..WatchOptions::new(&[], &bucket)
    };
    let values: [(&[u8], Value); 5] = [
        (b"text", json!({"value": "text"})),
        (b"", json!({"value": ""})),
        (
            "a\nb\r\n: c\rdata: \u{2028}\u{1f511}\0\"".as_bytes(),
            json!({"value": "a\nb\r\n: c\rdata: \u{2028}\u{1f511}\0\""}),
        ),
        (b"\xff\0", json!({"value_base64": "/wA="})),
        (b"cut \xc3", json!({"value_base64": "Y3V0IMM="})),
    ];
    for (number, (value, expected)) in values.iter().enumerate() {
        let name = format!("k{number}");
        let put = api.put(&bucket.key_path(&name), value.to_vec()).await;
        put.assert_status(200);
        let told = stream.expect_data("put").await;
        for field in ["value", "value_base64"] {
            assert_eq!(told.get(field), expected.get(field), "{told}");
        }
        let listed = list_bucket(&api, &options).await.unwrap();
        assert_eq!(told, listed[&name]);
        let patch = api.patch(&bucket.key_path(&format!("{name}?ttl=1h")));
        patch.await.assert_status(200);
        let touched = stream.expect_data("put").await;
        assert_eq!(touched.get("value"), told.get("value"), "{touched}");
        assert_ne!(touched["version"], told["version"]);
    }
    let mut without = watch(&node, &bucket, "?values=false").open_ready().await;
    let put = api.put(&bucket.key_path("k"), "v").await;
    put.assert_status(200);
    let told = without.expect_data("put").await;
    assert_eq!(told, api.listed_key(&bucket, "k").await);
}

#[tokio::test]
async fn a_deleted_bucket_ends_its_streams_and_is_not_found_then() {
    let node = NODE.lease().await;
    let api = node.api();
    let (bucket, other) = (api.create_bucket().await, api.create_bucket().await);
    let key = EventRequest::new(node.http(), &bucket.key_path("k"));
    let mut streams = vec![
        watch(&node, &bucket, "").open_ready().await,
        watch(&node, &bucket, "?prefix=none").open_ready().await,
        watch(&node, &bucket, "?initial=true&values=true")
            .open_ready()
            .await,
        key.open_ready().await,
    ];
    let mut stays = watch(&node, &other, "").open_ready().await;
    api.put(&bucket.key_path("other"), "v")
        .await
        .assert_status(200);
    let token = {
        let told = streams[0].expect("put").await;
        streams[2].expect("put").await;
        told.last_event_id
    };
    delete_bucket(&api, &bucket, 1).await;
    for stream in &mut streams {
        let comments = stream.expect_end().await;
        assert!(!comments.is_empty(), "the reason is told");
    }
    let refusal = key.refusal().await;
    refusal.assert_error(404, "unknown_bucket");
    let resumed = watch(&node, &bucket, "").last_event_id(&token);
    let refusal = resumed.refusal().await;
    refusal.assert_error(404, "unknown_bucket");
    api.put(&other.key_path("k"), "v").await.assert_status(200);
    assert_eq!(stays.expect_data("put").await["name"], "k");
}
