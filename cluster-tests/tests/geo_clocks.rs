//! Clocks of regions that are apart.
// Helpers of tests panic as tests do.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

use std::time::{Duration, SystemTime};

use cloudkv_cluster_tests::eventually;
use cloudkv_cluster_tests::faults::Version;
use cloudkv_cluster_tests::region::World;

const SOON: Duration = Duration::from_secs(60);

/// How far a clock may be off, in nanoseconds, and a little for that of this process.
const BOUND: u64 = 260_000_000;

fn now() -> u64 {
    let since = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH);
    u64::try_from(since.unwrap().as_nanos()).unwrap()
}

/// How often a node has held back changes because they came from too far ahead.
async fn held_ahead(world: &World, seat: usize) -> f64 {
    let page = world.members[seat].admin_api().get("/metrics").unchecked();
    let page = page.await;
    let lines = page.text().lines();
    let lines = lines.filter(|line| line.starts_with("cloudkv_geo_ahead_total{"));
    let values = lines.filter_map(|line| line.rsplit(' ').next()?.parse::<f64>().ok());
    values.sum()
}

/// Of two nodes nobody knows whose clock is wrong, so both go on; the other one's changes wait.
#[tokio::test]
async fn changes_from_a_clock_that_is_ahead_are_held_and_not_lost() {
    let mut world = World::start(&["eu", "us"], 1, 2).await;
    let bucket = world.api(0).bucket().await;
    let (key, other) = (bucket.key("ahead"), bucket.key("other"));
    for path in [&key, &other] {
        world.api(0).put(path, "before").await.status(200);
    }
    world.wait_equal(&bucket).await;
    world.terminate(1).await;
    world.members[1].set_clock(12_000);
    world.restart(1).await;
    world.wait_serving(1).await;
    let put = world.api(1).put(&key, "from the future").await;
    let version = Version::of_etag(&put.status(200).etag()).unwrap();
    assert!(
        version.time > now() + BOUND,
        "the clock is ahead: {version}"
    );
    eventually("the change is held, and that is told", SOON, async || {
        (held_ahead(&world, 0).await > 0.0).then_some(())
    })
    .await;
    // The other way nothing waits.
    world.api(0).put(&other, "meanwhile").await.status(200);
    eventually("us has what eu writes", SOON, async || {
        let got = world.api(1).get(&other).await;
        (got.status == 200 && got.text() == "meanwhile").then_some(())
    })
    .await;
    eventually("eu has what was held", SOON, async || {
        let got = world.api(0).get(&key).await;
        match got.status(200).text() {
            "before" => None,
            _ => Some(()),
        }
    })
    .await;
    assert!(now() + BOUND >= version.time, "it came before its time");
    let all = world.wait_equal(&bucket).await;
    assert_eq!(all["ahead"].1, b"from the future");
    world.wait_nothing_held().await;
}

/// With three regions the one that is wrong is known, also by itself, from its first moment on:
/// whoever answers it first is only one of two.
#[tokio::test]
async fn a_region_of_one_node_that_restarts_with_a_wrong_clock_writes_nothing() {
    let mut world = World::start(&["eu", "us", "ap"], 1, 3).await;
    world.expect_errors(&["clock"]);
    let bucket = world.api(0).bucket().await;
    let key = bucket.key("k");
    world.api(1).put(&key, "v").await.status(200);
    world.wait_equal(&bucket).await;
    world
        .network
        .delay(1, Duration::from_millis(20), Duration::ZERO);
    // One of the others is heard later, by more than a look at the clocks takes.
    for (from, to) in [(1, 2), (2, 1)] {
        world.network.shape(from, to, |link| {
            link.requests.delay = Duration::from_millis(150);
            link.replies.delay = Duration::from_millis(150);
        });
    }
    world.kill(1);
    world.members[1].set_clock(600_000);
    world.restart(1).await;
    eventually("us knows that its clock is wrong", SOON, async || {
        let status = world.status(1).await?;
        // It has answered nobody's write before, nor does it now: it doesn't serve at all.
        let put = world.api(1).put(&key, "w").try_send();
        if let Ok(Ok(put)) = tokio::time::timeout(Duration::from_secs(1), put).await {
            assert_ne!(put.status, 200, "{put:?}");
        }
        let heard = status.nodes.iter().filter(|node| node.alive).count();
        (heard >= 2 && !status.clock_ok).then_some(())
    })
    .await;
    world.kill(1);
    world.members[1].set_clock(0);
    world.network.heal();
    world.restart(1).await;
    world.wait_serving(1).await;
    world.api(1).put(&key, "x").await.status(200);
    assert_eq!(world.wait_equal(&bucket).await["k"].1, b"x");
}
