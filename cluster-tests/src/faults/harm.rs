//! What is done to nodes, and undone: with any region, or several.

use std::time::Duration;

use crate::harness::try_eventually;
use crate::region::Region;
use crate::rng::Rng;

/// A jump of a wall clock, in milliseconds.
const JUMP: i64 = 10 * 60 * 1000;

/// How soon a node must notice that its clock is wrong.
const NOTICED_WITHIN: Duration = Duration::from_secs(30);

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
