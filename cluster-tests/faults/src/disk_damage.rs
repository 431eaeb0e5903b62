//! Corruption of a running node's disk.
//!
//! One node at a time, and only while all groups are healthy: of three copies one is damaged. All
//! damage is found and repaired before the next step, also where no request met it: the node is
//! told to read all of its data, as an operator does it, by a marker file in its data directory and
//! a restart.

use std::time::Duration;

use cloudkv_test_harness::region::{NodeId, Region};
use cloudkv_test_harness::rng::Rng;

/// Time for all groups to be healthy again after the damage.
const HEALTHY_TIMEOUT: Duration = Duration::from_secs(180);
/// Time for a node to get damaged records from another one.
const REPAIR_TIMEOUT: Duration = Duration::from_secs(40);
/// Restarts of a node until its files are intact: one to find what no request has met, one to
/// rewrite its files, and one more where a compaction ended the process meanwhile.
const MAX_RESTARTS: usize = 5;

/// Damages a node's state and verifies the repair. Returns the number of flipped bits.
pub(super) async fn damage(
    region: &mut Region,
    seat: usize,
    hold: Duration,
    rng: &mut Rng,
) -> usize {
    region.wait_formed_within(HEALTHY_TIMEOUT).await;
    let damaged_id = region.node_id(seat).await;
    // The node flushes its state to the disk when it stops.
    region.terminate(seat).await;
    region.restart(seat).await;
    region.wait_formed_within(HEALTHY_TIMEOUT).await;
    let spacing = 512 << rng.range(0..6);
    let flipped = region.nodes[seat].damage_state(0..80, usize::try_from(spacing).unwrap_or(4096));
    tokio::time::sleep(hold).await;
    for _ in 0..MAX_RESTARTS {
        let marker = region.nodes[seat].data_dir().join("state-damaged");
        std::fs::write(&marker, "checked").expect("mark the data directory");
        if region.nodes[seat].exit_status().is_some() {
            // A compaction has met the damage first.
            region.wait_exit(seat).await;
            region.nodes[seat].start();
        } else {
            region.terminate(seat).await;
            region.restart(seat).await;
        }
        if !is_repaired(region, seat).await {
            // The damage is where the start reads, or where the repaired copy would lie: replace
            // the node.
            replace(region, seat, &damaged_id).await;
            return flipped;
        }
        region.wait_formed_within(HEALTHY_TIMEOUT).await;
        if !marker.exists() {
            return flipped;
        }
    }
    panic!("node {seat} has damaged files after {MAX_RESTARTS} restarts");
}

/// Waits until a node reports no damage; returns false if it doesn't run.
async fn is_repaired(region: &mut Region, seat: usize) -> bool {
    let deadline = std::time::Instant::now() + REPAIR_TIMEOUT;
    while std::time::Instant::now() < deadline {
        if region.nodes[seat].exit_status().is_some() {
            return false;
        }
        if let Some(status) = region.status(seat).await
            && !status.groups.iter().any(|group| group.damaged)
        {
            return true;
        }
        tokio::time::sleep(Duration::from_millis(100)).await;
    }
    false
}

/// Replaces a node by one with an empty disk, as an operator does.
async fn replace(region: &mut Region, seat: usize, lost: &NodeId) {
    if region.nodes[seat].exit_status().is_some() {
        region.wait_exit(seat).await;
    } else {
        region.kill(seat);
    }
    region.rejoin_wiped(seat).await;
    let other = (seat + 1) % region.nodes.len();
    region.replace_node(other, lost).await;
    region.wait_formed_within(HEALTHY_TIMEOUT).await;
}
