//! A region whose nodes authenticate each other by certificates.
// Helpers of tests panic as tests do.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

use std::fs;
use std::path::Path;
use std::time::Duration;

use cloudkv_test_harness::eventually;
use cloudkv_test_harness::region::{MultiRegionCluster, Region, RegionOptions, StartMode};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;

const STATE_TIMEOUT: Duration = Duration::from_secs(30);
const EXPIRY_METRIC: &str = "cloudkv_rpc_certificate_expires_seconds";
const STALE_METRIC: &str = "cloudkv_rpc_certificate_stale";
const REFUSED_METRIC: &str = "cloudkv_rpc_refused_connections_total";

/// Returns the value of a node's metric.
async fn metric(region: &Region, seat: usize, name: &str) -> f64 {
    let answer = region.nodes[seat]
        .admin_api()
        .get("/metrics")
        .unchecked()
        .await;
    let page = answer.assert_status(200).text().to_owned();
    let line = page.lines().find_map(|line| {
        let (line_name, value) = line.split_once(' ')?;
        (line_name == name).then(|| value.to_owned())
    });
    let value = line.unwrap_or_else(|| panic!("no {name} in:\n{page}"));
    value.parse().unwrap()
}

/// Writes through each running node and reads through all of them, with retries.
async fn assert_works(region: &Region, path: &str, value: &str) {
    assert_works_at(region, &region.running(), path, value).await;
}

async fn assert_works_at(region: &Region, seats: &[usize], path: &str, value: &str) {
    for seat in seats.iter().copied() {
        eventually("a write succeeds", STATE_TIMEOUT, async || {
            let put = region.api(seat).put(path, value.to_owned());
            let answer = put.try_send().await.ok()?;
            (answer.status == 200).then_some(())
        })
        .await;
    }
    for seat in seats.iter().copied() {
        eventually("a read succeeds", STATE_TIMEOUT, async || {
            let answer = region.api(seat).get(path).try_send().await.ok()?;
            (answer.status == 200 && answer.text() == value).then_some(())
        })
        .await;
    }
}

/// Starts three nodes, with a seat for a fourth.
async fn start() -> Region {
    let options = RegionOptions {
        tls: true,
        seats: 4,
        ..Default::default()
    };
    Region::start_with(options).await
}

#[tokio::test]
async fn a_node_cannot_take_the_id_of_another() {
    let mut region = start().await;
    let bucket = region.api(0).create_bucket().await;
    let path = bucket.key_path("k");
    assert_works(&region, &path, "first").await;

    // A node that asks to join under that ID.
    let number: u64 = region.node_id(1).await.0.parse().unwrap();
    let applicant = serde_json::json!({
        "format": 1, "cluster_id": "", "node_id": number, "region": "local", "shards": 0,
        "incarnation": 0, "region_number": 0, "founder": false,
    });
    let rogue = region.nodes[3].data_dir();
    fs::create_dir_all(&rogue).unwrap();
    fs::write(rogue.join("identity.json"), applicant.to_string()).unwrap();
    region.launch(3, &StartMode::Join(vec![0]));
    let status = region.wait_exit(3).await;
    assert_eq!(status.code(), Some(1), "{status}");
    let log = region.nodes[3].log().text();
    assert!(log.contains("can't be used for the node at"), "{log}");

    // A node with a copy of the other's data directory, while that is down.
    region.kill(1);
    fs::remove_dir_all(&rogue).unwrap();
    copy_dir(&region.nodes[1].data_dir(), &rogue);
    region.launch(3, &StartMode::Join(vec![0]));
    eventually("the others refuse it", STATE_TIMEOUT, async || {
        let log = region.nodes[3].log().text();
        let refused = "node refuses this one";
        (log.matches(refused).count() >= 2 && log.contains("can't be used for")).then_some(())
    })
    .await;
    let mut others = region.running();
    others.retain(|seat| *seat != 3);
    assert_works_at(&region, &others, &path, "second").await;
    eventually(
        "the others know that it is down",
        STATE_TIMEOUT,
        async || {
            let status = region.status(0).await?;
            let other = status
                .nodes
                .iter()
                .find(|node| node.id.0 == number.to_string());
            (!other.expect("the node").alive).then_some(())
        },
    )
    .await;
    region.kill(3);
    region.restart(1).await;
    assert_works(&region, &path, "third").await;
}

fn copy_dir(from: &Path, to: &Path) {
    fs::create_dir_all(to).unwrap();
    for entry in fs::read_dir(from).unwrap().map(Result::unwrap) {
        let to = to.join(entry.file_name());
        if entry.file_type().unwrap().is_dir() {
            copy_dir(&entry.path(), &to);
        } else {
            fs::copy(entry.path(), to).unwrap();
        }
    }
}

#[tokio::test]
async fn nodes_trust_certificates_and_nothing_else() {
    let mut region = start().await;
    let host = |region: &Region, seat: usize| region.seat(seat).rpc().ip();
    let bucket = region.api(0).create_bucket().await;
    let path = bucket.key_path("k");
    assert_works(&region, &path, "first").await;

    // Connections without a certificate get no answer, and are counted.
    let before = metric(&region, 0, REFUSED_METRIC).await;
    let mut stranger = TcpStream::connect(region.seat(0).rpc()).await.unwrap();
    let hello = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n\0\0\0\x04\0\0\0\0\0";
    stranger.write_all(hello).await.unwrap();
    let mut answer = Vec::new();
    // A reset ends the answer, too.
    let _ = stranger.read_to_end(&mut answer).await;
    assert!(answer.len() < 32, "{answer:?}");
    eventually("the stranger is counted", STATE_TIMEOUT, async || {
        (metric(&region, 0, REFUSED_METRIC).await > before).then_some(())
    })
    .await;

    // Another node's certificate is refused.
    let stolen = region.certificates().arguments(host(&region, 0));
    region.nodes[3].flags.args = stolen;
    region.launch(3, &StartMode::Join(vec![0]));
    let status = region.wait_exit(3).await;
    assert_eq!(status.code(), Some(1), "{status}");
    let log = region.nodes[3].log().text();
    assert!(log.contains("other nodes reach this one at"), "{log}");

    // A broken file changes nothing; a new certificate is loaded without a restart.
    let expires = metric(&region, 1, EXPIRY_METRIC).await;
    let certificate = region.certificates().certificate(host(&region, 1));
    fs::write(&certificate, "half a certificate").unwrap();
    eventually("the broken file is reported", STATE_TIMEOUT, async || {
        (metric(&region, 1, STALE_METRIC).await == 1.0).then_some(())
    })
    .await;
    assert_works(&region, &path, "second").await;
    region.certificates().renew(host(&region, 1), 1000);
    eventually("the new certificate is in use", STATE_TIMEOUT, async || {
        let (new, stale) = (
            metric(&region, 1, EXPIRY_METRIC).await,
            metric(&region, 1, STALE_METRIC).await,
        );
        (new > expires && stale == 0.0).then_some(())
    })
    .await;

    // New connections present it: those to a node that was down.
    region.kill(2);
    assert_works(&region, &path, "third").await;
    region.restart(2).await;
    assert_works(&region, &path, "fourth").await;
    region.kill(0);
    assert_works(&region, &path, "fifth").await;
}

#[tokio::test]
async fn regions_authenticate_each_other_by_certificates() {
    let options = RegionOptions {
        tls: true,
        ..Default::default()
    };
    let world = MultiRegionCluster::start_with(&["eu", "us"], 1, 2, options).await;
    let bucket = world.api(0).create_bucket().await;
    for seat in 0..2 {
        let path = bucket.key_path(&format!("from-{seat}"));
        assert_works(&world, &path, "hello").await;
    }
}
