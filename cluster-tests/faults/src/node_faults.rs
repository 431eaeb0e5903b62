//! Faults of nodes, for one region and for several.

use std::collections::BTreeSet;
use std::time::Duration;

use cloudkv_test_harness::region::{NodeId, NodeStatus, Region};
use cloudkv_test_harness::rng::Rng;
use cloudkv_test_harness::try_eventually;

/// Jump of a wall clock, in milliseconds.
const CLOCK_JUMP_MS: i64 = 10 * 60 * 1000;

/// Time for a node to notice that its clock is wrong.
const CLOCK_ALARM_TIMEOUT: Duration = Duration::from_secs(30);

/// Time until a node can be decommissioned, or recommissioned.
const DECOMMISSION_TIMEOUT: Duration = Duration::from_secs(60);

/// Time until a group that a node leads has begun to change its members.
const MEMBERSHIP_CHANGE_TIMEOUT: Duration = Duration::from_secs(5);

/// Kills nodes with SIGKILL and restarts them after `hold`.
pub(super) async fn kill(region: &mut Region, seats: &[usize], hold: Duration) {
    for seat in seats {
        region.kill(*seat);
    }
    tokio::time::sleep(hold).await;
    for seat in seats {
        // All are started before any is waited for: one alone may not get far.
        region.nodes[*seat].start();
    }
    for seat in seats {
        region.wait_listening(*seat).await;
    }
}

/// Suspends a node with SIGSTOP for `hold`.
pub(super) async fn pause(region: &mut Region, seat: usize, hold: Duration) {
    region.nodes[seat].pause();
    tokio::time::sleep(hold).await;
    region.nodes[seat].resume();
}

/// Stops a node with SIGTERM and restarts it after `hold`.
pub(super) async fn restart(region: &mut Region, seat: usize, hold: Duration) {
    region.terminate(seat).await;
    tokio::time::sleep(hold).await;
    region.restart(seat).await;
}

/// Moves the clock of a running node, which must have no effect, and restarts the node.
pub(super) async fn clock_jump(region: &mut Region, seat: usize, hold: Duration, rng: &mut Rng) {
    let jump = if rng.chance_permille(500) {
        CLOCK_JUMP_MS
    } else {
        -CLOCK_JUMP_MS
    };
    region.nodes[seat].set_clock(jump);
    tokio::time::sleep(hold.min(Duration::from_secs(2))).await;
    kill(region, &[seat], Duration::ZERO).await;
    let shared = &*region;
    let noticed = try_eventually(CLOCK_ALARM_TIMEOUT, async || {
        let status = shared.status(seat).await?;
        (!status.clock_ok).then_some(())
    });
    let noticed = noticed.await;
    assert!(
        noticed.is_some(),
        "node {seat} doesn't report its clock's jump"
    );
    tokio::time::sleep(hold).await;
    region.nodes[seat].set_clock(0);
    kill(region, &[seat], Duration::ZERO).await;
}

/// Decommissions nodes, one after the other, and brings them back: recommissioned while their
/// replicas still move, or with an empty disk once they were removed. Returns whether any group
/// changed its voters: only then did the fault happen.
pub(super) async fn change_members(
    region: &mut Region,
    first: usize,
    hold: Duration,
    rng: &mut Rng,
) -> bool {
    let nodes = region.nodes.len();
    let (mut seat, mut has_changed) = (first, false);
    for _ in 0..rng.range(1..5) {
        let id = region.node_id(seat).await;
        has_changed |= decommission(region, seat, &id, rng).await;
        tokio::time::sleep(hold.min(Duration::from_secs(1))).await;
        let admin_seat = (seat + 1 + rng.index(nodes - 1)) % nodes;
        bring_back(region, seat, admin_seat, &id).await;
        // In a region of two, the replicas that left one node are at the other.
        seat = (seat + 1) % nodes;
    }
    has_changed
}

/// Decommissions a node, and waits until it was removed, or has only begun to hand over its
/// replicas. Returns whether it had any vote to give up.
async fn decommission(region: &mut Region, seat: usize, id: &NodeId, rng: &mut Rng) -> bool {
    let before = votes_in(region, id).await;
    // A node that has just joined isn't known to the cluster at once, and can't take over replicas
    // before.
    let accepted = try_eventually(DECOMMISSION_TIMEOUT, async || {
        let command = ["decommission", &id.0, "--yes"];
        region.admin(seat, &command).await.ok()
    });
    assert!(
        accepted.await.is_some(),
        "node {seat} can't be decommissioned"
    );
    if rng.chance_permille(300) {
        let has_begun = try_eventually(MEMBERSHIP_CHANGE_TIMEOUT, async || {
            (votes_in(region, id).await != before).then_some(())
        });
        return has_begun.await.is_some();
    }
    wait_removed(region, seat).await;
    !before.is_empty()
}

/// Waits for the exit of a node that was decommissioned.
async fn wait_removed(region: &mut Region, seat: usize) {
    if region.nodes[seat].is_running() {
        let status = region.wait_exit(seat).await;
        assert_eq!(status.code(), Some(0), "a decommissioned node: {status}");
    }
}

/// Recommissions a node, or, if it was removed already, lets it join anew.
async fn bring_back(region: &mut Region, seat: usize, admin_seat: usize, id: &NodeId) {
    let recommission = async || match region.admin(admin_seat, &["recommission", &id.0]).await {
        Err(error) if error.contains("answered 503") || error.contains("connect to") => None,
        Ok(_) => Some(true),
        Err(error) if error.contains("was removed") => Some(false),
        Err(error) => panic!("recommission {id}: {error}"),
    };
    let is_recommissioned = try_eventually(DECOMMISSION_TIMEOUT, recommission).await;
    if !is_recommissioned.unwrap_or_else(|| panic!("node {seat} is not recommissioned in time")) {
        wait_removed(region, seat).await;
        region.rejoin_wiped(seat).await;
    }
}

/// Returns the groups in which a node votes, as their leaders report them.
async fn votes_in(region: &Region, id: &NodeId) -> BTreeSet<String> {
    let statuses = region.statuses().await;
    let led = statuses.values().flat_map(NodeStatus::led_groups);
    let voted = led.filter(|group| group.voters.contains(id));
    voted.map(|group| group.group.clone()).collect()
}
