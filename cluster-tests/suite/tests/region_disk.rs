//! Nodes whose disk corrupts the state.
// Helpers of tests panic as tests do.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

use std::time::Duration;

use cloudkv_test_harness::region::{Region, RegionOptions};
use cloudkv_test_harness::{Bucket, eventually};
use futures_util::stream::{self, StreamExt};

const STATE_TIMEOUT: Duration = Duration::from_secs(60);
const KEY_COUNT: u32 = 1000;

/// Starts a region whose reads go to the disk, and not to caches.
async fn start_region(nodes: usize) -> Region {
    let args = ["--block-cache-mib", "1", "--record-cache-mib", "1"];
    let mut region = Region::start_with(RegionOptions {
        nodes,
        seats: nodes,
        shards: 1,
        args: args.map(str::to_owned).to_vec(),
        ..RegionOptions::default()
    })
    .await;
    region.expect_errors(&["damaged"]);
    region
}

fn key(number: u32) -> String {
    format!("{number:06}")
}

/// Returns a unique, incompressible value for each key and round.
fn value(number: u32, round: u64) -> Vec<u8> {
    let mut state = u64::from(number) << 32 | round << 1 | 1;
    let bytes = std::iter::repeat_with(|| {
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        state.to_be_bytes()
    });
    bytes.take(100).flatten().collect()
}

/// Writes all keys, each until it is acknowledged.
async fn fill(region: &Region, seat: usize, bucket: &Bucket, round: u64) {
    let api = region.api(seat);
    let writes = (0..KEY_COUNT).map(async |number| {
        eventually("a key is written", STATE_TIMEOUT, async || {
            let call = api.put(&bucket.key_path(&key(number)), value(number, round));
            let answer = call.try_send().await.ok()?;
            (answer.status == 200).then_some(())
        })
        .await;
    });
    stream::iter(writes)
        .buffer_unordered(16)
        .collect::<Vec<()>>()
        .await;
}

/// Reads all keys through a node; returns the statuses of the reads that failed.
async fn failed_reads(
    region: &Region,
    seat: usize,
    bucket: &Bucket,
    query: &str,
    round: u64,
) -> Vec<u16> {
    let api = region.api(seat);
    let reads = (0..KEY_COUNT).map(async |number| {
        let path = bucket.key_path(&format!("{}{query}", key(number)));
        let answer = api.get(&path).await;
        if answer.status == 200 {
            let is_right = answer.body[..] == value(number, round)[..];
            assert!(
                is_right,
                "key {number} holds a value that was never written"
            );
        }
        answer.status
    });
    let statuses: Vec<u16> = stream::iter(reads).buffer_unordered(8).collect().await;
    statuses.into_iter().filter(|it| *it != 200).collect()
}

/// Flushes the state of all nodes, and damages records on the leader's disk; returns its seat.
async fn damage(region: &mut Region) -> usize {
    for seat in 0..region.nodes.len() {
        region.terminate(seat).await;
        region.restart(seat).await;
        region.wait_formed().await;
    }
    let seat = region.wait_leader("shard-0").await;
    assert!(region.nodes[seat].damage_state(25..50, 8 << 10) > 10);
    seat
}

async fn is_damaged(region: &Region, seat: usize) -> Option<bool> {
    let status = region.status(seat).await?;
    Some(status.groups.iter().any(|group| group.damaged))
}

/// Waits until a node has found damage and replaced all damaged state.
async fn wait_repaired(region: &Region, seat: usize) {
    let replaced = "damaged state replaced";
    eventually("the damaged state is replaced", STATE_TIMEOUT, async || {
        let log = std::fs::read_to_string(region.nodes[seat].log().path()).ok()?;
        // After the first damage all groups are checked, except those that found it themselves.
        let is_done = |group: &String| {
            let of_group = log
                .lines()
                .filter(|line| line.contains(&format!("\"{group}\"")));
            let done = ["state checked for damage", replaced];
            let mut of_group = of_group;
            of_group.any(|line| done.iter().any(|words| line.contains(words)))
        };
        let done = log.contains(replaced) && region.groups().iter().all(is_done);
        (done && !is_damaged(region, seat).await?).then_some(())
    })
    .await;
}

#[tokio::test]
async fn damage_of_one_nodes_disk_reaches_no_reader_and_is_repaired() {
    let mut region = start_region(3).await;
    let bucket = region.api(0).create_bucket().await;
    fill(&region, 0, &bucket, 1).await;
    region.wait_converged().await;
    let seat = damage(&mut region).await;
    let other = (seat + 1) % 3;
    for reader in [other, seat, (seat + 2) % 3, other] {
        let failed = failed_reads(&region, reader, &bucket, "", 1).await;
        let count = failed.len();
        assert!(
            failed.is_empty(),
            "through node {reader}: {count} of {KEY_COUNT}: {failed:?}"
        );
    }
    // For an eventual read of a damaged record the replica asks the leader.
    let failed = failed_reads(&region, seat, &bucket, "?consistency=eventual", 1).await;
    assert!(
        failed.is_empty(),
        "{} of {KEY_COUNT}: {failed:?}",
        failed.len()
    );
    wait_repaired(&region, seat).await;
    region.wait_converged().await;
    // It is a voter as before, and has all data: one of the others may fail.
    fill(&region, other, &bucket, 2).await;
    region.wait_converged().await;
    region.kill(other);
    eventually("all can be read", STATE_TIMEOUT, async || {
        let failed = failed_reads(&region, seat, &bucket, "", 2).await;
        failed.is_empty().then_some(())
    })
    .await;
    region.restart(other).await;
    // Its files are rewritten when it starts, and it has the same state as the others.
    region.terminate(seat).await;
    region.restart(seat).await;
    region.wait_formed().await;
    region.wait_converged().await;
    let log = std::fs::read_to_string(region.nodes[seat].log().path()).unwrap();
    assert!(log.contains("damaged state rebuilt"), "{log}");
    assert_eq!(is_damaged(&region, seat).await, Some(false));
}

#[tokio::test]
async fn writes_that_meet_damage_are_applied_to_a_copy() {
    let mut region = start_region(3).await;
    let bucket = region.api(0).create_bucket().await;
    fill(&region, 0, &bucket, 1).await;
    region.wait_converged().await;
    let seat = damage(&mut region).await;
    // No reads: apply finds the damage.
    fill(&region, 0, &bucket, 2).await;
    wait_repaired(&region, seat).await;
    region.wait_converged().await;
    for seat in [0, 1, 2] {
        let failed = failed_reads(&region, seat, &bucket, "", 2).await;
        assert!(failed.is_empty(), "through node {seat}: {failed:?}");
    }
}

#[tokio::test]
async fn without_another_replica_only_damaged_records_are_refused() {
    let mut region = start_region(1).await;
    let bucket = region.api(0).create_bucket().await;
    fill(&region, 0, &bucket, 1).await;
    damage(&mut region).await;
    let failed = failed_reads(&region, 0, &bucket, "", 1).await;
    assert!(
        !failed.is_empty() && failed.len() < KEY_COUNT as usize,
        "{}",
        failed.len()
    );
    assert!(failed.iter().all(|status| *status == 500), "{failed:?}");
    let api = region.api(0);
    let mut codes = Vec::new();
    for number in 0..KEY_COUNT {
        let answer = api.get(&bucket.key_path(&key(number))).await;
        if answer.status == 500 {
            codes.push(answer.json()["error"].as_str().unwrap().to_owned());
        }
    }
    assert!(codes.iter().all(|code| code == "damaged"), "{codes:?}");
    assert_eq!(is_damaged(&region, 0).await, Some(true));
    // Everything else goes on.
    api.put(&bucket.key_path("new"), "v")
        .await
        .assert_status(200);
    assert_eq!(
        api.get(&bucket.key_path("new"))
            .await
            .assert_status(200)
            .text(),
        "v"
    );
}
