//! Exports of a bucket: their lines, their ends, and who may make them.
// Helpers of tests panic as tests do.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

use cloudkv_test_harness::batches::{self, LINES};
use cloudkv_test_harness::transfer::{ExportedBucket, export};
use cloudkv_test_harness::watch::{BucketCopy, EventRequest, WatchOptions, list_bucket};
use cloudkv_test_harness::{ApiClient, Bucket, SharedNode};
use serde_json::{Value, json};

static NODE: SharedNode = SharedNode::new();

async fn listed(api: &ApiClient, bucket: &Bucket, prefix: &str) -> BucketCopy {
    let options = WatchOptions {
        prefix: prefix.to_owned(),
        has_values: true,
        ..WatchOptions::new(&[], bucket)
    };
    list_bucket(api, &options).await.unwrap()
}

/// Returns the line of a key.
fn line<'a>(exported: &'a ExportedBucket, key: &str) -> &'a Value {
    let mut lines = exported.keys.iter();
    let line = lines.find(|line| line["key"] == key);
    line.unwrap_or_else(|| panic!("{key} is exported: {exported:?}"))
}

#[tokio::test]
async fn a_line_has_all_of_a_key() {
    let node = NODE.lease().await;
    let api = node.api();
    let bucket = api.create_bucket().await;
    let put = async |name: &str, value: &[u8]| {
        let put = api.put(&bucket.key_path(name), value.to_vec()).await;
        put.assert_status(200).etag().trim_matches('"').to_owned()
    };
    let version = put("plain", b"value").await;
    put("empty", b"").await;
    put("binary", b"\0\xff").await;
    put("lines", "a\n\"b\"\r\n\u{2028}".as_bytes()).await;
    put("\u{1f511}/a b", b"v").await;
    let full = api.put(&format!("{}?ttl=90m", bucket.key_path("full")), "v");
    let full = full.header("content-type", "text/html; charset=utf-8");
    let full = full.header("x-cloudkv-metadata", r#"{ "b": [1, null], "a": "\u00fc" }"#);
    full.await.assert_status(200);
    put("deleted", b"v").await;
    let deletion = api.delete(&bucket.key_path("deleted")).await;
    deletion.assert_status(200);

    let exported = export(&api, &bucket, "").await;
    exported.assert_equals(&listed(&api, &bucket, "").await);
    let plain = json!({"key": "plain", "value": "value", "expires_at": null, "version": version});
    assert_eq!(*line(&exported, "plain"), plain);
    assert_eq!(line(&exported, "empty")["value"], "");
    assert_eq!(line(&exported, "binary")["value_base64"], "AP8=");
    assert_eq!(line(&exported, "lines")["value"], "a\n\"b\"\r\n\u{2028}");
    let full = line(&exported, "full");
    assert_eq!(full["content_type"], "text/html; charset=utf-8");
    assert_eq!(full["metadata"], json!({"b": [1, null], "a": "\u{fc}"}));
    assert!(full["expires_at"].is_string(), "{full}");
    let text = std::str::from_utf8(&exported.body).unwrap();
    assert!(text.contains(r#""expires_at":null"#), "it is written out");
    let metadata = r#""metadata":{"b":[1,null],"a":"\u00fc"}"#;
    assert!(text.contains(metadata), "it is written as it is: {text}");
}

#[tokio::test]
async fn the_lines_are_those_of_a_batch() {
    let node = NODE.lease().await;
    let api = node.api();
    let (bucket, other) = (api.create_bucket().await, api.create_bucket().await);
    let put = json!({"op": "put", "key": "k", "value_base64": "AP8=", "ttl": "1h",
        "metadata": {"a": 1}});
    batches::execute(&api, &bucket, &[put, batches::put("l", "v")]).await;
    let exported = export(&api, &bucket, "").await;
    // Batches have no versions.
    let without_version = exported.keys.iter().map(|line| {
        let mut line = line.clone();
        line.as_object_mut().unwrap().remove("version");
        line
    });
    let operations: Vec<Value> = without_version.collect();
    let outcomes = batches::execute(&api, &other, &operations).await;
    assert!(
        outcomes.iter().all(|it| it["status"] == 200),
        "{outcomes:?}"
    );
    let copied = export(&api, &other, "").await;
    for (key, field) in [("k", "value_base64"), ("k", "metadata"), ("l", "value")] {
        assert_eq!(line(&copied, key)[field], line(&exported, key)[field]);
    }
}

#[tokio::test]
async fn a_prefix_selects_keys_and_an_empty_export_is_whole() {
    let node = NODE.lease().await;
    let api = node.api();
    let bucket = api.create_bucket().await;
    let empty = export(&api, &bucket, "").await;
    assert!(empty.keys.is_empty());
    assert!(empty.since.is_some(), "{empty:?}");
    let names = (0..2000).map(|number| format!("{}/{number}", ["a", "\u{e9}"][number % 2]));
    let puts: Vec<Value> = names.map(|name| batches::put(&name, "v")).collect();
    for puts in puts.chunks(1000) {
        batches::execute(&api, &bucket, puts).await;
    }
    for (query, prefix) in [
        ("", ""),
        ("?prefix=%C3%A9%2F1", "\u{e9}/1"),
        ("?prefix=b", "b"),
    ] {
        let exported = export(&api, &bucket, query).await;
        exported.assert_equals(&listed(&api, &bucket, prefix).await);
    }
    let all = export(&api, &bucket, "?prefix=").await;
    assert_eq!(all.keys.len(), 2000);
}

#[tokio::test]
async fn a_watch_goes_on_where_an_export_has_ended() {
    let node = NODE.lease().await;
    let api = node.api();
    let bucket = api.create_bucket().await;
    api.put_numbered(&bucket, "k", 20, "v").await;
    let exported = export(&api, &bucket, "").await;
    let since = exported.since.expect("a position");
    let put = api.put(&bucket.key_path("k5"), "other").await;
    let version = put.assert_status(200).etag();
    let query = format!("?since={since}");
    let request = EventRequest::to_bucket(node.http(), &bucket, &query);
    let mut stream = request.open().await;
    loop {
        let event = stream.next_event().await.expect("the write is told");
        assert_ne!(event.name, "reset", "{event:?}");
        if event.data.contains(version.trim_matches('"')) {
            break;
        }
    }
    // As of any other position, of its bucket only.
    let other = api.create_bucket().await;
    let request = EventRequest::to_bucket(node.http(), &other, &query);
    let refusal = request.refusal().await;
    refusal.assert_error(400, "invalid_resume_token");
}

#[tokio::test]
async fn only_the_owner_exports() {
    let node = NODE.lease().await;
    let api = node.api();
    let other = api.create_bucket().await.account;
    for access in ["public", "public-read", "protected"] {
        let bucket = api.create_bucket_with(&[("access", access)]).await;
        let path = format!("{}/export", bucket.path());
        api.get(&path).await.assert_error(401, "unauthorized");
        let unknown = api
            .get(&path)
            .api_key("11111111-2222-4333-8444-555555555555");
        unknown.await.assert_error(401, "unauthorized");
        let others = api.get(&path).api_key(&other).await;
        others.assert_error(403, "forbidden");
        let head = api.head(&path).await;
        head.assert_status(401).assert_empty();
        let head = api.head(&path).api_key(&bucket.account).await;
        head.assert_status(200).assert_empty();
        assert_eq!(head.header("content-type"), LINES);
        let get = api.get(&path).api_key(&bucket.account).await;
        assert_eq!(get.assert_status(200).header("cache-control"), "no-store");
        for query in ["?colour=red", "?limit=5", "?prefix=a&prefix=b"] {
            let get = api.get(&format!("{path}{query}")).api_key(&bucket.account);
            get.await.assert_error(400, "invalid_parameter");
        }
        let post = api.post(&path).api_key(&bucket.account).await;
        post.assert_error(405, "method_not_allowed");
    }
    let unknown = api.get("/buckets/a0000000000000/export").api_key(&other);
    unknown.await.assert_error(404, "unknown_bucket");
}
