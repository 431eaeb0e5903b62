//! Digests of a replica after certain entries, compared with those of other replicas.
//!
//! Apply is a function of state and entry, so all replicas hold the same after the same entry. A
//! replica that doesn't has met a bug, or its disk or memory has changed a record; the digest shows
//! that as soon as the record is written again.

use std::collections::VecDeque;
use std::sync::atomic::{AtomicBool, Ordering};

use cloudkv_proto::v1 as pb;
use parking_lot::Mutex;

/// Number of entries between two checkpoints: the index of each is a multiple of it.
const EVERY: u64 = 256;
/// Maximum number of checkpoints kept: the newest ones.
const KEPT: usize = 64;

/// Checkpoints of one replica.
#[derive(Debug, Default)]
pub struct Checkpoints {
    points: Mutex<VecDeque<pb::Checkpoint>>,
    doubted: AtomicBool,
}

/// Checkpoints that the other members of a group report.
#[derive(Debug, Default)]
pub struct Told {
    /// Checkpoints of each voter that reports them.
    pub voters: Vec<Vec<pb::Checkpoint>>,
    /// Checkpoints of each learner that reports them.
    pub learners: Vec<Vec<pb::Checkpoint>>,
    /// Number of voters that are a majority; `None` while the members are being changed.
    pub majority: Option<usize>,
}

/// Result of comparing checkpoints with those of other replicas.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Verdict {
    /// No difference.
    Same,
    /// Another replica has a different digest after the entry of this index, and it isn't known,
    /// or not yet, which one is right.
    Differs(u64),
    /// All other voters that report, a majority without this one, agree on the digest after the
    /// entry of this index, and this replica has a different one.
    Odd(u64),
}

impl Checkpoints {
    /// Records the digest after an applied entry, if a checkpoint is due.
    pub(super) fn pass(&self, index: u64, digest: u64) {
        if !index.is_multiple_of(EVERY) {
            return;
        }
        let mut points = self.points.lock();
        if points.len() >= KEPT {
            points.pop_front();
        }
        points.push_back(pb::Checkpoint { index, digest });
    }

    /// Clears all checkpoints, after the state was replaced.
    pub(super) fn forget(&self) {
        self.points.lock().clear();
    }

    /// Returns the newest checkpoints.
    pub fn last(&self) -> Vec<pb::Checkpoint> {
        self.points.lock().iter().copied().collect()
    }

    /// Returns the newest checkpoints for other nodes; `None` while this replica is suspect.
    pub fn told(&self) -> Option<Vec<pb::Checkpoint>> {
        (!self.doubted.load(Ordering::Acquire)).then(|| self.last())
    }

    /// Sets whether this replica is suspect: then it reports no checkpoints to others.
    pub fn doubt(&self, doubted: bool) {
        self.doubted.store(doubted, Ordering::Release);
    }
}

/// Compares the checkpoints of this replica with those that others report.
pub fn compare(own: &[pb::Checkpoint], reported: &Told) -> Verdict {
    let mut verdict = Verdict::Same;
    for own in own {
        let at = |points: &Vec<pb::Checkpoint>| {
            let same = points.iter().find(|point| point.index == own.index);
            same.map(|point| point.digest)
        };
        let voters: Vec<u64> = reported.voters.iter().filter_map(at).collect();
        let learners = reported.learners.iter().filter_map(at);
        if voters
            .iter()
            .copied()
            .chain(learners)
            .all(|digest| digest == own.digest)
        {
            continue;
        }
        let first = voters.first().copied();
        let agree = first != Some(own.digest) && voters.iter().all(|it| Some(*it) == first);
        if agree
            && reported
                .majority
                .is_some_and(|majority| voters.len() >= majority)
        {
            return Verdict::Odd(own.index);
        }
        verdict = Verdict::Differs(own.index);
    }
    verdict
}

#[cfg(test)]
mod tests {
    use super::*;

    fn points(digests: &[u64]) -> Vec<pb::Checkpoint> {
        let points = (1..).zip(digests);
        let point = |(at, digest): (u64, &u64)| pb::Checkpoint {
            index: at * EVERY,
            digest: *digest,
        };
        points.map(point).collect()
    }

    /// Compares a replica with these voters and learners.
    fn judge(
        own: &[u64],
        voters: &[&[u64]],
        learners: &[&[u64]],
        majority: Option<usize>,
    ) -> Verdict {
        let all = |digests: &[&[u64]]| digests.iter().map(|digests| points(digests)).collect();
        let reported = Told {
            voters: all(voters),
            learners: all(learners),
            majority,
        };
        compare(&points(own), &reported)
    }

    fn of_three(own: &[u64], voters: &[&[u64]]) -> Verdict {
        judge(own, voters, &[], Some(2))
    }

    const SECOND: u64 = 2 * EVERY;

    #[test]
    fn the_outlier_of_three_is_detected() {
        assert_eq!(of_three(&[1, 2], &[&[1, 2], &[1, 2]]), Verdict::Same);
        assert_eq!(of_three(&[1, 9], &[&[1, 2], &[1, 2]]), Verdict::Odd(SECOND));
        assert_eq!(
            of_three(&[1, 2], &[&[1, 9], &[1, 2]]),
            Verdict::Differs(SECOND)
        );
        assert_eq!(
            of_three(&[1, 2], &[&[1, 8], &[1, 9]]),
            Verdict::Differs(SECOND)
        );
    }

    #[test]
    fn an_outlier_needs_a_majority_of_unchanging_voters() {
        let others = [&[1_u64, 2][..], &[1, 2]];
        assert_eq!(judge(&[1, 9], &others, &[], None), Verdict::Differs(SECOND));
        assert_eq!(judge(&[1, 9], &others, &[], Some(3)), Verdict::Differs(SECOND));
        // Learners, which may be copies of a wrong replica, only show a mismatch.
        assert_eq!(
            judge(&[1, 9], &others[..1], &others[..1], Some(2)),
            Verdict::Differs(SECOND)
        );
        assert_eq!(judge(&[1, 9], &[], &others, Some(1)), Verdict::Differs(SECOND));
        assert_eq!(
            judge(&[1, 2], &others, &[&[1, 9]], Some(2)),
            Verdict::Differs(SECOND)
        );
    }

    #[test]
    fn two_cannot_tell_which_is_right() {
        assert_eq!(of_three(&[1], &[&[2]]), Verdict::Differs(EVERY));
        assert_eq!(of_three(&[1], &[]), Verdict::Same);
    }

    #[test]
    fn only_common_entries_are_compared() {
        assert_eq!(of_three(&[], &[&[1, 2], &[1, 2]]), Verdict::Same);
        // One of them lags.
        assert_eq!(
            of_three(&[1, 9], &[&[1, 2], &[1]]),
            Verdict::Differs(SECOND)
        );
        assert_eq!(of_three(&[1], &[&[1, 2], &[1, 2, 3]]), Verdict::Same);
    }

    #[test]
    fn a_suspect_replica_reports_nothing() {
        let checkpoints = Checkpoints::default();
        assert_eq!(checkpoints.told(), Some(vec![]));
        checkpoints.doubt(true);
        assert_eq!(checkpoints.told(), None);
        checkpoints.doubt(false);
        assert_eq!(checkpoints.told(), Some(vec![]));
    }

    #[test]
    fn the_newest_checkpoints_are_kept() {
        let checkpoints = Checkpoints::default();
        for index in 0..=EVERY * (KEPT as u64 + 2) {
            checkpoints.pass(index, index);
        }
        let kept = checkpoints.last();
        assert_eq!(kept.len(), KEPT);
        assert_eq!(kept[0].index, 3 * EVERY);
        checkpoints.forget();
        assert!(checkpoints.last().is_empty());
    }
}
