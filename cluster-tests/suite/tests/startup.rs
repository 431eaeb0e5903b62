//! The admin port and the log of a node that starts and waits for others.
// Helpers of tests panic as tests do.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

use std::time::Duration;

use cloudkv_test_harness::region::{Region, RegionOptions, StartMode};
use cloudkv_test_harness::{HttpResponse, eventually};

const STATE_TIMEOUT: Duration = Duration::from_secs(30);
/// Timeout of a probe.
const PROBE_TIMEOUT: Duration = Duration::from_secs(5);

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
    let get = async |path: &str| -> HttpResponse {
        let call = tokio::time::timeout(PROBE_TIMEOUT, admin.get(path).unchecked());
        call.await
            .unwrap_or_else(|_| panic!("no answer from {path}"))
    };
    let absent = region.seat(0).rpc().to_string();
    eventually(
        "it reports the node it waits for",
        STATE_TIMEOUT,
        async || {
            let health = get("/healthz").await;
            let body = health.assert_status(200).json();
            assert_eq!(body["status"], "starting");
            body["waiting_for"]
                .as_str()?
                .contains(&absent)
                .then_some(())
        },
    )
    .await;
    let ready = get("/readyz").await;
    assert_eq!(ready.assert_status(503).json()["waiting_for"][0], "start");
    assert!(
        ready.json()["reasons"]["start"]
            .as_str()
            .unwrap()
            .contains(&absent)
    );
    let metrics = get("/metrics").await;
    assert!(
        metrics.text().contains("\ncloudkv_ready 0\n"),
        "{metrics:?}"
    );
    let status = get("/status").await.json();
    assert!(
        status["starting"].as_str().unwrap().contains(&absent),
        "{status}"
    );
    let shown = region.admin(1, &["status"]).await.unwrap_err();
    assert!(shown.contains("is starting, and waits for"), "{shown}");
    let refused = get("/plans").await;
    assert_eq!(refused.assert_status(503).json()["error"], "starting");
    let health = region.admin(1, &["health"]).await;
    assert_eq!(health.unwrap(), "ok\n");

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
    assert_eq!(get("/healthz").await.json()["status"], "ok");
    assert_eq!(get("/status").await.json()["ready"], true);
}
