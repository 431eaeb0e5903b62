//! Disk failures before a power loss: decided by the seed alone.

use std::time::Duration;

use cloudkv_test_harness::power::{Area, DiskFaults};
use cloudkv_test_harness::rng::Rng;

/// Calls of a disk that fail.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum FailingCalls {
    /// Reads, with `EIO`. On one node alone: where no other node has the unreadable data, reads are
    /// refused.
    Reads,
    /// Writes, with `EIO`.
    Writes,
    /// Syncs, with `EIO`; the pages that they drop are lost.
    Syncs,
    /// Writes, with `ENOSPC`.
    Full,
}

/// Disks that fail for some time. Their nodes may exit, and are started again.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct DiskFailure {
    /// Nodes whose disks fail.
    pub seats: Vec<usize>,
    /// Calls that fail.
    pub calls: FailingCalls,
    /// Part of the data directory in which they fail.
    pub area: Area,
    /// Number of calls that fail on each disk; `None`: all of them.
    pub failed_calls: Option<u64>,
    /// Duration of the failure.
    pub duration: Duration,
    /// True if nodes that have exited are started before the power loss, and not after it.
    pub restarts_before_loss: bool,
    /// True if the kernel evicts pages before that start.
    pub evicts_pages: bool,
    /// Time between that start and the power loss.
    pub delay_after_start: Duration,
    /// Decides which pages failed syncs drop.
    pub seed: u64,
}

impl DiskFailure {
    /// Draws a failure of some of `seats`, the nodes of one region in random order.
    pub(super) fn draw(rng: &mut Rng, seats: &[usize]) -> Self {
        let can_repair = seats.len() >= 3;
        let calls = match rng.range(0..10) {
            0..2 if can_repair => FailingCalls::Reads,
            0..4 => FailingCalls::Writes,
            4..8 => FailingCalls::Syncs,
            _ => FailingCalls::Full,
        };
        let count = match rng.range(0..20) {
            _ if calls == FailingCalls::Reads => 1,
            0..12 => 1,
            12..17 => seats.len() / 2 + 1,
            _ => seats.len(),
        };
        let area = match rng.range(0..10) {
            0..4 => Area::Log,
            4..8 => Area::State,
            _ => Area::Everywhere,
        };
        Self {
            seats: seats[..count].to_vec(),
            calls,
            area,
            failed_calls: rng.chance_permille(600).then(|| rng.range(1..4)),
            duration: rng.millis(300..2500),
            restarts_before_loss: rng.chance_permille(700),
            evicts_pages: rng.chance_permille(300),
            delay_after_start: rng.millis(0..1500),
            seed: rng.next_u64(),
        }
    }

    /// Adds this failure to the faults of the disk of the node at `seat`.
    pub(super) fn add_to(&self, seat: usize, mut faults: DiskFaults) -> DiskFaults {
        match self.calls {
            FailingCalls::Reads => faults.reads_fail = self.area,
            FailingCalls::Writes => faults.writes_fail = self.area,
            FailingCalls::Syncs => faults.syncs_fail = self.area,
            FailingCalls::Full => faults.is_full = self.area,
        }
        faults.failed_calls = self.failed_calls;
        faults.seed = self.seed.wrapping_add(seat as u64);
        faults
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn all_calls_fail_somewhere_and_reads_only_where_they_can_be_repaired() {
        let mut rng = Rng::new(3);
        let drawn: Vec<_> = (0..300)
            .map(|_| DiskFailure::draw(&mut rng, &[2, 0, 1]))
            .collect();
        for calls in [
            FailingCalls::Reads,
            FailingCalls::Writes,
            FailingCalls::Syncs,
            FailingCalls::Full,
        ] {
            let matching = || drawn.iter().filter(|it| it.calls == calls);
            let areas = [Area::Log, Area::State, Area::Everywhere];
            assert!(
                areas
                    .iter()
                    .all(|area| matching().any(|it| it.area == *area))
            );
            let most = matching().map(|it| it.seats.len()).max();
            assert_eq!(most, Some(if calls == FailingCalls::Reads { 1 } else { 3 }));
        }
        let alone = |_| DiskFailure::draw(&mut rng, &[0]);
        assert!(
            (0..300)
                .map(alone)
                .all(|it| it.calls != FailingCalls::Reads)
        );
    }
}
