//! Recoveries by force of a region beside another one: it joins that anew, and brings along what
//! only its surviving nodes have.
// Helpers of tests panic as tests do.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

use std::collections::BTreeMap;
use std::ops::Range;
use std::time::Duration;

use cloudkv_test_harness::region::{MultiRegionCluster, RecoveryScope, RegionOptions};
use cloudkv_test_harness::rng::Rng;
use cloudkv_test_harness::{Bucket, eventually, try_eventually};
use serde_json::Value;
use uuid::Uuid;

const STATE_TIMEOUT: Duration = Duration::from_secs(60);
/// Message of a node's log at the end of a recovery.
const RECOVERED: &str = "region recovered";
/// Number of times that a node is killed while its region is recovered.
const KILLS: usize = 8;
/// Longer than a recovery takes, in milliseconds.
const RECOVERY_MS: u64 = 6000;
/// Number of keys of each history.
const KEYS: u64 = 8;

/// What happens to keys while the regions can't reach each other: at first in the region that is
/// lost, and then in the other one.
#[derive(Clone, Copy, Debug)]
struct History {
    prefix: &'static str,
    /// True if the keys have the value `old` before.
    exists: bool,
    lost: Change,
    other: Change,
    /// Their value at the end.
    expected: Option<&'static str>,
}

#[derive(Clone, Copy, Debug)]
enum Change {
    None,
    Put(&'static str),
    Delete,
}

const fn history(
    prefix: &'static str,
    exists: bool,
    lost: Change,
    other: Change,
    expected: Option<&'static str>,
) -> History {
    History {
        prefix,
        exists,
        lost,
        other,
        expected,
    }
}

/// Keys that the other region has deleted later: the deletion is undone if its tombstone was
/// collected before the import (ADR 20).
const DELETED_LATER: &str = "deleted-later";

/// All histories: a write of the lost region counts unless the other one has written later.
const HISTORIES: [History; 10] = {
    use Change::{Delete, None, Put};
    [
        history("untouched", true, None, None, Some("old")),
        history("created", false, Put("lost"), None, Some("lost")),
        history("changed", true, Put("lost"), None, Some("lost")),
        history("deleted", true, Delete, None, Option::None),
        history("later", true, Put("lost"), Put("other"), Some("other")),
        history(
            "both-created",
            false,
            Put("lost"),
            Put("other"),
            Some("other"),
        ),
        history(DELETED_LATER, true, Put("lost"), Delete, Option::None),
        history("written-later", true, Delete, Put("other"), Some("other")),
        history("both-deleted", true, Delete, Delete, Option::None),
        history("other-only", true, None, Put("other"), Some("other")),
    ]
};

async fn apply(world: &MultiRegionCluster, seat: usize, bucket: &Bucket, name: &str, to: Change) {
    let (api, path) = (world.api(seat), bucket.key_path(name));
    match to {
        Change::None => {}
        Change::Put(value) => {
            api.put(&path, value).await.assert_status(200);
        }
        Change::Delete => {
            api.delete(&path).await.assert_status(200);
        }
    }
}

/// Makes the changes of all histories, through a node of one of the regions.
async fn change(
    world: &MultiRegionCluster,
    seat: usize,
    bucket: &Bucket,
    change: impl Fn(&History) -> Change,
) {
    for history in &HISTORIES {
        for number in 0..KEYS {
            let name = format!("{}{number}", history.prefix);
            apply(world, seat, bucket, &name, change(history)).await;
        }
    }
}

/// Returns the values that all keys must have at the end.
fn expected_values() -> BTreeMap<String, Vec<u8>> {
    let mut values = BTreeMap::new();
    for history in &HISTORIES {
        let Some(value) = history.expected else {
            continue;
        };
        let names = (0..KEYS).map(|number| format!("{}{number}", history.prefix));
        values.extend(names.map(|name| (name, value.as_bytes().to_vec())));
    }
    values
}

/// Waits until all replicas of a region have the same entries of all shards.
async fn wait_replicated(world: &MultiRegionCluster, seats: Range<usize>) {
    eventually("all nodes have all entries", STATE_TIMEOUT, async || {
        let mut statuses = vec![];
        for seat in seats.clone() {
            statuses.push(world.status(seat).await?);
        }
        for shard in 0..world.shards() {
            let name = format!("shard-{shard}");
            let logs = statuses.iter().filter_map(|status| status.group(&name));
            let mut positions = logs.flat_map(|group| [group.last_log, group.applied]);
            let first = positions.next()?;
            if positions.any(|position| position != first) {
                return None;
            }
        }
        Some(())
    })
    .await;
}

/// Writes all histories; the region `lost` can't send its part to the other one.
async fn write_histories(world: &MultiRegionCluster, lost: usize, other: usize) -> Bucket {
    let (lost_seats, other_seat) = (world.seats(lost), world.seats(other).start);
    let bucket = world.api(other_seat).create_bucket().await;
    let before = |history: &History| match history.exists {
        true => Change::Put("old"),
        false => Change::None,
    };
    change(world, other_seat, &bucket, before).await;
    world.wait_bucket_converged(&bucket).await;
    world.wait_no_retained_changes().await;
    world.isolate_region(lost);
    change(world, lost_seats.start, &bucket, |history| history.lost).await;
    change(world, other_seat, &bucket, |history| history.other).await;
    wait_replicated(world, lost_seats).await;
    bucket
}

/// Returns the number of a region, as a node knows it.
async fn region_number(world: &MultiRegionCluster, seat: usize, name: &str) -> Option<u64> {
    let call = world.nodes[seat].admin_api().get("/status").unchecked();
    let status: Value = call.try_send().await.ok()?.json();
    let mut regions = status["regions"].as_array()?.iter();
    let region = regions.find(|region| region["name"] == name)?;
    region["number"].as_u64()
}

/// Waits until the regions have the same, asserts that it is what was expected, and compares them
/// as an operator does.
async fn assert_converges(world: &MultiRegionCluster, bucket: &Bucket) {
    let values = world.wait_bucket_converged(bucket).await.into_iter();
    let mut values: BTreeMap<_, _> = values.map(|(name, (_, value))| (name, value)).collect();
    values.retain(|name, value| {
        let is_open = name.starts_with(DELETED_LATER);
        assert!(!is_open || value == b"lost", "{name}");
        !is_open
    });
    assert_eq!(values, expected_values());
    let seat = world.running()[0];
    let equal = world.admin_with_retries(seat, &["verify"]).await;
    let is_equal = equal.contains("equal") && !equal.contains("different");
    assert!(is_equal, "{equal}");
}

fn is_recovered(world: &MultiRegionCluster, seat: usize) -> bool {
    world.nodes[seat].log().text().contains(RECOVERED)
}

#[tokio::test]
async fn a_region_joins_anew_and_nothing_is_lost_that_its_survivor_had() {
    let mut world = MultiRegionCluster::start(&["eu", "us"], 3, 2).await;
    let bucket = write_histories(&world, 1, 0).await;
    world.destroy(&[4, 5]);
    world.network.heal();
    let report = world.wait_recoverable(3, RecoveryScope::Shards).await;
    println!("{report:#}");
    assert_eq!(report["rejoins"], true, "{report}");
    let text = report["confirmation"].as_str().unwrap();
    assert!(text.starts_with("recover region us without "), "{text}");
    for seat in [4, 5] {
        let host = world.seat(seat).rpc().ip().to_string();
        assert!(text.contains(&host), "{text}");
    }
    let refused = ["shard", "recover", "--confirm", "recover region us"];
    let refused = world.run_admin(3, &refused).await;
    refused.assert_failure().assert_mentions(&[text]);
    // Without the confirmation nothing has changed: it is the region that it was.
    assert_eq!(region_number(&world, 0, "us").await, Some(2));

    world.recover(3, RecoveryScope::Shards).await;
    world.wait_ready(3).await;
    eventually("its keys are imported", STATE_TIMEOUT, async || {
        is_recovered(&world, 3).then_some(())
    })
    .await;
    assert_converges(&world, &bucket).await;
    for seat in [0, 3] {
        let number = region_number(&world, seat, "us").await;
        assert!(number.is_some_and(|number| number > 2), "{number:?}");
    }
    world.wait_no_retained_changes().await;

    // What the survivor had before is still there, and the region gets its nodes back.
    let before = world.nodes[3].data_dir().join("before-recovery");
    assert!(before.is_dir(), "{}", before.display());
    for seat in [4, 5] {
        world.rejoin_wiped(seat).await;
    }
    world.wait_serving(1).await;
    eventually("its shards have three voters", STATE_TIMEOUT, async || {
        let status = world.status(3).await?;
        let mut shards = status.groups.iter().filter(|group| group.is_shard());
        let is_formed = shards.all(|shard| shard.voters.len() == 3 && !shard.changing);
        is_formed.then_some(())
    })
    .await;
    assert_converges(&world, &bucket).await;
    let path = bucket.key_path("afterwards");
    world.api(5).put(&path, "v").await.assert_status(200);
    world.wait_value(0, &path, Some("v"), STATE_TIMEOUT).await;
}

#[tokio::test]
async fn a_node_that_is_killed_at_any_moment_joins_anew_all_the_same() {
    let options = RegionOptions {
        shards: 2,
        ..RegionOptions::default()
    };
    let mut world = MultiRegionCluster::start_with(&["eu", "us"], 2, 2, options).await;
    world.expect_errors(&["removed"]);
    let bucket = write_histories(&world, 0, 1).await;
    // In a region of two, each shard has one voter, and the other node follows it.
    let voter = world.leader_in_region(0, "shard-0").await.unwrap();
    let survivor = 1 - voter;
    world.kill(voter);
    world.network.heal();
    let report = world
        .wait_recoverable(survivor, RecoveryScope::Shards)
        .await;
    world
        .confirm_recovery(survivor, RecoveryScope::Shards, &report)
        .await;
    world.kill_even_if_exiting(survivor).await;
    let (seed, _) = Uuid::new_v4().as_u64_pair();
    println!("seed {seed}");
    let mut rng = Rng::new(seed);
    for _ in 0..KILLS {
        world.nodes[survivor].start();
        world.network.set_listening(survivor, true);
        let moment = rng.millis(0..RECOVERY_MS);
        let is_done = async || is_recovered(&world, survivor).then_some(());
        let done = try_eventually(moment, is_done).await;
        world.kill_even_if_exiting(survivor).await;
        if done.is_some() {
            break;
        }
    }
    world.restart(survivor).await;
    world.wait_ready(survivor).await;
    eventually("its keys are imported", STATE_TIMEOUT, async || {
        is_recovered(&world, survivor).then_some(())
    })
    .await;
    assert_converges(&world, &bucket).await;

    // The lost node comes back, with all that it had: it is refused, now and later.
    for _ in 0..2 {
        world.nodes[voter].start();
        world.network.set_listening(voter, true);
        world.wait_exit(voter).await;
        let log = world.nodes[voter].log().tail();
        assert!(log.contains("removed"), "{log}");
        assert_converges(&world, &bucket).await;
    }
    world.rejoin_wiped(voter).await;
    world.wait_ready(voter).await;
    assert_converges(&world, &bucket).await;
}
