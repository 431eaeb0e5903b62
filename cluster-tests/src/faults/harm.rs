//! What is done to nodes, and undone: with any region, or several.

use std::collections::BTreeSet;
use std::time::Duration;

use crate::harness::try_eventually;
use crate::region::{NodeId, Region, Status};
use crate::rng::Rng;

/// A jump of a wall clock, in milliseconds.
const JUMP: i64 = 10 * 60 * 1000;

/// How soon a node must notice that its clock is wrong.
const NOTICED_WITHIN: Duration = Duration::from_secs(30);

/// Time until no group names a decommissioned node any more.
const LEAVES_WITHIN: Duration = Duration::from_secs(60);

/// Time until a group that a node leads has begun to change its members.
const BEGINS_WITHIN: Duration = Duration::from_secs(5);

/// `kill -9` of nodes, and a restart after a while.
pub(super) async fn kill(region: &mut Region, seats: &[usize], hold: Duration) {
    for seat in seats {
        region.kill(*seat);
    }
    tokio::time::sleep(hold).await;
    for seat in seats {
        // All are started before any is waited for: alone they may not get far.
        region.members[*seat].start();
    }
    for seat in seats {
        region.wait_listening(*seat).await;
    }
}

/// SIGSTOP, and SIGCONT after a while.
pub(super) async fn pause(region: &mut Region, seat: usize, hold: Duration) {
    region.members[seat].pause();
    tokio::time::sleep(hold).await;
    region.members[seat].resume();
}

/// SIGTERM, and a restart after a while.
pub(super) async fn restart(region: &mut Region, seat: usize, hold: Duration) {
    region.terminate(seat).await;
    tokio::time::sleep(hold).await;
    region.restart(seat).await;
}

/// The clock jumps while the node runs, which must not matter, and then it restarts.
pub(super) async fn clock_jump(region: &mut Region, seat: usize, hold: Duration, rng: &mut Rng) {
    let jump = if rng.permille(500) { JUMP } else { -JUMP };
    region.members[seat].set_clock(jump);
    tokio::time::sleep(hold.min(Duration::from_secs(2))).await;
    kill(region, &[seat], Duration::ZERO).await;
    let seen = &*region;
    let noticed = try_eventually(NOTICED_WITHIN, async || {
        let status = seen.status(seat).await?;
        (!status.clock_ok).then_some(())
    });
    let noticed = noticed.await;
    assert!(
        noticed.is_some(),
        "node {seat} doesn't see its clock's jump"
    );
    tokio::time::sleep(hold).await;
    region.members[seat].set_clock(0);
    kill(region, &[seat], Duration::ZERO).await;
}

/// Nodes leave all groups, or some of them, one after the other, and come back, or another one in
/// place of the last. Returns whether any group changed its voters: only then did something happen.
pub(super) async fn change_members(
    region: &mut Region,
    first: usize,
    hold: Duration,
    rng: &mut Rng,
) -> bool {
    let nodes = region.members.len();
    let (moves, is_replaced) = (rng.within(1..5), rng.permille(200));
    let (mut seat, mut has_changed) = (first, false);
    for _ in 1..moves {
        has_changed |= move_away(region, seat, rng).await;
        let id = region.node_id(seat).await;
        region.insist(seat, &["recommission", &id.0]).await;
        // In a region of two, what has left one node is at the other.
        seat = (seat + 1) % nodes;
    }
    let id = region.node_id(seat).await;
    has_changed |= move_away(region, seat, rng).await;
    tokio::time::sleep(hold.min(Duration::from_secs(1))).await;
    let teller = (seat + 1 + rng.index(nodes - 1)) % nodes;
    if is_replaced {
        wait_left(region, seat, &id).await;
        region.kill(seat);
        region.rejoin_wiped(seat).await;
        region.replace(teller, &id).await;
    } else {
        region.insist(teller, &["recommission", &id.0]).await;
    }
    has_changed
}

/// Decommissions a node, and waits until it has left its groups, or only begun to. Returns whether
/// it had any vote to give up.
async fn move_away(region: &Region, seat: usize, rng: &mut Rng) -> bool {
    let id = region.node_id(seat).await;
    let before = votes_in(region, &id).await;
    region.insist(seat, &["decommission", &id.0]).await;
    if rng.permille(300) {
        let begun = try_eventually(BEGINS_WITHIN, async || {
            (votes_in(region, &id).await != before).then_some(())
        });
        return begun.await.is_some();
    }
    wait_left(region, seat, &id).await;
    !before.is_empty()
}

async fn wait_left(region: &Region, seat: usize, id: &NodeId) {
    let left = try_eventually(LEAVES_WITHIN, async || {
        has_left(region, id).await.then_some(())
    });
    assert!(
        left.await.is_some(),
        "node {seat} does not leave its groups"
    );
}

/// The groups in which a node votes, as their leaders say.
async fn votes_in(region: &Region, id: &NodeId) -> BTreeSet<String> {
    let statuses = region.statuses().await;
    let led = statuses.values().flat_map(Status::led);
    let voted = led.filter(|group| group.voters.contains(id));
    voted.map(|group| group.group.clone()).collect()
}

/// Whether every group has a leader that says that a node isn't in it; of the metadata it stays a
/// learner.
async fn has_left(region: &Region, id: &NodeId) -> bool {
    let statuses = region.statuses().await;
    region.groups().iter().all(|name| {
        let groups = statuses.values().filter_map(|status| status.group(name));
        let led = groups.filter(|group| group.leads());
        led.max_by_key(|group| group.term).is_some_and(|group| {
            let learns = group.is_shard() && group.learners.contains(id);
            !learns && !group.voters.contains(id)
        })
    })
}
