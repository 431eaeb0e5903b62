//! Batches: in a region of three nodes, through nodes and a router.
// Helpers of tests panic as tests do.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

use std::time::Duration;

use cloudkv_test_harness::batches::{
    CONDITION_FAILED, LINES, NOT_FOUND, OK, delete, execute, get, lines_of, post, put, statuses,
};
use cloudkv_test_harness::{RoutedRegion, eventually};
use serde_json::{Value, json};

const STATE_TIMEOUT: Duration = Duration::from_secs(60);

#[tokio::test]
async fn operations_on_one_key_are_executed_in_their_order() {
    let region = RoutedRegion::start().await;
    let bucket = region.router.api().create_bucket().await;
    for (writer, reader) in region.client_pairs() {
        // In each shard some.
        let keys: Vec<String> = (0..12).map(|number| format!("k{number}")).collect();
        let of_key = |key: &String| {
            [
                delete(key),
                get(key),
                put(key, "first"),
                json!({"op": "put", "key": key, "value": "x", "if_none_match": "*"}),
                get(key),
                get(key),
                json!({"key": key, "value": "second", "if_match": "*", "ttl": "1h"}),
                json!({"op": "touch", "key": key, "persist": true, "metadata": {"n": 1}}),
                get(key),
                delete(key),
                json!({"op": "touch", "key": key, "ttl": 60}),
                get(key),
                put(key, "last"),
            ]
        };
        let operations: Vec<Value> = keys.iter().flat_map(of_key).collect();
        let outcomes = execute(&writer, &bucket, &operations).await;
        for outcomes in outcomes.chunks(13) {
            assert_eq!(
                statuses(outcomes),
                [
                    OK,
                    NOT_FOUND,
                    OK,
                    CONDITION_FAILED,
                    OK,
                    OK,
                    OK,
                    OK,
                    OK,
                    OK,
                    NOT_FOUND,
                    NOT_FOUND,
                    OK
                ],
                "{outcomes:#?}"
            );
            let [first, again, touched] = [4, 5, 8].map(|at| &outcomes[at]);
            assert_eq!((&first["value"], first), (&json!("first"), again));
            assert_eq!(first["version"], outcomes[2]["version"]);
            assert!(outcomes[6]["expires_at"].is_string() && outcomes[7]["expires_at"].is_null());
            assert_eq!(touched["value"], "second");
            assert_eq!(touched["metadata"], json!({"n": 1}));
            assert_eq!(touched["version"], outcomes[7]["version"]);
        }
        for key in &keys {
            let read = reader.get(&bucket.key_path(key)).await;
            assert_eq!(read.assert_status(200).text(), "last");
        }
    }
}

#[tokio::test]
async fn each_operation_has_its_own_outcome() {
    let region = RoutedRegion::start().await;
    let bucket = region.router.api().create_bucket().await;
    for api in region.clients() {
        let (long_key, long_value) = ("k".repeat(65), "v".repeat(4097));
        let old = execute(&api, &bucket, &[put("k", "old"), delete("absent")]).await;
        let etag = old[0]["version"].as_str().unwrap();
        let operations = [
            put("k", "new"),
            json!({"key": "k", "value": "v", "if_match": etag}),
            get("absent"),
            json!({"op": "delete", "key": "absent", "if_match": "*"}),
            json!({"op": "touch", "key": "absent", "ttl": 5, "if_none_match": "*"}),
            put("large", &long_value),
            put(&long_key, "v"),
            put("", "v"),
            put("con\u{7}trol", "v"),
            get(&long_key),
            put("other", "v"),
        ];
        let outcomes = execute(&api, &bucket, &operations).await;
        let invalid_key = (400, "invalid_key");
        assert_eq!(
            statuses(&outcomes),
            [
                OK,
                CONDITION_FAILED,
                NOT_FOUND,
                CONDITION_FAILED,
                NOT_FOUND,
                (413, "value_too_large"),
                invalid_key,
                invalid_key,
                invalid_key,
                invalid_key,
                OK
            ],
            "{outcomes:#?}"
        );
        for outcome in &outcomes {
            let is_error = outcome["error"].is_string();
            assert_eq!(outcome["message"].is_string(), is_error, "{outcome}");
            assert_eq!(outcome["version"].is_string(), !is_error, "{outcome}");
        }
        // An ETag is the version in quotes.
        let new = api.get(&bucket.key_path("k")).await;
        let version = outcomes[0]["version"].as_str().unwrap();
        assert_eq!((new.text(), new.etag()), ("new", format!("\"{version}\"")));
    }
}

#[tokio::test]
async fn access_is_judged_per_operation() {
    let region = RoutedRegion::start().await;
    let api = region.router.api();
    let readable = api.create_bucket_with(&[("access", "public-read")]).await;
    let protected = api.create_bucket_with(&[("access", "protected")]).await;
    let other = api.create_bucket().await.account;
    let operations = [
        get("k"),
        put("k", "v"),
        json!({"op": "touch", "key": "k", "ttl": 5}),
        delete("k"),
        get("k"),
    ];
    let (unauthorized, forbidden) = ((401, "unauthorized"), (403, "forbidden"));
    let mixed = |refused| [NOT_FOUND, refused, refused, refused, NOT_FOUND];
    let allowed = [NOT_FOUND, OK, OK, OK, NOT_FOUND];
    for api in region.clients() {
        for (bucket, account, expected) in [
            (&readable, None, mixed(unauthorized)),
            (&readable, Some(&other), mixed(forbidden)),
            (&readable, Some(&readable.account), allowed),
            (&protected, None, [unauthorized; 5]),
            (&protected, Some(&other), [forbidden; 5]),
            (&protected, Some(&protected.account), allowed),
        ] {
            let mut request = post(&api, bucket, &operations);
            if let Some(account) = account {
                request = request.api_key(account);
            }
            let outcomes = lines_of(&request.await);
            assert_eq!(statuses(&outcomes), expected, "{outcomes:#?}");
        }
        let nowhere = api.post("/kv/a0000000000000");
        let nowhere = nowhere.header("content-type", LINES).body("{}");
        nowhere.await.assert_error(404, "unknown_bucket");
    }
}

#[tokio::test]
async fn an_array_is_answered_by_an_array() {
    let region = RoutedRegion::start().await;
    let bucket = region.router.api().create_bucket().await;
    let operations = json!([put("k", "v"), get("k"), get("absent")]);
    for api in region.clients() {
        let typed = api.post(&bucket.listing_path()).json(&operations);
        let untyped = api.post(&bucket.listing_path());
        let untyped = untyped.body(format!("\n {operations}"));
        for request in [typed, untyped] {
            let answer = request.await;
            assert_eq!(
                answer.assert_status(200).header("content-type"),
                "application/json; charset=utf-8"
            );
            let outcomes = answer.json();
            let outcomes = outcomes.as_array().unwrap();
            assert_eq!(statuses(outcomes), [OK, OK, NOT_FOUND]);
        }
        // Empty lines don't matter, and neither does a type that isn't given.
        let lines = format!("\n{}\r\n\n{}\n", put("k", "v"), get("k"));
        let answer = api.post(&bucket.listing_path()).body(lines).await;
        assert_eq!(statuses(&lines_of(&answer)), [OK, OK]);
    }
}

#[tokio::test]
async fn bulk_writes_of_workers_kv_are_understood() {
    let region = RoutedRegion::start().await;
    let bucket = region.router.api().create_bucket().await;
    for (writer, reader) in region.client_pairs() {
        let operations = [
            json!({"key": "plain", "value": "text", "metadata": {"a": "ü", "n": [1.50]}}),
            json!({"key": "binary", "value": "AP8A", "base64": true,
                   "expiration": 2_524_608_000_u64}),
            json!({"key": "hour", "value": "v", "base64": false, "expiration_ttl": 3600}),
        ];
        let outcomes = execute(&writer, &bucket, &operations).await;
        assert_eq!(statuses(&outcomes), [OK; 3]);
        assert_eq!(outcomes[1]["expires_at"], "2050-01-01T00:00:00.000000Z");
        assert!(outcomes[2]["expires_at"].is_string());
        let read = execute(&reader, &bucket, &[get("plain"), get("binary")]).await;
        assert_eq!(
            (&read[0]["value"], &read[0]["expires_at"]),
            (&json!("text"), &Value::Null)
        );
        assert_eq!(read[0]["metadata"], json!({"a": "ü", "n": [1.5]}));
        assert_eq!(
            (&read[1]["value_base64"], &read[1]["value"]),
            (&json!("AP8A"), &Value::Null)
        );
        let raw = reader.get(&bucket.key_path("binary")).await;
        assert_eq!(&raw.body[..], [0, 0xff, 0]);
    }
}

#[tokio::test]
async fn values_have_types_metadata_and_expiry() {
    let region = RoutedRegion::start().await;
    let api = region.router.api();
    let bucket = api.create_bucket_with(&[("default_ttl", "1h")]).await;
    let mut operations = vec![
        json!({"key": "full", "value": "{}", "content_type": "application/json",
               "metadata": {"owner": "me"}, "ttl": 90}),
        json!({"key": "default", "value": "v"}),
        json!({"key": "stays", "value": "v", "expires_at": null}),
        json!({"key": "also", "value": "v", "persist": true}),
        json!({"key": "until", "value": "v", "expires_at": "2050-01-01T00:00:00Z"}),
    ];
    operations.extend(["full", "default", "stays", "also", "until"].map(get));
    let outcomes = execute(&api, &bucket, &operations).await;
    assert_eq!(statuses(&outcomes), [OK; 10]);
    let (written, read) = outcomes.split_at(5);
    for (written, read) in written.iter().zip(read) {
        for field in ["version", "expires_at"] {
            assert_eq!(written[field], read[field]);
        }
    }
    let expires = read.iter().map(|read| read["expires_at"].is_string());
    assert_eq!(
        expires.collect::<Vec<_>>(),
        [true, true, false, false, true]
    );
    assert_eq!(read[0]["content_type"], "application/json");
    assert_eq!(read[0]["metadata"], json!({"owner": "me"}));
    let single = api.get(&bucket.key_path("full")).await;
    assert_eq!(single.header("content-type"), "application/json");
    assert_eq!(single.header("x-cloudkv-metadata"), r#"{"owner":"me"}"#);
    let cleared = json!({"op": "touch", "key": "full", "metadata": {}});
    let outcomes = execute(&api, &bucket, &[cleared, get("full")]).await;
    assert_eq!(outcomes[1]["metadata"], Value::Null);
    assert_eq!(
        outcomes[1]["expires_at"], read[0]["expires_at"],
        "it is kept"
    );
}

#[tokio::test]
async fn reads_have_conditions_and_are_counted() {
    let region = RoutedRegion::start().await;
    let api = region.router.api();
    let bucket = api.create_bucket().await;
    let written = execute(&api, &bucket, &[put("k", "v"), put("k", "w")]).await;
    let [old, new] = [0, 1].map(|at| written[at]["version"].as_str().unwrap());
    let quoted = format!("\"{new}\"");
    let read = |name: &str, tag: &str| json!({"op": "get", "key": "k", name: tag});
    let operations = [
        read("if_none_match", new),
        read("if_none_match", &quoted),
        read("if_none_match", "*"),
        read("if_none_match", old),
        read("if_match", new),
        read("if_match", "*"),
        read("if_match", old),
        json!({"op": "get", "key": "absent", "if_none_match": "*"}),
    ];
    let outcomes = execute(&api, &bucket, &operations).await;
    let not_modified = (304, "");
    assert_eq!(
        statuses(&outcomes),
        [
            not_modified,
            not_modified,
            not_modified,
            OK,
            OK,
            OK,
            CONDITION_FAILED,
            NOT_FOUND
        ]
    );
    for outcome in &outcomes {
        let has_value = outcome["status"] == 200;
        assert_eq!(outcome["value"].is_string(), has_value, "{outcome}");
    }
    assert_eq!(outcomes[0]["version"], new);
    eventually("the reads are counted", STATE_TIMEOUT, async || {
        let summary = api.bucket_summary(&bucket).await;
        let counts = (&summary["key_get_success"], &summary["key_get_failed"]);
        (counts == (&json!(6), &json!(1))).then_some(())
    })
    .await;
}

#[tokio::test]
async fn a_malformed_line_refuses_the_whole_batch() {
    let region = RoutedRegion::start().await;
    let bucket = region.router.api().create_bucket().await;
    let good = put("k", "v").to_string();
    for api in region.clients() {
        for (bad, reason) in [
            ("{\"key\":\"a\"", "EOF while parsing an object"),
            (
                "{\"op\":\"set\",\"key\":\"a\"}",
                "op must be put, get, delete or touch",
            ),
            ("{\"key\":\"a\",\"vlaue\":\"v\"}", "did you mean value?"),
            (
                "{\"op\":\"get\",\"key\":\"a\",\"ttl\":1}",
                "ttl is no field of a get",
            ),
            (
                "{\"key\":\"a\",\"value\":\"v\",\"ttl\":0}",
                "ttl must be at least one second",
            ),
            (
                "{\"key\":\"a\",\"value\":\"v\",\"expires_at\":1}",
                "must be in the future",
            ),
            (
                "{\"key\":\"a\",\"value_base64\":\"?\"}",
                "value_base64 must be base64",
            ),
            (
                "{\"key\":\"a\",\"value\":\"v\",\"metadata\":[]}",
                "metadata must be a JSON object",
            ),
            ("5", "expected an operation as a JSON object"),
        ] {
            let lines = format!("{good}\n\n{bad}\n{good}");
            let array = format!("[{good},{bad},{good}]");
            let forms = [
                (LINES, lines, "line 3: "),
                ("application/json", array, "element 2: "),
            ];
            for (media_type, body, number) in forms {
                let post = api.post(&bucket.listing_path());
                let answer = post.header("content-type", media_type).body(body).await;
                let message = answer.assert_error(400, "invalid_batch").json()["message"].clone();
                let message = message.as_str().unwrap();
                // In an array, what follows belongs to a line that has no end.
                let is_open = bad.starts_with("{\"key\":\"a\"") && !bad.ends_with('}');
                assert!(message.starts_with(number), "{message}");
                assert!(message.contains(reason) || is_open, "{message}");
            }
        }
        for empty in ["", "\n \n", "[]"] {
            let answer = api.post(&bucket.listing_path()).body(empty).await;
            answer.assert_error(400, "invalid_batch");
        }
        let with_parameter = format!("{}?ttl=5", bucket.listing_path());
        let answer = api.post(&with_parameter).body(good.clone()).await;
        answer.assert_error(400, "invalid_parameter");
        for media_type in ["text/plain", "application/x-www-form-urlencoded"] {
            let post = api.post(&bucket.listing_path());
            let answer = post.header("content-type", media_type).body(good.clone());
            answer.await.assert_error(415, "unsupported_media_type");
        }
        let read = api.get(&bucket.key_path("k")).await;
        read.assert_error(404, "not_found");
    }
}
