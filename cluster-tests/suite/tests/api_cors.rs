//! Headers of every response: CORS, request IDs, the region; and the methods of each route.
// Helpers of tests panic as tests do.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

use std::collections::HashSet;

use cloudkv_test_harness::{ApiClient, ApiRequest, Bucket, HttpResponse, RawRequest, SharedNode};
use http::Method;

static NODE: SharedNode = SharedNode::new();

/// Every route with its methods.
fn routes(bucket: &Bucket) -> Vec<(String, &'static [&'static str])> {
    vec![
        ("/ping".to_owned(), &["GET", "HEAD", "OPTIONS"]),
        ("/buckets".to_owned(), &["GET", "POST", "OPTIONS"]),
        (bucket.path(), &["PATCH", "DELETE", "OPTIONS"]),
        (bucket.listing_path(), &["GET", "HEAD", "POST", "OPTIONS"]),
        (
            bucket.key_path("k"),
            &["GET", "HEAD", "PUT", "POST", "PATCH", "DELETE", "OPTIONS"],
        ),
        (
            bucket.key_path("a/b%20c"),
            &["GET", "HEAD", "PUT", "POST", "PATCH", "DELETE", "OPTIONS"],
        ),
    ]
}

/// One request for each status that a client can provoke.
fn one_of_each_status(
    api: &ApiClient,
    bucket: &Bucket,
    protected: &Bucket,
) -> Vec<(u16, ApiRequest)> {
    let stranger = &bucket.account;
    let wrong_count = format!("{}?confirm=7", bucket.path());
    vec![
        (200, api.get("/ping")),
        (200, api.get(&bucket.key_path("k"))),
        (200, api.put(&bucket.key_path("k2"), "v")),
        (200, api.delete(&bucket.key_path("k2"))),
        (200, api.get(&bucket.listing_path())),
        (201, api.post("/buckets")),
        (
            304,
            api.get(&bucket.key_path("k")).header("if-none-match", "*"),
        ),
        (400, api.put(&bucket.key_path("k?ttl=x"), "v")),
        (401, api.get(&protected.key_path("k"))),
        (403, api.get(&protected.key_path("k")).api_key(stranger)),
        (404, api.get("/nowhere")),
        (404, api.get(&bucket.key_path("absent"))),
        (404, api.get("/kv/a0000000000000/k")),
        (405, api.patch("/buckets")),
        (409, api.delete(&wrong_count).api_key(&bucket.account)),
        (
            412,
            api.put(&bucket.key_path("k"), "v")
                .header("if-none-match", "*"),
        ),
        (413, api.put(&bucket.key_path("k"), vec![b'x'; 4097])),
    ]
}

async fn buckets(api: &ApiClient) -> (Bucket, Bucket) {
    let bucket = api.create_bucket().await;
    api.put(&bucket.key_path("k"), "v").await.assert_status(200);
    (
        bucket,
        api.create_bucket_with(&[("access", "protected")]).await,
    )
}

#[track_caller]
fn assert_allows_any_origin(answer: &HttpResponse, origin: &str) {
    let allowed = answer.header("access-control-allow-origin");
    assert!(allowed == "*" || allowed == origin, "{answer:?}");
    assert_ne!(
        answer.find_header("access-control-allow-credentials"),
        Some("true")
    );
}

#[tokio::test]
async fn browsers_may_read_every_answer_and_its_headers() {
    let node = NODE.lease().await;
    let api = node.api();
    let (bucket, protected) = buckets(&api).await;
    for origin in ["https://app.example", "null"] {
        for (status, call) in one_of_each_status(&api, &bucket, &protected) {
            let answer = call.header("origin", origin).await;
            assert_allows_any_origin(answer.assert_status(status), origin);
            let exposed = answer.header_list("access-control-expose-headers");
            for name in [
                "etag",
                "link",
                "x-request-id",
                "x-cloudkv-metadata",
                "x-cloudkv-region",
            ] {
                assert!(
                    exposed.iter().any(|e| e == name || e == "*"),
                    "{name}: {answer:?}"
                );
            }
        }
    }
}

#[tokio::test]
async fn a_preflight_allows_the_methods_of_each_route() {
    let node = NODE.lease().await;
    let api = node.api();
    let bucket = api.create_bucket().await;
    for (path, methods) in routes(&bucket) {
        for method in methods {
            let requested = "api-key, content-type, if-match, if-none-match, if-modified-since, \
                             x-cloudkv-metadata";
            let answer = api
                .request(Method::OPTIONS, &path)
                .header("origin", "https://app.example")
                .header("access-control-request-method", method)
                .header("access-control-request-headers", requested)
                .await;
            answer.assert_status(204).assert_empty();
            assert_allows_any_origin(&answer, "https://app.example");
            let allowed = answer.header_list("access-control-allow-methods");
            let is_listed = allowed.contains(&method.to_ascii_lowercase());
            assert!(is_listed || allowed == ["*"], "{method} {path}: {answer:?}");
            let headers = answer.header_list("access-control-allow-headers");
            for name in requested.split(", ") {
                assert!(
                    headers.iter().any(|h| h == name || h == "*"),
                    "{name}: {answer:?}"
                );
            }
        }
    }
}

#[tokio::test]
async fn a_preflight_needs_no_key_and_no_bucket() {
    let node = NODE.lease().await;
    let api = node.api();
    let (_, protected) = buckets(&api).await;
    for path in [
        protected.key_path("k"),
        protected.listing_path(),
        "/kv/a0000000000000/k".to_owned(),
    ] {
        let preflight = api
            .request(Method::OPTIONS, &path)
            .header("origin", "https://app.example");
        preflight
            .header("access-control-request-method", "PUT")
            .await
            .assert_status(204);
    }
}

#[tokio::test]
async fn a_valid_request_id_is_echoed_and_others_are_replaced() {
    let node = NODE.lease().await;
    let api = node.api();
    let (bucket, protected) = buckets(&api).await;
    let id = "6f9619ff-8b86-d011-b42d-00cf4fc964ff";
    for (status, call) in one_of_each_status(&api, &bucket, &protected) {
        let answer = call.header("x-request-id", id).await;
        assert_eq!(answer.assert_status(status).header("x-request-id"), id);
    }
    let long = "x".repeat(5000);
    for id in [long.as_str(), "", "two words", "a\ttab", "caf\u{e9}"] {
        let answer = api.get("/ping").header("x-request-id", id).await;
        let given = answer.assert_status(200).header("x-request-id");
        let is_valid = given.len() <= 256 && given.bytes().all(|byte| byte.is_ascii_graphic());
        assert!(is_valid && !given.is_empty(), "{given:?} for {id:?}");
    }
}

#[tokio::test]
async fn a_request_without_an_id_gets_a_new_one() {
    let node = NODE.lease().await;
    let api = node.api();
    let (bucket, protected) = buckets(&api).await;
    let mut ids = HashSet::new();
    for (status, call) in one_of_each_status(&api, &bucket, &protected) {
        let id = call
            .await
            .assert_status(status)
            .header("x-request-id")
            .to_owned();
        assert!(ids.insert(id.clone()), "{id} occurs twice");
    }
}

#[tokio::test]
async fn every_answer_names_the_region() {
    let node = NODE.lease().await;
    let api = node.api();
    let (bucket, protected) = buckets(&api).await;
    for (status, call) in one_of_each_status(&api, &bucket, &protected) {
        assert_eq!(
            call.await.assert_status(status).header("x-cloudkv-region"),
            "local"
        );
    }
}

#[tokio::test]
async fn a_method_that_a_route_lacks_is_refused_with_those_it_has() {
    let node = NODE.lease().await;
    let bucket = node.api().create_bucket().await;
    for (path, methods) in routes(&bucket) {
        let all = [
            "GET", "HEAD", "PUT", "POST", "PATCH", "DELETE", "TRACE", "BREW",
        ];
        for method in all.iter().filter(|method| !methods.contains(method)) {
            let answer = RawRequest::new(method, &path)
                .parse_body(b"")
                .send(node.http())
                .await;
            if path == "/buckets" && *method == "HEAD" {
                // A route with GET may support HEAD.
                continue;
            }
            answer.assert_status(405);
            if *method != "HEAD" {
                answer.assert_error(405, "method_not_allowed");
            }
            let allowed = answer.header_list("allow");
            let needed = methods.iter().map(|method| method.to_ascii_lowercase());
            for needed in needed.filter(|needed| needed != "head") {
                assert!(
                    allowed.contains(&needed),
                    "{method} {path} lacks {needed}: {answer:?}"
                );
            }
            assert!(
                !allowed.contains(&method.to_ascii_lowercase()),
                "{method} {path}: {answer:?}"
            );
        }
    }
    let put = node.api().put(&bucket.listing_path(), "v").await;
    let mut allowed = put
        .assert_error(405, "method_not_allowed")
        .header_list("allow");
    allowed.sort();
    assert_eq!(allowed, ["get", "head", "options", "post"]);
}

#[tokio::test]
async fn an_unknown_route_is_not_found() {
    let node = NODE.lease().await;
    let api = node.api();
    for path in [
        "/",
        "/nowhere",
        "/ping/pong",
        "/bucket",
        "/metrics",
        "/readyz",
        "/healthz",
    ] {
        for method in [Method::GET, Method::POST, Method::DELETE] {
            api.request(method, path)
                .await
                .assert_error(404, "no_such_route");
        }
    }
}

#[tokio::test]
async fn ping_answers() {
    let node = NODE.lease().await;
    let answer = node.api().get("/ping").await;
    assert_eq!(
        answer.assert_status(200).header("content-type"),
        "application/json; charset=utf-8"
    );
    assert_eq!(answer.json(), serde_json::json!({"message": "pong"}));
}
