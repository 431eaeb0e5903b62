//! Regions whose clocks differ.
// Helpers of tests panic as tests do.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

use std::time::{Duration, SystemTime};

use cloudkv_faults::Version;
use cloudkv_test_harness::eventually;
use cloudkv_test_harness::prometheus::sum_of_samples;
use cloudkv_test_harness::region::MultiRegionCluster;

const STATE_TIMEOUT: Duration = Duration::from_secs(60);

/// Maximum offset of a clock in nanoseconds, and a little for the clock of this process.
const CLOCK_BOUND_NANOS: u64 = 260_000_000;

fn now() -> u64 {
    let since = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH);
    u64::try_from(since.unwrap().as_nanos()).unwrap()
}

/// Returns the number of merges that a node delayed since their versions were too far ahead.
async fn merges_delayed(world: &MultiRegionCluster, seat: usize) -> f64 {
    let page = world.nodes[seat].admin_api().get("/metrics").unchecked();
    let page = page.await;
    sum_of_samples(page.text(), "cloudkv_geo_ahead_total", "")
}

/// With two nodes nobody can tell whose clock is wrong, so both go on, and changes from the fast
/// one are delayed.
#[tokio::test]
async fn changes_from_a_fast_clock_are_delayed_and_not_lost() {
    let mut world = MultiRegionCluster::start(&["eu", "us"], 1, 2).await;
    let bucket = world.api(0).create_bucket().await;
    let (key, other) = (bucket.key_path("ahead"), bucket.key_path("other"));
    for path in [&key, &other] {
        world.api(0).put(path, "before").await.assert_status(200);
    }
    world.wait_bucket_converged(&bucket).await;
    world.terminate(1).await;
    world.nodes[1].set_clock(12_000);
    world.restart(1).await;
    world.wait_serving(1).await;
    let put = world.api(1).put(&key, "from the future").await;
    let version = Version::from_etag(&put.assert_status(200).etag()).unwrap();
    assert!(
        version.time > now() + CLOCK_BOUND_NANOS,
        "the clock is ahead: {version}"
    );
    eventually(
        "the change is delayed, and counted",
        STATE_TIMEOUT,
        async || (merges_delayed(&world, 0).await > 0.0).then_some(()),
    )
    .await;
    // In the other direction nothing is delayed.
    world
        .api(0)
        .put(&other, "meanwhile")
        .await
        .assert_status(200);
    eventually("us has what eu writes", STATE_TIMEOUT, async || {
        let got = world.api(1).get(&other).await;
        (got.status == 200 && got.text() == "meanwhile").then_some(())
    })
    .await;
    eventually("eu has the delayed change", STATE_TIMEOUT, async || {
        let got = world.api(0).get(&key).await;
        match got.assert_status(200).text() {
            "before" => None,
            _ => Some(()),
        }
    })
    .await;
    assert!(
        now() + CLOCK_BOUND_NANOS >= version.time,
        "the change was merged too early"
    );
    let all = world.wait_bucket_converged(&bucket).await;
    assert_eq!(all["ahead"].1, b"from the future");
    world.wait_no_retained_changes().await;
}

/// With three regions the wrong clock is known, also to its own node, right from the start: the
/// first node that answers it is only one of two.
#[tokio::test]
async fn a_region_of_one_node_that_restarts_with_a_wrong_clock_writes_nothing() {
    let mut world = MultiRegionCluster::start(&["eu", "us", "ap"], 1, 3).await;
    world.expect_errors(&["clock"]);
    let bucket = world.api(0).create_bucket().await;
    let key = bucket.key_path("k");
    world.api(1).put(&key, "v").await.assert_status(200);
    world.wait_bucket_converged(&bucket).await;
    world
        .network
        .delay(1, Duration::from_millis(20), Duration::ZERO);
    // One of the others answers later than a round of clock checks takes.
    for (from, to) in [(1, 2), (2, 1)] {
        world.network.shape(from, to, |link| {
            link.requests.delay = Duration::from_millis(150);
            link.replies.delay = Duration::from_millis(150);
        });
    }
    world.kill(1);
    world.nodes[1].set_clock(600_000);
    world.restart(1).await;
    eventually(
        "us knows that its clock is wrong",
        STATE_TIMEOUT,
        async || {
            let status = world.status(1).await?;
            // It has acknowledged no write before, nor does it now: it doesn't serve at all.
            let put = world.api(1).put(&key, "w").try_send();
            if let Ok(Ok(put)) = tokio::time::timeout(Duration::from_secs(1), put).await {
                assert_ne!(put.status, 200, "{put:?}");
            }
            let alive = status.nodes.iter().filter(|node| node.alive).count();
            (alive >= 2 && !status.clock_ok).then_some(())
        },
    )
    .await;
    world.kill(1);
    world.nodes[1].set_clock(0);
    world.network.heal();
    world.restart(1).await;
    world.wait_serving(1).await;
    world.api(1).put(&key, "x").await.assert_status(200);
    assert_eq!(world.wait_bucket_converged(&bucket).await["k"].1, b"x");
}
