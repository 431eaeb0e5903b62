//! Crashes on both sides of propagation, at every step of a batch: while it is read, in flight, at
//! the receiver before and after it is committed there, while its acknowledgement is in flight, and
//! before and after that is recorded.
// Helpers of tests panic as tests do.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

use std::collections::BTreeMap;
use std::time::Duration;

use cloudkv_test_harness::Bucket;
use cloudkv_test_harness::region::MultiRegionCluster;
use futures_util::future::join_all;

/// One-way delay between the two regions: long enough for a crash to hit each step.
const LINK_DELAY: Duration = Duration::from_millis(40);
/// Time by which the crash moves from round to round, from the moment when the writes are
/// acknowledged until the round trip and the recording of it, ten times a second, are over.
const CRASH_STEP: Duration = Duration::from_millis(20);
const CRASH_STEPS: u32 = 10;
const KEY_COUNT: usize = 24;

/// Writes all keys in a region, and deletes some; returns the expected content.
async fn write_all(
    world: &MultiRegionCluster,
    seat: usize,
    bucket: &Bucket,
    round: &str,
) -> BTreeMap<String, String> {
    let api = world.api(seat);
    let written = (0..KEY_COUNT).map(async |number| {
        let key = format!("k{number}");
        let path = bucket.key_path(&key);
        api.put(&path, round.to_owned()).await.assert_status(200);
        if number % 4 == 3 {
            api.delete(&path).await.assert_status(200);
            return None;
        }
        Some((key, round.to_owned()))
    });
    join_all(written).await.into_iter().flatten().collect()
}

/// Writes through the node `writer`, and kills `killed` a step later in each round.
async fn assert_survives(writer: usize, killed: &[usize]) {
    let mut world = MultiRegionCluster::start(&["eu", "us"], 1, 2).await;
    world.delay_regions(LINK_DELAY);
    let bucket = world.api(0).create_bucket().await;
    world.wait_bucket_converged(&bucket).await;
    for step in 0..CRASH_STEPS {
        let round = format!("step {step}");
        let expected = write_all(&world, writer, &bucket, &round).await;
        tokio::time::sleep(step * CRASH_STEP).await;
        for seat in killed {
            world.kill(*seat);
        }
        for seat in killed {
            world.restart(*seat).await;
        }
        let all = world.wait_bucket_converged(&bucket).await;
        let values = all.into_iter().map(|(key, (_, value))| {
            let value = String::from_utf8(value.to_vec()).unwrap();
            (key, value)
        });
        assert_eq!(values.collect::<BTreeMap<_, _>>(), expected, "{round}");
    }
    world.wait_no_retained_changes().await;
}

#[tokio::test]
async fn a_sender_crash_at_any_step_loses_nothing() {
    assert_survives(0, &[0]).await;
}

#[tokio::test]
async fn a_receiver_crash_at_any_step_loses_nothing() {
    assert_survives(1, &[0]).await;
}

#[tokio::test]
async fn a_crash_of_both_sides_at_any_step_loses_nothing() {
    assert_survives(0, &[0, 1]).await;
}

#[tokio::test]
async fn a_region_that_restarts_while_partitioned_serves_the_newest_bucket() {
    let mut world = MultiRegionCluster::start(&["eu", "us", "ap"], 1, 3).await;
    // The last entry of the metadata's log.
    let bucket = world.api(1).create_bucket().await;
    let path = bucket.key_path("k");
    world.api(1).put(&path, "before").await.assert_status(200);
    world.isolate_region(1);
    world.kill(1);
    world.restart(1).await;
    world.wait_serving(1).await;
    let api = world.api(1);
    assert_eq!(api.get(&path).await.assert_status(200).text(), "before");
    api.put(&path, "after").await.assert_status(200);
    assert_eq!(api.get(&path).await.assert_status(200).text(), "after");
    world.network.heal();
    assert_eq!(world.wait_bucket_converged(&bucket).await.len(), 1);
}
