//! Imports into a bucket: lines of all kinds, modes, errors, and who may make them.
// Helpers of tests panic as tests do.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

use cloudkv_test_harness::batches;
use cloudkv_test_harness::transfer::{
    LineClient, complete_lines, export, import, import_end, import_lines,
};
use cloudkv_test_harness::{ApiClient, Bucket, NodeLease, SharedNode};
use serde_json::{Value, json};

static NODE: SharedNode = SharedNode::new();

/// Returns numbers of the last line: imported, skipped, failed.
fn numbers(end: &Value) -> [u64; 3] {
    ["imported", "skipped", "failed"].map(|field| end[field].as_u64().unwrap())
}

/// Returns lines and codes of the listed errors, each of which has a message.
fn errors(end: &Value) -> Vec<(u64, &str)> {
    let errors = end["errors"].as_array().unwrap().iter();
    errors
        .map(|error| {
            assert!(!error["message"].as_str().unwrap().is_empty(), "{error}");
            let line = error["line"].as_u64().unwrap();
            (line, error["error"].as_str().unwrap())
        })
        .collect()
}

async fn value(api: &ApiClient, bucket: &Bucket, key: &str) -> String {
    let get = api.get(&bucket.key_path(key)).await;
    get.assert_status(200).text().to_owned()
}

#[tokio::test]
async fn an_import_of_an_export_is_equal_in_all_but_versions() {
    let node = NODE.lease().await;
    let api = node.api();
    let (bucket, copy) = (api.create_bucket().await, api.create_bucket().await);
    let mut puts: Vec<Value> = (0..500)
        .map(|number| batches::put(&format!("k{number}"), &"v".repeat(number)))
        .collect();
    puts.push(
        json!({"op": "put", "key": "full", "value_base64": "AP8=", "ttl": "2h",
        "metadata": {"b": [1.50, null], "a": "\u{fc}"}}),
    );
    puts.push(json!({"op": "put", "key": "\u{1f511}/\"", "value": "a\n\u{2028}"}));
    batches::execute(&api, &bucket, &puts).await;
    let typed = api.put(&bucket.key_path("typed"), "<p>");
    let typed = typed.header("content-type", "text/html; charset=utf-8");
    typed.await.assert_status(200);

    let exported = export(&api, &bucket, "").await;
    // The last line of an export may stay.
    let body = exported.body.clone();
    let end = import_end(&import(&api, &copy, "", body).await);
    assert_eq!(numbers(&end), [503, 0, 0], "{end}");
    let copied = export(&api, &copy, "").await;
    let without_versions = |keys: &[Value]| {
        let mut keys = keys.to_vec();
        keys.sort_by_key(|line| line["key"].to_string());
        for line in &mut keys {
            line.as_object_mut().unwrap().remove("version");
        }
        keys
    };
    assert_eq!(
        without_versions(&copied.keys),
        without_versions(&exported.keys)
    );
}

#[tokio::test]
async fn the_mode_says_what_becomes_of_keys_that_exist() {
    let node = NODE.lease().await;
    let api = node.api();
    let bucket = api.create_bucket().await;
    let lines = [
        json!({"key": "old", "value": "imported"}),
        json!({"key": "new", "value": "imported"}),
    ];
    for (query, expected, old) in [
        ("?mode=skip", [1, 1, 0], "before"),
        ("", [2, 0, 0], "imported"),
        ("?mode=overwrite", [2, 0, 0], "imported"),
    ] {
        api.put(&bucket.key_path("old"), "before")
            .await
            .assert_status(200);
        api.delete(&bucket.key_path("new")).await;
        let end = import_lines(&api, &bucket, query, &lines).await;
        assert_eq!(numbers(&end), expected, "{query}");
        assert_eq!(value(&api, &bucket, "old").await, old, "{query}");
        assert_eq!(value(&api, &bucket, "new").await, "imported", "{query}");
    }
    // Of a key's lines, the last one counts, or the first one that isn't skipped.
    let twice: Vec<Value> = (0..5)
        .map(|number| json!({"key": "twice", "value": number.to_string()}))
        .collect();
    let end = import_lines(&api, &bucket, "?mode=skip", &twice).await;
    assert_eq!(numbers(&end), [1, 4, 0]);
    assert_eq!(value(&api, &bucket, "twice").await, "0");
    let end = import_lines(&api, &bucket, "", &twice).await;
    assert_eq!(numbers(&end), [5, 0, 0]);
    assert_eq!(value(&api, &bucket, "twice").await, "4");
}

#[tokio::test]
async fn newer_lines_replace_older_keys_alone() {
    let node = NODE.lease().await;
    let api = node.api();
    let (bucket, copy) = (api.create_bucket().await, api.create_bucket().await);
    for name in ["changed", "kept"] {
        api.put(&copy.key_path(name), "of the copy")
            .await
            .assert_status(200);
    }
    for name in ["changed", "kept", "absent"] {
        api.put(&bucket.key_path(name), "exported")
            .await
            .assert_status(200);
    }
    let exported = export(&api, &bucket, "").await;
    api.put(&copy.key_path("kept"), "later")
        .await
        .assert_status(200);
    let end = import_lines(&api, &copy, "?mode=newer", &exported.keys).await;
    assert_eq!(numbers(&end), [2, 1, 0]);
    assert_eq!(value(&api, &copy, "changed").await, "exported");
    assert_eq!(value(&api, &copy, "absent").await, "exported");
    assert_eq!(value(&api, &copy, "kept").await, "later");
    // Once more, nothing changes: what was imported has newer versions.
    let end = import_lines(&api, &copy, "?mode=newer", &exported.keys).await;
    assert_eq!(numbers(&end), [0, 3, 0]);
    let without = [json!({"key": "k", "value": "v"})];
    let end = import_lines(&api, &copy, "?mode=newer", &without).await;
    assert_eq!(errors(&end), [(1, "invalid_batch")], "{end}");
}

#[tokio::test]
async fn broken_lines_fail_alone_and_are_listed() {
    let node = NODE.lease().await;
    let api = node.api();
    let bucket = api.create_bucket().await;
    let long = json!({"key": "k".repeat(65), "value": "v"}).to_string();
    let large = json!({"key": "large", "value": "v".repeat(4097)}).to_string();
    let lines = [
        r#"{"key":"first","value":"v"}"#,
        "{",
        "",
        r#"["key"]"#,
        r#"{"op":"get","key":"first"}"#,
        r#"{"op":"delete","key":"first"}"#,
        r#"{"key":"k","vlaue":"v"}"#,
        r#"{"key":"k"}"#,
        r#"{"value":"v"}"#,
        r#"{"key":"","value":"v"}"#,
        &long,
        &large,
        r#"{"key":"k","value_base64":"*"}"#,
        r#"{"key":"k","value":"v","metadata":[]}"#,
        r#"{"key":"k","value":"v","if_match":"*"}"#,
        r#"{"key":"k","value":"v","ttl":"1h","expires_at":null}"#,
        r#"{"key":"expired","value":"v","expires_at":"2001-01-01T00:00:00Z"}"#,
        r#"{"key":"last","value":"v"}"#,
    ];
    // Without a newline at the end.
    let end = import_end(&import(&api, &bucket, "", lines.join("\n")).await);
    assert_eq!(numbers(&end), [2, 1, 14], "{end}");
    let codes = [
        (2, "invalid_batch"),
        (4, "invalid_batch"),
        (5, "invalid_batch"),
        (6, "invalid_batch"),
        (7, "invalid_batch"),
        (8, "invalid_batch"),
        (9, "invalid_batch"),
        (10, "invalid_key"),
        (11, "invalid_key"),
        (12, "value_too_large"),
        (13, "invalid_batch"),
        (14, "invalid_batch"),
        (15, "invalid_batch"),
        (16, "invalid_batch"),
    ];
    assert_eq!(errors(&end), codes, "{end}");
    let of_large = &end["errors"][9];
    assert_eq!(of_large["key"], "large", "{of_large}");
    assert_eq!(api.list(&bucket).await, ["first", "last"]);

    let broken = "x\r\n".repeat(250) + r#"{"key":"k","value":"v"}"#;
    let end = import_end(&import(&api, &bucket, "", broken).await);
    assert_eq!(numbers(&end), [1, 0, 250]);
    let listed: Vec<u64> = errors(&end).into_iter().map(|(line, _)| line).collect();
    assert_eq!(listed, (1..=100).collect::<Vec<_>>());
}

#[tokio::test]
async fn a_line_that_is_too_long_fails_alone() {
    let node = NODE.lease().await;
    let api = node.api();
    let bucket = api.create_bucket().await;
    let line = |name: &str| format!("{{\"key\":\"{name}\",\"value\":\"v\"}}\n");
    let long = format!("{{\"key\":\"k\",\"value\":\"{}\"}}\n", "v".repeat(9 << 20));
    let body = [line("a"), long, line("b")].concat();
    let end = import_end(&import(&api, &bucket, "", body).await);
    assert_eq!(numbers(&end), [2, 0, 1], "{end}");
    assert_eq!(errors(&end), [(2, "invalid_batch")]);
    assert_eq!(api.list(&bucket).await, ["a", "b"]);
}

#[tokio::test]
async fn lines_of_workers_kv_are_taken() {
    let node = NODE.lease().await;
    let api = node.api();
    let bucket = api.create_bucket().await;
    let lines = [
        json!({"key": "plain", "value": "v"}),
        json!({"key": "base64", "value": "AP8=", "base64": true}),
        json!({"key": "text", "value": "AP8=", "base64": false}),
        json!({"key": "ttl", "value": "v", "expiration_ttl": 3600}),
        json!({"key": "at", "value": "v", "expiration": 2_840_140_800_u64}),
        json!({"key": "past", "value": "v", "expiration": 978_307_200}),
        json!({"key": "metadata", "value": "v", "metadata": {"a": [1]}}),
    ];
    let end = import_lines(&api, &bucket, "", &lines).await;
    assert_eq!(numbers(&end), [6, 1, 0], "{end}");
    let get = api.get(&bucket.key_path("base64")).await;
    assert_eq!(&get.body[..], b"\0\xff");
    assert_eq!(value(&api, &bucket, "text").await, "AP8=");
    let at = api.listed_key(&bucket, "at").await;
    assert_eq!(at["expires_at"], "2060-01-01T00:00:00.000000Z");
    let ttl = api.listed_key(&bucket, "ttl").await;
    assert!(ttl["expires_at"].is_string(), "{ttl}");
    let metadata = api.listed_key(&bucket, "metadata").await;
    assert_eq!(metadata["metadata"], json!({"a": [1]}));
    let get = api.get(&bucket.key_path("past")).await;
    get.assert_error(404, "not_found");
    let array = serde_json::to_string(&lines).unwrap();
    let refused = import(&api, &bucket, "", array).await;
    refused.assert_error(400, "invalid_body");
}

#[tokio::test]
async fn only_the_owner_imports() {
    let node = NODE.lease().await;
    let api = node.api();
    let other = api.create_bucket().await.account;
    let line = r#"{"key":"k","value":"v"}"#;
    for access in ["public", "protected"] {
        let bucket = api.create_bucket_with(&[("access", access)]).await;
        let path = format!("{}/import", bucket.path());
        let post = api.post(&path).body(line).await;
        post.assert_error(401, "unauthorized");
        let post = api.post(&path).body(line).api_key(&other).await;
        post.assert_error(403, "forbidden");
        for query in ["?mode=all", "?mode=", "?colour=red", "?mode=skip&mode=skip"] {
            let post = api.post(&format!("{path}{query}")).body(line);
            let post = post.api_key(&bucket.account).await;
            post.assert_error(400, "invalid_parameter");
        }
        let get = api.get(&path).api_key(&bucket.account).await;
        get.assert_error(405, "method_not_allowed");
        let end = import_lines(&api, &bucket, "", &[]).await;
        assert_eq!(numbers(&end), [0, 0, 0], "nothing has been written");
        // With no type, and with that of curl.
        for content_type in ["", "application/x-www-form-urlencoded"] {
            let post = api.post(&path).body(line).api_key(&bucket.account);
            let post = match content_type {
                "" => post,
                name => post.header("content-type", name),
            };
            assert_eq!(numbers(&import_end(&post.await)), [1, 0, 0]);
        }
    }
    let unknown = api.post("/buckets/a0000000000000/import").body(line);
    let unknown = unknown.api_key(&other).await;
    unknown.assert_error(404, "unknown_bucket");
}

/// Imports lines piece by piece, and reads what the answer tells of it.
async fn import_slowly(node: &NodeLease, client: &LineClient) {
    let bucket = node.api().create_bucket().await;
    let upload = client.import(&bucket, "");
    for number in 0..20 {
        // Lines in pieces, and several in one.
        let line = format!("{{\"key\":\"a{number}\",\"value\":\"v\"}}\n");
        let (begin, rest) = line.split_at(number + 1);
        let next = format!("{{\"key\":\"b{number}\",\"value\":\"v\"}}\n");
        assert!(upload.send(begin.to_owned()).await);
        assert!(upload.send(format!("{rest}{next}")).await);
    }
    let mut stream = upload.finish().await.unwrap();
    assert_eq!(stream.head.status, 200, "{:?}", stream.head);
    let mut last = stream.expect_line().await;
    while last["end"] != true {
        last = stream.expect_line().await;
    }
    assert_eq!(numbers(&last), [40, 0, 0]);
    assert_eq!(stream.remaining().await, (vec![], true));
}

#[tokio::test]
async fn a_body_may_come_in_pieces() {
    let node = NODE.lease().await;
    import_slowly(&node, &LineClient::http1(node.http())).await;
    import_slowly(&node, &LineClient::http2(node.http())).await;
}

#[tokio::test]
async fn an_incomplete_export_is_told_apart() {
    let node = NODE.lease().await;
    let api = node.api();
    let bucket = api.create_bucket().await;
    let lines = [
        json!({"key": "k", "value": "v"}),
        json!({"error": "unavailable", "message": "a shard has no leader"}),
    ];
    let text = lines.map(|line| line.to_string()).join("\n");
    let answer = import(&api, &bucket, "", text).await;
    let end = import_end(&answer);
    assert_eq!(numbers(&end), [1, 0, 1]);
    assert_eq!(errors(&end), [(2, "invalid_batch")]);
    let message = end["errors"][0]["message"].as_str().unwrap();
    assert!(message.contains("unavailable"), "{message}");
    assert!(!complete_lines(&answer).is_empty());
}
