//! The ports and the log of a node that starts and waits for others.
// Helpers of tests panic as tests do.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

use std::time::Duration;

use cloudkv_test_harness::region::{Region, RegionOptions, StartMode};
use cloudkv_test_harness::{ApiClient, HttpResponse, RawConnection, RawRequest, eventually};

const STATE_TIMEOUT: Duration = Duration::from_secs(30);
/// Timeout of a probe.
const PROBE_TIMEOUT: Duration = Duration::from_secs(5);

/// Asserts that a node reports in all ways that it starts and waits for `absent`.
async fn assert_reports_start(region: &Region, seat: usize, absent: &str) {
    let admin = region.nodes[seat].admin_api();
    let ready = probe(&admin, "/readyz").await;
    assert_eq!(ready.assert_status(503).json()["waiting_for"][0], "start");
    assert!(
        ready.json()["reasons"]["start"]
            .as_str()
            .unwrap()
            .contains(absent)
    );
    let metrics = probe(&admin, "/metrics").await;
    assert!(
        metrics.text().contains("\ncloudkv_ready 0\n"),
        "{metrics:?}"
    );
    let status = probe(&admin, "/status").await.json();
    assert!(
        status["starting"].as_str().unwrap().contains(absent),
        "{status}"
    );
    let shown = region.admin(seat, &["status"]).await.unwrap_err();
    assert!(shown.contains("is starting, and waits for"), "{shown}");
    let refused = probe(&admin, "/plans").await;
    assert_eq!(refused.assert_status(503).json()["error"], "starting");
    let health = region.admin(seat, &["health"]).await;
    assert_eq!(health.unwrap(), "ok\n");
}

/// Gets a page of an admin port, which must answer soon.
async fn probe(admin: &ApiClient, path: &str) -> HttpResponse {
    let call = tokio::time::timeout(PROBE_TIMEOUT, admin.get(path).unchecked());
    call.await
        .unwrap_or_else(|_| panic!("no answer from {path}"))
}

#[tokio::test]
async fn a_stop_while_a_node_waits_to_join_is_no_failure() {
    let mut region = Region::prepare(RegionOptions {
        nodes: 2,
        seats: 2,
        ..RegionOptions::default()
    });
    region.launch(1, &StartMode::Join(vec![0]));
    region.wait_listening(1).await;
    let admin = region.nodes[1].admin_api();
    eventually("it was refused once", STATE_TIMEOUT, async || {
        let body = probe(&admin, "/healthz").await.json();
        let reason = body["waiting_for"].as_str()?;
        reason.contains("a node to admit this one").then_some(())
    })
    .await;
    region.terminate(1).await;
}

#[tokio::test]
async fn a_node_that_waits_to_join_serves_its_admin_port_and_logs_it_once() {
    let mut region = Region::prepare(RegionOptions {
        nodes: 2,
        seats: 2,
        ..RegionOptions::default()
    });
    region.launch(1, &StartMode::Join(vec![0]));
    region.wait_listening(1).await;
    let admin = region.nodes[1].admin_api();
    let absent = region.seat(0).rpc().to_string();
    eventually(
        "it reports the node it waits for",
        STATE_TIMEOUT,
        async || {
            let health = probe(&admin, "/healthz").await;
            let body = health.assert_status(200).json();
            assert_eq!(body["status"], "starting");
            body["waiting_for"]
                .as_str()?
                .contains(&absent)
                .then_some(())
        },
    )
    .await;
    assert_reports_start(&region, 1, &absent).await;

    // It retries, and logs the failure once and then with a count.
    let warnings = || {
        let text = region.nodes[1].log().text();
        let lines = text
            .lines()
            .filter(|line| line.contains("no node admits this one"));
        lines.map(str::to_owned).collect::<Vec<_>>()
    };
    eventually("a line has a count", STATE_TIMEOUT, async || {
        warnings()
            .iter()
            .any(|line| line.contains("\"repeated\":"))
            .then_some(())
    })
    .await;
    assert_eq!(warnings().len(), 2, "{:?}", warnings());

    region.launch(0, &StartMode::Bootstrap);
    region.wait_listening(0).await;
    region.wait_formed().await;
    assert_eq!(probe(&admin, "/healthz").await.json()["status"], "ok");
    assert_eq!(probe(&admin, "/status").await.json()["ready"], true);
}

#[tokio::test]
async fn users_of_a_starting_node_are_told_so_until_it_serves() {
    let mut region = Region::prepare(RegionOptions {
        nodes: 2,
        seats: 2,
        ..RegionOptions::default()
    });
    region.launch(1, &StartMode::Join(vec![0]));
    region.wait_listening(1).await;
    let (http, absent) = (region.seat(1).http(), region.seat(0).rpc().to_string());
    for request in [
        RawRequest::new("GET", "/kv/a0123456789ABC/k"),
        RawRequest::new("PUT", "/kv/a0123456789ABC/k").parse_body(b"value"),
        RawRequest::new("HEAD", "/ping"),
    ] {
        let response = request.send(http).await;
        response.assert_status(503);
        assert_eq!(response.header("retry-after"), "1");
        assert_eq!(response.header("x-cloudkv-region"), "local");
        assert_eq!(response.header("connection"), "close");
        assert!(!response.header("x-request-id").is_empty());
    }
    for api in [ApiClient::new(http), ApiClient::http2(http)] {
        let refused = api.get("/ping").unchecked().await;
        refused.assert_error(503, "starting");
        let text = refused.text();
        // Strangers aren't told of the cluster's nodes.
        assert!(!text.contains(&absent), "{text}");
    }
    // These don't keep the node from serving.
    let silent = RawConnection::open(http).await;
    let mut unfinished = RawConnection::open(http).await;
    unfinished.write(b"GET /ping HTTP/1.1\r\nHost: ").await;

    region.launch(0, &StartMode::Bootstrap);
    region.wait_listening(0).await;
    region.wait_ready(1).await;
    let ping = region.api(1).get("/ping").unchecked().await;
    ping.assert_status(200);
    drop((silent, unfinished));
}
