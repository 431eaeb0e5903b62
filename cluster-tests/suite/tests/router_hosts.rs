//! The mapping of hosts to regions.
// Helpers of tests panic as tests do.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

use cloudkv_test_harness::{ApiClient, HttpResponse, Node, NodeOptions, RawRequest, Router};

async fn start(region: &str, args: &[&str]) -> (Node, Router) {
    let node = Node::start_with(NodeOptions {
        region: Some(region.into()),
        ..NodeOptions::default()
    })
    .await;
    let router = Router::start_with(&[node.rpc()], args).await;
    (node, router)
}

async fn ping(router: &Router, host: &str) -> HttpResponse {
    let request = RawRequest::with_request_line("GET /ping HTTP/1.1").header("Host", host);
    request.send(router.http()).await
}

#[tokio::test]
async fn all_hosts_are_served_except_names_of_unknown_regions() {
    let (_node, router) = start("eu-west", &[]).await;
    for host in [
        "api.cloudkv.io",
        "api.cloudkv.io:8000",
        "API.CloudKV.IO",
        "api.eu-west.cloudkv.io",
        "api.eu-west.cloudkv.io:443",
        "API.EU-WEST.cloudkv.io.",
        "localhost",
        "127.0.0.1:8000",
        "[::1]:8000",
        "anything.example",
        "api.a.b.cloudkv.io",
        "",
    ] {
        let answer = ping(&router, host).await;
        answer.assert_status(200);
        assert_eq!(answer.header("x-cloudkv-region"), "eu-west", "{host}");
    }
    for host in ["api.us-east.cloudkv.io", "api.eu_west.cloudkv.io:80"] {
        let answer = ping(&router, host).await;
        answer.assert_error(404, "unknown_region");
        assert!(answer.text().contains("eu-west"), "{answer:?}");
        assert!(!answer.header("x-request-id").is_empty());
        assert_eq!(answer.header("access-control-allow-origin"), "*");
    }
}

#[tokio::test]
async fn the_domain_is_a_setting() {
    let (_node, router) = start("eu", &["--domain", "kv.example"]).await;
    ping(&router, "api.us.kv.example")
        .await
        .assert_error(404, "unknown_region");
    ping(&router, "api.eu.kv.example").await.assert_status(200);
    // A name outside of the domain counts as the global one.
    ping(&router, "api.us.cloudkv.io").await.assert_status(200);
}

#[tokio::test]
async fn an_absolute_target_overrides_the_host_header_and_two_headers_are_refused() {
    let (_node, router) = start("eu", &[]).await;
    let line = "GET http://api.us.cloudkv.io/ping HTTP/1.1";
    let request = RawRequest::with_request_line(line).header("Host", "localhost");
    request
        .send(router.http())
        .await
        .assert_error(404, "unknown_region");
    let twice = RawRequest::new("GET", "/ping").header("Host", "api.us.cloudkv.io");
    twice
        .send(router.http())
        .await
        .assert_error(400, "invalid_header");
    let old = RawRequest::with_request_line("GET /ping HTTP/1.0");
    old.send(router.http()).await.assert_status(200);
}

#[tokio::test]
async fn the_authority_of_http2_is_the_host() {
    let (_node, router) = start("eu", &[]).await;
    let status_of = async |host: &str| {
        let client = reqwest::Client::builder()
            .no_proxy()
            .http2_prior_knowledge()
            .resolve(host, router.http())
            .build()
            .unwrap();
        let url = format!("http://{host}:{}/ping", router.http().port());
        let response = client.get(url).send().await.unwrap();
        assert_eq!(response.version(), http::Version::HTTP_2);
        response.status().as_u16()
    };
    assert_eq!(status_of("api.eu.cloudkv.io").await, 200);
    assert_eq!(status_of("api.us.cloudkv.io").await, 404);
    assert_eq!(status_of("api.cloudkv.io").await, 200);
    ApiClient::http2(router.http())
        .get("/ping")
        .await
        .assert_status(200);
}

#[tokio::test]
async fn without_a_reachable_node_the_answer_is_503() {
    let router = Router::spawn(&["127.0.0.1:9".parse().unwrap()], &[]);
    let send_ping = async || {
        RawRequest::new("GET", "/ping")
            .try_send(router.http())
            .await
    };
    cloudkv_test_harness::eventually(
        "the router listens",
        std::time::Duration::from_secs(30),
        async || {
            tokio::net::TcpStream::connect(router.http())
                .await
                .ok()
                .map(drop)
        },
    )
    .await;
    let _ = send_ping().await;
    for host in ["api.cloudkv.io", "api.eu.cloudkv.io", "localhost"] {
        let answer = ping(&router, host).await;
        answer.assert_error(503, "unavailable");
        assert_eq!(answer.header("retry-after"), "1");
    }
    let ready = router.admin_api().get("/readyz").unchecked().await;
    ready.assert_status(503);
    router
        .admin_api()
        .get("/healthz")
        .unchecked()
        .await
        .assert_status(200);
}
