//! Digests of a replica after certain entries, compared with those of other replicas.
//!
//! Apply is a function of state and entry, so all replicas hold the same after the same entry. A
//! replica that doesn't has met a bug, or its disk or memory has changed a record; the digest shows
//! that as soon as the record is written again.

use std::collections::VecDeque;
use std::sync::atomic::{AtomicBool, Ordering};

use cloudkv_proto::v1 as pb;
use parking_lot::Mutex;

/// Maximum number of checkpoints kept: the newest ones.
const MAX_CHECKPOINTS: usize = 64;

/// Checkpoints of one replica.
#[derive(Debug, Default)]
pub struct Checkpoints {
    points: Mutex<VecDeque<pb::Checkpoint>>,
    is_suspect: AtomicBool,
}

/// Checkpoints that the other members of a group report.
#[derive(Debug, Default)]
pub(crate) struct PeerCheckpoints {
    /// Checkpoints of each voter that reports them.
    pub voters: Vec<Vec<pb::Checkpoint>>,
    /// Checkpoints of each learner that reports them.
    pub learners: Vec<Vec<pb::Checkpoint>>,
    /// Number of voters that are a majority; `None` while the members are being changed.
    pub majority: Option<usize>,
}

/// Result of comparing checkpoints with those of other replicas.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum CheckpointVerdict {
    /// No difference.
    Match,
    /// Another replica has a different digest after the entry of this index, and it isn't known,
    /// or not yet, which one is right.
    Mismatch(u64),
    /// All other voters that report, a majority without this one, agree on the digest after the
    /// entry of this index, and this replica has a different one.
    Outlier(u64),
}

impl Checkpoints {
    /// Records the digest after the entry of an index.
    pub(super) fn record(&self, index: u64, digest: u64) {
        let mut points = self.points.lock();
        if points.len() >= MAX_CHECKPOINTS {
            points.pop_front();
        }
        points.push_back(pb::Checkpoint { index, digest });
    }

    /// Clears all checkpoints, after the state was replaced.
    pub(super) fn clear(&self) {
        self.points.lock().clear();
    }

    /// Returns the newest checkpoints.
    pub fn newest(&self) -> Vec<pb::Checkpoint> {
        self.points.lock().iter().copied().collect()
    }

    /// Returns the newest checkpoints for other nodes; `None` while this replica is suspect.
    pub fn report(&self) -> Option<Vec<pb::Checkpoint>> {
        (!self.is_suspect.load(Ordering::Acquire)).then(|| self.newest())
    }

    /// Sets whether this replica is suspect: then it reports no checkpoints to others.
    pub fn set_suspect(&self, doubted: bool) {
        self.is_suspect.store(doubted, Ordering::Release);
    }
}

/// Compares the checkpoints of this replica with those that others report.
pub(crate) fn compare_checkpoints(
    own: &[pb::Checkpoint],
    reported: &PeerCheckpoints,
) -> CheckpointVerdict {
    let mut verdict = CheckpointVerdict::Match;
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
            return CheckpointVerdict::Outlier(own.index);
        }
        verdict = CheckpointVerdict::Mismatch(own.index);
    }
    verdict
}

#[cfg(test)]
mod tests {
    use super::*;

    fn points(digests: &[u64]) -> Vec<pb::Checkpoint> {
        let points = (1..).zip(digests);
        let point = |(at, digest): (u64, &u64)| pb::Checkpoint {
            index: at * ENTRIES_PER_CHECKPOINT,
            digest: *digest,
        };
        points.map(point).collect()
    }

    /// Compares a replica with these voters and learners.
    fn verdict_for(
        own: &[u64],
        voters: &[&[u64]],
        learners: &[&[u64]],
        majority: Option<usize>,
    ) -> CheckpointVerdict {
        let all = |digests: &[&[u64]]| digests.iter().map(|digests| points(digests)).collect();
        let reported = PeerCheckpoints {
            voters: all(voters),
            learners: all(learners),
            majority,
        };
        compare_checkpoints(&points(own), &reported)
    }

    fn verdict_of_three(own: &[u64], voters: &[&[u64]]) -> CheckpointVerdict {
        verdict_for(own, voters, &[], Some(2))
    }

    const ENTRIES_PER_CHECKPOINT: u64 = 256;
    const SECOND_CHECKPOINT: u64 = 2 * ENTRIES_PER_CHECKPOINT;

    #[test]
    fn the_outlier_of_three_is_detected() {
        assert_eq!(
            verdict_of_three(&[1, 2], &[&[1, 2], &[1, 2]]),
            CheckpointVerdict::Match
        );
        assert_eq!(
            verdict_of_three(&[1, 9], &[&[1, 2], &[1, 2]]),
            CheckpointVerdict::Outlier(SECOND_CHECKPOINT)
        );
        assert_eq!(
            verdict_of_three(&[1, 2], &[&[1, 9], &[1, 2]]),
            CheckpointVerdict::Mismatch(SECOND_CHECKPOINT)
        );
        assert_eq!(
            verdict_of_three(&[1, 2], &[&[1, 8], &[1, 9]]),
            CheckpointVerdict::Mismatch(SECOND_CHECKPOINT)
        );
    }

    #[test]
    fn an_outlier_needs_a_majority_of_unchanging_voters() {
        let others = [&[1_u64, 2][..], &[1, 2]];
        assert_eq!(
            verdict_for(&[1, 9], &others, &[], None),
            CheckpointVerdict::Mismatch(SECOND_CHECKPOINT)
        );
        assert_eq!(
            verdict_for(&[1, 9], &others, &[], Some(3)),
            CheckpointVerdict::Mismatch(SECOND_CHECKPOINT)
        );
        // Learners, which may be copies of a wrong replica, only show a mismatch.
        assert_eq!(
            verdict_for(&[1, 9], &others[..1], &others[..1], Some(2)),
            CheckpointVerdict::Mismatch(SECOND_CHECKPOINT)
        );
        assert_eq!(
            verdict_for(&[1, 9], &[], &others, Some(1)),
            CheckpointVerdict::Mismatch(SECOND_CHECKPOINT)
        );
        assert_eq!(
            verdict_for(&[1, 2], &others, &[&[1, 9]], Some(2)),
            CheckpointVerdict::Mismatch(SECOND_CHECKPOINT)
        );
    }

    #[test]
    fn two_cannot_tell_which_is_right() {
        assert_eq!(
            verdict_of_three(&[1], &[&[2]]),
            CheckpointVerdict::Mismatch(ENTRIES_PER_CHECKPOINT)
        );
        assert_eq!(verdict_of_three(&[1], &[]), CheckpointVerdict::Match);
    }

    #[test]
    fn only_common_entries_are_compared() {
        assert_eq!(
            verdict_of_three(&[], &[&[1, 2], &[1, 2]]),
            CheckpointVerdict::Match
        );
        // One of them lags.
        assert_eq!(
            verdict_of_three(&[1, 9], &[&[1, 2], &[1]]),
            CheckpointVerdict::Mismatch(SECOND_CHECKPOINT)
        );
        assert_eq!(
            verdict_of_three(&[1], &[&[1, 2], &[1, 2, 3]]),
            CheckpointVerdict::Match
        );
    }

    #[test]
    fn a_suspect_replica_reports_nothing() {
        let checkpoints = Checkpoints::default();
        assert_eq!(checkpoints.report(), Some(vec![]));
        checkpoints.set_suspect(true);
        assert_eq!(checkpoints.report(), None);
        checkpoints.set_suspect(false);
        assert_eq!(checkpoints.report(), Some(vec![]));
    }

    #[test]
    fn the_newest_checkpoints_are_kept() {
        let checkpoints = Checkpoints::default();
        for index in 0..MAX_CHECKPOINTS as u64 + 3 {
            checkpoints.record(index, index);
        }
        let kept = checkpoints.newest();
        assert_eq!(kept.len(), MAX_CHECKPOINTS);
        assert_eq!(kept[0].index, 3);
        checkpoints.clear();
        assert!(checkpoints.newest().is_empty());
    }
}
