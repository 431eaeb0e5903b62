//! A bucket's limit on keys while nodes die and leadership moves: nobody is refused below it, and
//! it isn't exceeded by more than 1 %.
// Helpers of tests panic as tests do.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

use std::time::Duration;

use cloudkv_cluster_tests::region::{Region, key_in_shard, shard_of};
use cloudkv_cluster_tests::{Bucket, eventually};
use futures_util::future::join_all;

/// Keys that a bucket may hold: small, so that a block of it is several percent.
const LIMIT: usize = 320;
const WRITERS: usize = 8;
const SOON: Duration = Duration::from_secs(60);

/// A region of three nodes whose leaders are spread, with buckets of [`LIMIT`] keys.
async fn region() -> Region {
    let region = Region::start().await;
    let keys = format!("--keys={LIMIT}");
    region.insist(0, &["plan", "set", "free", &keys]).await;
    region.wait_spread().await;
    region
}

/// A bucket with a shard whose leader doesn't lead the bucket's home shard, and that leader's seat.
async fn bucket_with_block_elsewhere(region: &Region) -> (Bucket, u32, usize) {
    let bucket = region.api(0).bucket().await;
    let home = shard_of(&bucket.id, "", region.shards());
    let granter = region.wait_leader(&format!("shard-{home}")).await;
    for shard in 0..region.shards() {
        let leader = region.wait_leader(&format!("shard-{shard}")).await;
        if leader != granter {
            return (bucket, shard, leader);
        }
    }
    panic!("one node leads all shards");
}

/// Writes one key, again while the answer isn't final; whether it was written.
async fn create(region: &Region, seat: usize, path: &str) -> bool {
    eventually(&format!("an answer to a PUT of {path}"), SOON, async || {
        let answer = region.api(seat).put(path, "v").try_send().await.ok()?;
        match answer.status {
            200 => Some(true),
            403 => Some(false),
            503 | 504 => None,
            other => panic!("{other}: {answer:?}"),
        }
    })
    .await
}

/// Writes new keys through these nodes until each of the writers has been refused.
async fn fill(region: &Region, bucket: &Bucket, seats: &[usize]) {
    let writers = (0..WRITERS).map(async |writer| {
        let seat = seats[writer % seats.len()];
        let mut number = 0;
        while create(region, seat, &bucket.key(&format!("fill{writer}-{number}"))).await {
            number += 1;
        }
    });
    join_all(writers).await;
}

async fn count(region: &Region, seat: usize, bucket: &Bucket) -> usize {
    let page = format!("{}?limit=1000", bucket.keys());
    let listed = eventually("the keys are listed", SOON, async || {
        let answer = region.api(seat).get(&page).try_send().await.ok()?;
        (answer.status == 200).then_some(answer)
    });
    listed.await.lines().len()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_was_granted_to_a_node_that_died_is_granted_again() {
    let mut region = region().await;
    let (bucket, shard, doomed) = bucket_with_block_elsewhere(&region).await;
    // It asks for a block, uses one key of it, and dies before it is asked what it holds.
    let first = key_in_shard(&bucket, "first", shard, region.shards());
    assert!(create(&region, doomed, &bucket.key(&first)).await);
    region.kill(doomed);
    let others: Vec<usize> = region.running();
    fill(&region, &bucket, &others).await;
    let counted = count(&region, others[0], &bucket).await;
    let most = LIMIT + LIMIT / 100;
    assert!((LIMIT..=most).contains(&counted), "{counted} keys");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_block_ends_with_the_leadership_it_was_granted_in() {
    let region = region().await;
    let (bucket, shard, leader) = bucket_with_block_elsewhere(&region).await;
    let first = key_in_shard(&bucket, "first", shard, region.shards());
    assert!(create(&region, leader, &bucket.key(&first)).await);
    // The rest of its block is granted to others while it can't be asked. What is sent to it is lost:
    // held up, it would still have the rest called back.
    region.network.refuse(leader);
    let mut others = region.running();
    others.retain(|seat| *seat != leader);
    fill(&region, &bucket, &others).await;
    region.network.heal();
    let group = format!("shard-{shard}");
    eventually("it leads again", SOON, async || {
        (region.leader_of(&group).await == Some(leader)).then_some(())
    })
    .await;
    for round in 0..LIMIT / 10 {
        let name = key_in_shard(&bucket, &format!("late{round}-"), shard, region.shards());
        let taken = create(&region, leader, &bucket.key(&name)).await;
        if !taken {
            break;
        }
    }
    let counted = count(&region, leader, &bucket).await;
    let most = LIMIT + LIMIT / 100;
    assert!((LIMIT..=most).contains(&counted), "{counted} keys");
}
