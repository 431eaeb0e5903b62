//! What a node tells while it starts, and waits for others.
// Helpers of tests panic as tests do.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

use std::time::Duration;

use cloudkv_cluster_tests::region::{Region, RegionOptions, Start};
use cloudkv_cluster_tests::{Answer, eventually};

const STATE_TIMEOUT: Duration = Duration::from_secs(30);
/// A probe waits no longer.
const PROBE_TIMEOUT: Duration = Duration::from_secs(5);

#[tokio::test]
async fn a_node_that_waits_to_join_answers_its_operator_and_says_so_once() {
    let mut region = Region::prepare(RegionOptions {
        nodes: 2,
        seats: 2,
        ..RegionOptions::default()
    });
    region.launch(1, &Start::Join(vec![0]));
    region.wait_listening(1).await;
    let admin = region.members[1].admin_api();
    let ask = async |path: &str| -> Answer {
        let answer = tokio::time::timeout(PROBE_TIMEOUT, admin.get(path).unchecked());
        answer
            .await
            .unwrap_or_else(|_| panic!("no answer from {path}"))
    };
    let absent = region.seat(0).rpc().to_string();
    eventually("it says whom it waits for", STATE_TIMEOUT, async || {
        let health = ask("/healthz").await;
        let body = health.status(200).json();
        assert_eq!(body["status"], "starting");
        body["waiting_for"]
            .as_str()?
            .contains(&absent)
            .then_some(())
    })
    .await;
    let ready = ask("/readyz").await;
    assert_eq!(ready.status(503).json()["waiting_for"][0], "start");
    assert!(
        ready.json()["reasons"]["start"]
            .as_str()
            .unwrap()
            .contains(&absent)
    );
    let metrics = ask("/metrics").await;
    assert!(
        metrics.text().contains("\ncloudkv_ready 0\n"),
        "{metrics:?}"
    );
    let status = ask("/status").await.json();
    assert!(
        status["starting"].as_str().unwrap().contains(&absent),
        "{status}"
    );
    let shown = region.admin(1, &["status"]).await.unwrap_err();
    assert!(shown.contains("is starting, and waits for"), "{shown}");
    let refused = ask("/plans").await;
    assert_eq!(refused.status(503).json()["error"], "starting");
    let health = region.admin(1, &["health"]).await;
    assert_eq!(health.unwrap(), "ok\n");

    // It tries again and again, and says so once and then with a count.
    let told = || {
        let text = region.members[1].log().text();
        let lines = text
            .lines()
            .filter(|line| line.contains("no node takes this one in"));
        lines.map(str::to_owned).collect::<Vec<_>>()
    };
    eventually("a line says how often", STATE_TIMEOUT, async || {
        told()
            .iter()
            .any(|line| line.contains("\"repeated\":"))
            .then_some(())
    })
    .await;
    assert_eq!(told().len(), 2, "{:?}", told());

    region.launch(0, &Start::Init);
    region.wait_listening(0).await;
    region.wait_formed().await;
    assert_eq!(ask("/healthz").await.json()["status"], "ok");
    assert_eq!(ask("/status").await.json()["ready"], true);
}
