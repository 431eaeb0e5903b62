//! A region whose nodes show each other certificates.
// Helpers of tests panic as tests do.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

use std::fs;
use std::path::Path;
use std::time::Duration;

use cloudkv_cluster_tests::eventually;
use cloudkv_cluster_tests::region::{Region, RegionOptions, Start, World};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;

const SOON: Duration = Duration::from_secs(30);
const EXPIRES: &str = "cloudkv_rpc_certificate_expires_seconds";
const STALE: &str = "cloudkv_rpc_certificate_stale";
const REFUSED: &str = "cloudkv_rpc_refused_connections_total";

/// A number among a node's metrics.
async fn metric(region: &Region, seat: usize, name: &str) -> f64 {
    let answer = region.members[seat]
        .admin_api()
        .get("/metrics")
        .unchecked()
        .await;
    let page = answer.status(200).text().to_owned();
    let line = page.lines().find_map(|line| {
        let (found, value) = line.split_once(' ')?;
        (found == name).then(|| value.to_owned())
    });
    let value = line.unwrap_or_else(|| panic!("no {name} in:\n{page}"));
    value.parse().unwrap()
}

/// Writes through each node and reads through all of them, as a client does that repeats what wasn't
/// done.
async fn works(region: &Region, path: &str, value: &str) {
    works_at(region, &region.running(), path, value).await;
}

async fn works_at(region: &Region, seats: &[usize], path: &str, value: &str) {
    for seat in seats.iter().copied() {
        eventually("a write comes through", SOON, async || {
            let put = region.api(seat).put(path, value.to_owned());
            let answer = put.try_send().await.ok()?;
            (answer.status == 200).then_some(())
        })
        .await;
    }
    for seat in seats.iter().copied() {
        eventually("a read comes through", SOON, async || {
            let answer = region.api(seat).get(path).try_send().await.ok()?;
            (answer.status == 200 && answer.text() == value).then_some(())
        })
        .await;
    }
}

/// Three nodes, and room for a fourth.
async fn start() -> Region {
    let options = RegionOptions {
        tls: true,
        seats: 4,
        ..Default::default()
    };
    Region::start_with(options).await
}

#[tokio::test]
async fn a_node_cannot_take_the_number_of_another() {
    let mut region = start().await;
    let bucket = region.api(0).bucket().await;
    let path = bucket.key("k");
    works(&region, &path, "first").await;

    // One that asks to be taken in under it.
    let number: u64 = region.node_id(1).await.0.parse().unwrap();
    let applicant = serde_json::json!({
        "cluster_id": "", "node_id": number, "region": "local", "shards": 0,
        "incarnation": 0, "region_number": 0, "founder": false,
    });
    let rogue = region.members[3].data_dir();
    fs::create_dir_all(&rogue).unwrap();
    fs::write(rogue.join("identity.json"), applicant.to_string()).unwrap();
    region.launch(3, &Start::Join(vec![0]));
    let status = region.wait_exit(3).await;
    assert_eq!(status.code(), Some(1), "{status}");
    let told = region.members[3].log().text();
    assert!(told.contains("can't be used for the node at"), "{told}");

    // One that has all that the other has on its disk, while that is away.
    region.kill(1);
    fs::remove_dir_all(&rogue).unwrap();
    copy_folder(&region.members[1].data_dir(), &rogue);
    region.launch(3, &Start::Join(vec![0]));
    eventually("the others refuse it", SOON, async || {
        let told = region.members[3].log().text();
        let refused = "node refuses this one";
        (told.matches(refused).count() >= 2 && told.contains("can't be used for")).then_some(())
    })
    .await;
    let mut others = region.running();
    others.retain(|seat| *seat != 3);
    works_at(&region, &others, &path, "second").await;
    eventually("the others know that it is not there", SOON, async || {
        let seen = region.status(0).await?;
        let other = seen
            .nodes
            .iter()
            .find(|node| node.id.0 == number.to_string());
        (!other.expect("the node").alive).then_some(())
    })
    .await;
    region.kill(3);
    region.restart(1).await;
    works(&region, &path, "third").await;
}

fn copy_folder(from: &Path, to: &Path) {
    fs::create_dir_all(to).unwrap();
    for entry in fs::read_dir(from).unwrap().map(Result::unwrap) {
        let to = to.join(entry.file_name());
        if entry.file_type().unwrap().is_dir() {
            copy_folder(&entry.path(), &to);
        } else {
            fs::copy(entry.path(), to).unwrap();
        }
    }
}

#[tokio::test]
async fn nodes_trust_certificates_and_nothing_else() {
    let mut region = start().await;
    let host = |region: &Region, seat: usize| region.seat(seat).rpc().ip();
    let bucket = region.api(0).bucket().await;
    let path = bucket.key("k");
    works(&region, &path, "first").await;

    // Strangers get nothing, and are counted.
    let before = metric(&region, 0, REFUSED).await;
    let mut stranger = TcpStream::connect(region.seat(0).rpc()).await.unwrap();
    let hello = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n\0\0\0\x04\0\0\0\0\0";
    stranger.write_all(hello).await.unwrap();
    let mut answer = Vec::new();
    // A reset is an end, too.
    let _ = stranger.read_to_end(&mut answer).await;
    assert!(answer.len() < 32, "{answer:?}");
    eventually("the stranger is counted", SOON, async || {
        (metric(&region, 0, REFUSED).await > before).then_some(())
    })
    .await;

    // Another node's certificate is of no use.
    let stolen = region.certificates().arguments(host(&region, 0));
    region.members[3].flags.args = stolen;
    region.launch(3, &Start::Join(vec![0]));
    let status = region.wait_exit(3).await;
    assert_eq!(status.code(), Some(1), "{status}");
    let told = region.members[3].log().text();
    assert!(told.contains("other nodes reach this one at"), "{told}");

    // A broken file changes nothing; a new certificate is taken without a restart.
    let expires = metric(&region, 1, EXPIRES).await;
    let certificate = region.certificates().certificate(host(&region, 1));
    fs::write(&certificate, "half a certificate").unwrap();
    eventually("the broken file is told", SOON, async || {
        (metric(&region, 1, STALE).await == 1.0).then_some(())
    })
    .await;
    works(&region, &path, "second").await;
    region.certificates().renew(host(&region, 1), 1000);
    eventually("the new certificate is in use", SOON, async || {
        let (new, stale) = (
            metric(&region, 1, EXPIRES).await,
            metric(&region, 1, STALE).await,
        );
        (new > expires && stale == 0.0).then_some(())
    })
    .await;

    // Connections made since show it: those to a node that was away.
    region.kill(2);
    works(&region, &path, "third").await;
    region.restart(2).await;
    works(&region, &path, "fourth").await;
    region.kill(0);
    works(&region, &path, "fifth").await;
}

#[tokio::test]
async fn regions_show_each_other_certificates() {
    let options = RegionOptions {
        tls: true,
        ..Default::default()
    };
    let world = World::start_with(&["eu", "us"], 1, 2, options).await;
    let bucket = world.api(0).bucket().await;
    for seat in 0..2 {
        let path = bucket.key(&format!("from-{seat}"));
        works(&world, &path, "hello").await;
    }
}
