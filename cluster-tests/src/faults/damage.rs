//! A disk that changes what was written to it, under a node that runs.
//!
//! One node at a time, and only while all groups are whole: of three copies one is damaged. At the
//! end all of it is found and mended before the next step, also what no request met: the node is
//! told to read all that it has, as an operator does it, by a mark in its data directory and a
//! restart.

use std::time::Duration;

use crate::region::{NodeId, Region};
use crate::rng::Rng;

/// Time for all groups to be whole again after the damage.
const WHOLE_WITHIN: Duration = Duration::from_secs(180);
/// Time for a node to get what is damaged from another one.
const MENDED_WITHIN: Duration = Duration::from_secs(40);
/// Restarts of a node until its files are whole: one to find what nobody has met, one
/// to write its files anew, and one more where a compaction ended it meanwhile.
const RESTARTS: usize = 5;

/// Damages a node's state, and sees that it is mended. Returns how many bits were flipped.
pub(super) async fn damage(
    region: &mut Region,
    seat: usize,
    hold: Duration,
    rng: &mut Rng,
) -> usize {
    region.wait_formed_within(WHOLE_WITHIN).await;
    let lost = region.node_id(seat).await;
    // It writes its state to the disk when it stops.
    region.terminate(seat).await;
    region.restart(seat).await;
    region.wait_formed_within(WHOLE_WITHIN).await;
    let spacing = 512 << rng.within(0..6);
    let flipped =
        region.members[seat].damage_state(0..80, usize::try_from(spacing).unwrap_or(4096));
    tokio::time::sleep(hold).await;
    for _ in 0..RESTARTS {
        let mark = region.members[seat].data_dir().join("state-damaged");
        std::fs::write(&mark, "checked").expect("mark the data directory");
        if region.members[seat].ended().is_some() {
            // A compaction has met it first.
            region.wait_exit(seat).await;
            region.members[seat].start();
        } else {
            region.terminate(seat).await;
            region.restart(seat).await;
        }
        if !is_mended(region, seat).await {
            // What a start reads is damaged, or where the copy would lie: it is replaced.
            replace(region, seat, &lost).await;
            return flipped;
        }
        region.wait_formed_within(WHOLE_WITHIN).await;
        if !mark.exists() {
            return flipped;
        }
    }
    panic!("node {seat} has damaged files after {RESTARTS} restarts");
}

/// Waits until a node has nothing that is damaged; false if it doesn't run.
async fn is_mended(region: &mut Region, seat: usize) -> bool {
    let until = std::time::Instant::now() + MENDED_WITHIN;
    while std::time::Instant::now() < until {
        if region.members[seat].ended().is_some() {
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

/// Replaces a node by one with an empty disk, as its operator does.
async fn replace(region: &mut Region, seat: usize, lost: &NodeId) {
    if region.members[seat].ended().is_some() {
        region.wait_exit(seat).await;
    } else {
        region.kill(seat);
    }
    region.rejoin_wiped(seat).await;
    let other = (seat + 1) % region.members.len();
    region.replace(other, lost).await;
    region.wait_formed_within(WHOLE_WITHIN).await;
}
