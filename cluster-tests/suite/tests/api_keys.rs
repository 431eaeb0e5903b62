//! Setting, getting and deleting keys; the headers of a read's response.
// Helpers of tests panic as tests do.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

use std::time::{Duration, SystemTime};

use cloudkv_test_harness::{
    ApiClient, HttpResponse, RawConnection, RawOutcome, RawRequest, SharedNode,
};
use futures_util::future::join_all;
use http::Method;

static NODE: SharedNode = SharedNode::new();

/// Returns the time of an `ETag`: `"<time as 16 lower hex digits>-<region decimal>"`.
fn etag_time(answer: &HttpResponse) -> u64 {
    let etag = answer.etag();
    let inner = etag
        .strip_prefix('"')
        .and_then(|rest| rest.strip_suffix('"'));
    let (time, region) = inner
        .and_then(|inner| inner.split_once('-'))
        .expect("two parts");
    assert!(time.len() == 16 && region.parse::<u32>().is_ok(), "{etag}");
    assert_eq!(time, time.to_ascii_lowercase());
    u64::from_str_radix(time, 16).unwrap_or_else(|error| panic!("{etag}: {error}"))
}

#[tokio::test]
async fn a_key_set_by_put_or_post_is_read_back() {
    let node = NODE.lease().await;
    let api = node.api();
    let bucket = api.create_bucket().await;
    for method in [Method::PUT, Method::POST] {
        let path = bucket.key_path(method.as_str());
        api.get(&path).await.assert_error(404, "not_found");
        api.head(&path).await.assert_status(404);
        let value = format!("by {method}");
        api.request(method, &path)
            .body(value.clone())
            .await
            .assert_status(200)
            .assert_empty();
        assert_eq!(api.get(&path).await.assert_status(200).text(), value);
    }
}

#[tokio::test]
async fn a_read_returns_the_headers_of_the_write() {
    let node = NODE.lease().await;
    let api = node.api();
    let bucket = api.create_bucket().await;
    let put = api
        .put(&bucket.key_path("k"), "<script>")
        .header("content-type", "text/html; x=y")
        .await;
    let get = api.get(&bucket.key_path("k")).await;
    get.assert_status(200);
    assert_eq!(get.etag(), put.etag());
    etag_time(&get);
    assert_eq!(get.header("content-type"), "text/html; x=y");
    assert_eq!(get.header("content-length"), "8");
    assert_eq!(get.header("cache-control"), "no-cache");
    assert_eq!(get.find_header("expires"), None);
    assert_eq!(put.find_header("expires"), None);
    let modified = get.header_date("last-modified");
    let age = SystemTime::now()
        .duration_since(modified)
        .unwrap_or_default();
    assert!(age < Duration::from_secs(30), "{get:?}");
}

#[tokio::test]
async fn stored_html_cannot_run_in_the_origin_of_the_service() {
    let node = NODE.lease().await;
    let api = node.api();
    let bucket = api.create_bucket().await;
    api.put(&bucket.key_path("k"), "<script>")
        .header("content-type", "text/html")
        .await
        .assert_status(200);
    let get = api.get(&bucket.key_path("k")).await;
    assert_eq!(get.header("x-content-type-options"), "nosniff");
    assert_eq!(
        get.header("content-security-policy"),
        "sandbox; default-src 'none'"
    );
    assert_eq!(get.header("cross-origin-resource-policy"), "cross-origin");
}

#[tokio::test]
async fn an_overwrite_replaces_value_type_and_version() {
    let node = NODE.lease().await;
    let api = node.api();
    let bucket = api.create_bucket().await;
    let path = bucket.key_path("k");
    let first = api
        .put(&path, "first")
        .header("content-type", "text/one")
        .await;
    let second = api.put(&path, "2").header("content-type", "text/two").await;
    assert!(etag_time(&second) > etag_time(&first), "versions rise");
    let get = api.get(&path).await;
    assert_eq!((get.text(), get.header("content-type")), ("2", "text/two"));
    assert_eq!(get.etag(), second.etag());
}

#[tokio::test]
async fn deleting_is_final_and_may_be_repeated() {
    let node = NODE.lease().await;
    let api = node.api();
    let bucket = api.create_bucket().await;
    let path = bucket.key_path("k");
    api.delete(&path).await.assert_status(200).assert_empty();
    api.put(&path, "v").await.assert_status(200);
    for _ in 0..2 {
        api.delete(&path).await.assert_status(200).assert_empty();
        api.get(&path).await.assert_error(404, "not_found");
    }
    api.put(&path, "again").await.assert_status(200);
    assert_eq!(api.get(&path).await.text(), "again");
}

#[tokio::test]
async fn every_byte_value_and_the_empty_value_survive() {
    let node = NODE.lease().await;
    let api = node.api();
    let bucket = api.create_bucket().await;
    let all: Vec<u8> = (0..=255).cycle().take(4096).collect();
    api.put(&bucket.key_path("all"), all.clone())
        .await
        .assert_status(200);
    assert_eq!(
        api.get(&bucket.key_path("all"))
            .await
            .assert_status(200)
            .body,
        all
    );
    let bytes: Vec<_> = (0..=255_u8)
        .map(|byte| (bucket.key_path(&format!("b{byte}")), byte))
        .collect();
    let puts = bytes
        .iter()
        .map(|(path, byte)| api.put(path, vec![*byte]).into_future());
    join_all(puts).await.iter().for_each(|answer| {
        answer.assert_status(200);
    });
    let gets = join_all(bytes.iter().map(|(path, _)| api.get(path).into_future())).await;
    for (get, (_, byte)) in gets.iter().zip(&bytes) {
        assert_eq!(get.body, vec![*byte]);
    }
    api.put(&bucket.key_path("empty"), "")
        .await
        .assert_status(200);
    let empty = api.get(&bucket.key_path("empty")).await;
    assert_eq!(
        empty
            .assert_status(200)
            .assert_empty()
            .header("content-length"),
        "0"
    );
}

#[tokio::test]
async fn a_write_without_any_body_sets_the_empty_value() {
    let node = NODE.lease().await;
    let bucket = node.api().create_bucket().await;
    for method in ["PUT", "POST"] {
        let target = bucket.key_path(method);
        RawRequest::new(method, &target)
            .send(node.http())
            .await
            .assert_status(200);
        node.api()
            .get(&target)
            .await
            .assert_status(200)
            .assert_empty();
    }
}

#[tokio::test]
async fn head_answers_as_get_does_without_the_body() {
    let node = NODE.lease().await;
    let api = node.api();
    let bucket = api.create_bucket().await;
    let put = api
        .put(&bucket.key_path("k?ttl=1h"), "a value")
        .header("content-type", "text/x");
    put.await.assert_status(200);
    let missing = "/kv/a0000000000000/k".to_owned();
    for target in [
        bucket.key_path("k"),
        bucket.listing_path(),
        bucket.key_path("absent"),
        missing,
    ] {
        let get = RawRequest::new("GET", &target).send(node.http()).await;
        // A pipelined ping detects a body behind the head.
        let mut connection = RawConnection::open(node.http()).await;
        connection
            .write(&RawRequest::new("HEAD", &target).bytes())
            .await;
        connection
            .write(&RawRequest::new("GET", "/ping").bytes())
            .await;
        let RawOutcome::Response(head) = connection.receive(true).await else {
            panic!("no answer")
        };
        let RawOutcome::Response(ping) = connection.receive(false).await else {
            panic!("no ping")
        };
        assert_eq!(ping.assert_status(200).json()["message"], "pong");
        assert_eq!(head.status, get.status);
        for name in get.headers.keys().filter(|name| !varies(name.as_str())) {
            assert_eq!(
                head.find_header(name.as_str()),
                get.find_header(name.as_str()),
                "{name}"
            );
        }
    }
}

fn varies(header: &str) -> bool {
    matches!(header, "date" | "x-request-id" | "transfer-encoding")
}

#[tokio::test]
async fn reads_may_ask_for_eventual_consistency_only() {
    let node = NODE.lease().await;
    let api = node.api();
    let bucket = api.create_bucket().await;
    api.put(&bucket.key_path("k"), "v").await.assert_status(200);
    assert_eq!(
        api.get(&bucket.key_path("k?consistency=eventual"))
            .await
            .assert_status(200)
            .text(),
        "v"
    );
    api.head(&bucket.key_path("k?consistency=eventual"))
        .await
        .assert_status(200);
    let wrong = api.get(&bucket.key_path("k?consistency=sometimes")).await;
    wrong.assert_error(400, "invalid_parameter");
}

/// A mistyped `ttl` would otherwise create a key that never expires.
#[tokio::test]
async fn unknown_parameters_are_refused_by_writes_and_ignored_by_reads() {
    let node = NODE.lease().await;
    let api = node.api();
    let bucket = api.create_bucket().await;
    let path = |query: &str| bucket.key_path(&format!("k?{query}"));
    let assert_refused = |answer: &HttpResponse, expected: &str| {
        answer.assert_error(400, "invalid_parameter");
        let message = answer.json()["message"].as_str().unwrap().to_owned();
        assert_eq!(message, expected);
    };
    let message = "parameter `expiry` is unknown here: there is ttl, expires_at, persist";
    assert_refused(&api.put(&path("expiry=60"), "v").await, message);
    assert_refused(&api.put(&path("ttl=5s&expiry=60"), "v").await, message);
    api.get(&path("colour=blue&colour=red&=x&y"))
        .await
        .assert_status(404);

    api.put(&path("&%74tl=1h"), "v").await.assert_status(200);
    let answer = api.get(&path("colour=blue")).await;
    assert_eq!(answer.assert_status(200).text(), "v");
    let message = "parameter `if` is unknown here: there are none";
    assert_refused(&api.delete(&path("if=x")).await, message);
    api.get(&path("")).await.assert_status(200);

    let message = "parameter `acess` is unknown here: there is access, comment, plan, default_ttl";
    let query = [("acess", "protected")];
    assert_refused(&api.post("/buckets").query(&query).await, message);
    let patch = api.patch(&format!("{}?coment=x", bucket.path()));
    let message = "parameter `coment` is unknown here: there is access, comment, plan, default_ttl";
    assert_refused(&patch.api_key(&bucket.account).await, message);
    let delete = api.delete(&format!("{}?confirm=1&force=1", bucket.path()));
    let message = "parameter `force` is unknown here: there is confirm";
    assert_refused(&delete.api_key(&bucket.account).await, message);
    let long = api.put(&path(&"x".repeat(5000)), "v").await;
    assert!(long.assert_error(400, "invalid_parameter").text().len() < 300);
}

#[tokio::test]
async fn a_read_sees_every_write_acknowledged_before_it_began() {
    let node = NODE.lease().await;
    let api = node.api();
    let bucket = api.create_bucket().await;
    let writers = (0..8).map(|writer| {
        let (api, path) = (api.clone(), bucket.key_path(&format!("counter-{writer}")));
        async move {
            for value in 0..50 {
                api.put(&path, value.to_string()).await.assert_status(200);
                // Sometimes over a new connection, as another client would.
                let api = if value % 10 == 0 {
                    ApiClient::new(api.address())
                } else {
                    api.clone()
                };
                assert_eq!(api.get(&path).await.text(), value.to_string());
            }
        }
    });
    join_all(writers).await;
}
