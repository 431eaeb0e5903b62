//! Disks that fail before the power goes: decided by the seed alone.

use std::time::Duration;

use crate::power::{Area, Trouble};
use crate::rng::Rng;

/// The calls of a disk that fail.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum FailingCalls {
    /// Reads, with `EIO`. Of one node alone: where no other has what can't be read, reads are
    /// refused.
    Reads,
    /// Writes, with `EIO`.
    Writes,
    /// Syncs, with `EIO`; what they drop is lost.
    Syncs,
    /// Writes, with `ENOSPC`.
    Full,
}

/// Disks that fail for some time. Their nodes may end, and are started again.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct DiskFailure {
    /// The nodes whose disks fail.
    pub seats: Vec<usize>,
    /// The calls that fail.
    pub calls: FailingCalls,
    /// The part of the data directory where they do.
    pub area: Area,
    /// Number of calls that fail on each disk; `None`: all of them.
    pub failures: Option<u64>,
    /// Duration of the failure.
    pub lasts: Duration,
    /// Nodes that have ended are started before the power goes, and not after it.
    pub restarts: bool,
    /// The kernel evicts pages before they are started.
    pub evicts: bool,
    /// Time between that start and the power loss.
    pub after_start: Duration,
    /// Decides what failed syncs drop.
    pub seed: u64,
}

impl DiskFailure {
    /// One of some of `seats`, in random order, the nodes of a region.
    pub(super) fn draw(rng: &mut Rng, seats: &[usize]) -> Self {
        let can_repair = seats.len() >= 3;
        let calls = match rng.within(0..10) {
            0..2 if can_repair => FailingCalls::Reads,
            0..4 => FailingCalls::Writes,
            4..8 => FailingCalls::Syncs,
            _ => FailingCalls::Full,
        };
        let count = match rng.within(0..20) {
            _ if calls == FailingCalls::Reads => 1,
            0..12 => 1,
            12..17 => seats.len() / 2 + 1,
            _ => seats.len(),
        };
        let area = match rng.within(0..10) {
            0..4 => Area::Log,
            4..8 => Area::State,
            _ => Area::Everywhere,
        };
        Self {
            seats: seats[..count].to_vec(),
            calls,
            area,
            failures: rng.permille(600).then(|| rng.within(1..4)),
            lasts: rng.millis(300..2500),
            restarts: rng.permille(700),
            evicts: rng.permille(300),
            after_start: rng.millis(0..1500),
            seed: rng.draw(),
        }
    }

    /// The disk of the node at `seat` fails so, beside what is wrong with it already.
    pub(super) fn of_seat(&self, seat: usize, mut trouble: Trouble) -> Trouble {
        match self.calls {
            FailingCalls::Reads => trouble.reads_fail = self.area,
            FailingCalls::Writes => trouble.writes_fail = self.area,
            FailingCalls::Syncs => trouble.syncs_fail = self.area,
            FailingCalls::Full => trouble.is_full = self.area,
        }
        trouble.failures = self.failures;
        trouble.seed = self.seed.wrapping_add(seat as u64);
        trouble
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
            let such = || drawn.iter().filter(|it| it.calls == calls);
            let areas = [Area::Log, Area::State, Area::Everywhere];
            assert!(areas.iter().all(|area| such().any(|it| it.area == *area)));
            let most = such().map(|it| it.seats.len()).max();
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
