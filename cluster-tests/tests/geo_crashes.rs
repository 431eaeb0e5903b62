//! Crashes on both sides of propagation, at every step of a batch: while it is read, on its way, at
//! the receiver before and after it is committed there, while its acknowledgement is on its way back,
//! and before and after that is noted.
// Helpers of tests panic as tests do.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

use std::collections::BTreeMap;
use std::time::Duration;

use cloudkv_cluster_tests::Bucket;
use cloudkv_cluster_tests::region::World;
use futures_util::future::join_all;

/// One way between the two regions: long enough for each step to be hit.
const DELAY: Duration = Duration::from_millis(40);
/// Crashes come so long after the writes were acknowledged, up to when the way there and back and
/// the noting of it, ten times a second, are over.
const STEP: Duration = Duration::from_millis(20);
const STEPS: u32 = 10;
const KEYS: usize = 24;

/// Writes all keys in a region, and deletes some; returns what must be there then.
async fn write(
    world: &World,
    seat: usize,
    bucket: &Bucket,
    round: &str,
) -> BTreeMap<String, String> {
    let api = world.api(seat);
    let written = (0..KEYS).map(async |number| {
        let key = format!("k{number}");
        let path = bucket.key(&key);
        api.put(&path, round.to_owned()).await.status(200);
        if number % 4 == 3 {
            api.delete(&path).await.status(200);
            return None;
        }
        Some((key, round.to_owned()))
    });
    join_all(written).await.into_iter().flatten().collect()
}

/// In each round `writes` takes a batch, and `die` are killed a step later than in the last.
async fn survives(writes: usize, die: &[usize]) {
    let mut world = World::start(&["eu", "us"], 1, 2).await;
    world.delay(DELAY);
    let bucket = world.api(0).bucket().await;
    world.wait_equal(&bucket).await;
    for step in 0..STEPS {
        let round = format!("step {step}");
        let expected = write(&world, writes, &bucket, &round).await;
        tokio::time::sleep(step * STEP).await;
        for seat in die {
            world.kill(*seat);
        }
        for seat in die {
            world.restart(*seat).await;
        }
        let all = world.wait_equal(&bucket).await;
        let values = all.into_iter().map(|(key, (_, value))| {
            let value = String::from_utf8(value.to_vec()).unwrap();
            (key, value)
        });
        assert_eq!(values.collect::<BTreeMap<_, _>>(), expected, "{round}");
    }
    world.wait_nothing_held().await;
}

#[tokio::test]
async fn a_sender_that_dies_at_any_step_loses_nothing() {
    survives(0, &[0]).await;
}

#[tokio::test]
async fn a_receiver_that_dies_at_any_step_loses_nothing() {
    survives(1, &[0]).await;
}

#[tokio::test]
async fn both_sides_may_die_at_any_step() {
    survives(0, &[0, 1]).await;
}

#[tokio::test]
async fn a_region_that_restarts_while_it_is_cut_off_serves_the_newest_bucket() {
    let mut world = World::start(&["eu", "us", "ap"], 1, 3).await;
    // The last entry of the metadata, which nothing follows.
    let bucket = world.api(1).bucket().await;
    let path = bucket.key("k");
    world.api(1).put(&path, "before").await.status(200);
    world.cut_off(1);
    world.kill(1);
    world.restart(1).await;
    world.wait_serving(1).await;
    let api = world.api(1);
    assert_eq!(api.get(&path).await.status(200).text(), "before");
    api.put(&path, "after").await.status(200);
    assert_eq!(api.get(&path).await.status(200).text(), "after");
    world.network.heal();
    assert_eq!(world.wait_equal(&bucket).await.len(), 1);
}
