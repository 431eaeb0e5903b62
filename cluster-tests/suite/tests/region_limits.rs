//! A bucket's limit on keys while nodes crash and leadership moves: no write is refused below it,
//! and it isn't exceeded by more than 1 %.
// Helpers of tests panic as tests do.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

use std::time::Duration;

use cloudkv_test_harness::region::{Region, key_in_shard, shard_of};
use cloudkv_test_harness::{Bucket, eventually};
use futures_util::future::join_all;

/// Maximum number of keys of a bucket: small, so that a quota lease is several percent of it.
const KEY_LIMIT: usize = 320;
const WRITERS: usize = 8;
const STATE_TIMEOUT: Duration = Duration::from_secs(60);

/// Starts a region of three nodes whose leaders are spread, with buckets of [`KEY_LIMIT`] keys.
async fn start_region() -> Region {
    let region = Region::start().await;
    let keys = format!("--keys={KEY_LIMIT}");
    region
        .admin_with_retries(0, &["plan", "set", "free", &keys])
        .await;
    region.wait_leaders_balanced().await;
    region
}

/// Returns a bucket, a shard whose leader doesn't lead the bucket's home shard, and the leader's
/// seat.
async fn bucket_with_remote_shard(region: &Region) -> (Bucket, u32, usize) {
    let bucket = region.api(0).create_bucket().await;
    let home = shard_of(&bucket.id, "", region.shards());
    let home_leader = region.wait_leader(&format!("shard-{home}")).await;
    for shard in 0..region.shards() {
        let leader = region.wait_leader(&format!("shard-{shard}")).await;
        if leader != home_leader {
            return (bucket, shard, leader);
        }
    }
    panic!("one node leads all shards");
}

/// Writes one key, and retries until the answer is final; returns whether it was written.
async fn create(region: &Region, seat: usize, path: &str) -> bool {
    eventually(
        &format!("an answer to a PUT of {path}"),
        STATE_TIMEOUT,
        async || {
            let answer = region.api(seat).put(path, "v").try_send().await.ok()?;
            match answer.status {
                200 => Some(true),
                403 => Some(false),
                503 | 504 => None,
                other => panic!("{other}: {answer:?}"),
            }
        },
    )
    .await
}

/// Writes new keys through these nodes until each writer has been refused.
async fn fill(region: &Region, bucket: &Bucket, seats: &[usize]) {
    let writers = (0..WRITERS).map(async |writer| {
        let seat = seats[writer % seats.len()];
        let mut number = 0;
        while create(
            region,
            seat,
            &bucket.key_path(&format!("fill{writer}-{number}")),
        )
        .await
        {
            number += 1;
        }
    });
    join_all(writers).await;
}

async fn count(region: &Region, seat: usize, bucket: &Bucket) -> usize {
    let page = format!("{}?limit=1000", bucket.listing_path());
    let listed = eventually("the keys are listed", STATE_TIMEOUT, async || {
        let answer = region.api(seat).get(&page).try_send().await.ok()?;
        (answer.status == 200).then_some(answer)
    });
    listed.await.lines().len()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn quota_granted_to_a_dead_node_is_granted_again() {
    let mut region = start_region().await;
    let (bucket, shard, dead) = bucket_with_remote_shard(&region).await;
    // It requests a quota lease, uses one key of it, and is killed before its usage is surveyed.
    let first = key_in_shard(&bucket, "first", shard, region.shards());
    assert!(create(&region, dead, &bucket.key_path(&first)).await);
    region.kill(dead);
    let others: Vec<usize> = region.running();
    fill(&region, &bucket, &others).await;
    let total = count(&region, others[0], &bucket).await;
    let max = KEY_LIMIT + KEY_LIMIT / 100;
    assert!((KEY_LIMIT..=max).contains(&total), "{total} keys");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_quota_lease_ends_with_the_term_it_was_granted_in() {
    let region = start_region().await;
    let (bucket, shard, leader) = bucket_with_remote_shard(&region).await;
    let first = key_in_shard(&bucket, "first", shard, region.shards());
    assert!(create(&region, leader, &bucket.key_path(&first)).await);
    // The rest of its quota lease is granted to others while it can't be reached. Messages to it
    // are lost: if they were only delayed, the rest would still be recalled.
    region.network.reset_connections(leader);
    let mut others = region.running();
    others.retain(|seat| *seat != leader);
    fill(&region, &bucket, &others).await;
    region.network.heal();
    let group = format!("shard-{shard}");
    eventually("it leads again", STATE_TIMEOUT, async || {
        (region.leader_of(&group).await == Some(leader)).then_some(())
    })
    .await;
    for round in 0..KEY_LIMIT / 10 {
        let name = key_in_shard(&bucket, &format!("late{round}-"), shard, region.shards());
        let is_written = create(&region, leader, &bucket.key_path(&name)).await;
        if !is_written {
            break;
        }
    }
    let total = count(&region, leader, &bucket).await;
    let max = KEY_LIMIT + KEY_LIMIT / 100;
    assert!((KEY_LIMIT..=max).contains(&total), "{total} keys");
}
