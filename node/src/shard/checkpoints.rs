//! What a replica held at certain entries, to be compared with others.
//!
//! Apply is a function of state and entry, so all replicas hold the same after the same entry. One that
//! doesn't has met a bug, or its disk or memory has changed a record; the digest shows that as soon as
//! the record is written again.

use std::collections::VecDeque;
use std::sync::atomic::{AtomicBool, Ordering};

use cloudkv_proto::v1 as pb;
use parking_lot::Mutex;

/// Each entry whose index is a multiple of this is noted.
const EVERY: u64 = 256;
/// How many are kept: the last ones.
const KEPT: usize = 64;

/// The checkpoints of one replica.
#[derive(Debug, Default)]
pub struct Checkpoints {
    points: Mutex<VecDeque<pb::Checkpoint>>,
    doubted: AtomicBool,
}

/// What the other members of a group have noted, as far as they tell.
#[derive(Debug, Default)]
pub struct Told {
    /// Of each voter that tells.
    pub voters: Vec<Vec<pb::Checkpoint>>,
    /// Of each learner that does.
    pub learners: Vec<Vec<pb::Checkpoint>>,
    /// How many voters are a majority; `None`: their members are being changed.
    pub majority: Option<usize>,
}

/// What comparing them with those of other replicas shows.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Verdict {
    /// Nothing that differs.
    Same,
    /// Another replica holds something else after this entry, and it can't be told which is right, or
    /// not yet.
    Differs(u64),
    /// All other voters that tell, a majority without this one, agree on what they hold after this
    /// entry, and this one holds something else.
    Odd(u64),
}

impl Checkpoints {
    /// An entry was applied, after which this is the digest.
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

    /// The state is another one now.
    pub(super) fn forget(&self) {
        self.points.lock().clear();
    }

    /// The last ones.
    pub fn last(&self) -> Vec<pb::Checkpoint> {
        self.points.lock().iter().copied().collect()
    }

    /// The last ones as others may believe them; `None` while this node doubts itself.
    pub fn told(&self) -> Option<Vec<pb::Checkpoint>> {
        (!self.doubted.load(Ordering::Acquire)).then(|| self.last())
    }

    /// Begins, or ends, to be no witness against others.
    pub fn doubt(&self, doubted: bool) {
        self.doubted.store(doubted, Ordering::Release);
    }
}

/// Compares what this replica has noted with what others tell.
pub fn compare(own: &[pb::Checkpoint], told: &Told) -> Verdict {
    let mut verdict = Verdict::Same;
    for own in own {
        let at = |points: &Vec<pb::Checkpoint>| {
            let same = points.iter().find(|point| point.index == own.index);
            same.map(|point| point.digest)
        };
        let voters: Vec<u64> = told.voters.iter().filter_map(at).collect();
        let learners = told.learners.iter().filter_map(at);
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
            && told
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

    /// What a replica finds that compares itself with these voters and learners.
    fn judge(
        own: &[u64],
        voters: &[&[u64]],
        learners: &[&[u64]],
        majority: Option<usize>,
    ) -> Verdict {
        let all = |digests: &[&[u64]]| digests.iter().map(|digests| points(digests)).collect();
        let told = Told {
            voters: all(voters),
            learners: all(learners),
            majority,
        };
        compare(&points(own), &told)
    }

    fn of_three(own: &[u64], voters: &[&[u64]]) -> Verdict {
        judge(own, voters, &[], Some(2))
    }

    const SECOND: u64 = 2 * EVERY;

    #[test]
    fn the_odd_one_of_three_finds_out() {
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
    fn it_takes_a_majority_of_voters_that_stays_one() {
        let odd = [&[1_u64, 2][..], &[1, 2]];
        assert_eq!(judge(&[1, 9], &odd, &[], None), Verdict::Differs(SECOND));
        assert_eq!(judge(&[1, 9], &odd, &[], Some(3)), Verdict::Differs(SECOND));
        // Learners, which may be copies of the one that is wrong, only raise the alarm.
        assert_eq!(
            judge(&[1, 9], &odd[..1], &odd[..1], Some(2)),
            Verdict::Differs(SECOND)
        );
        assert_eq!(judge(&[1, 9], &[], &odd, Some(1)), Verdict::Differs(SECOND));
        assert_eq!(
            judge(&[1, 2], &odd, &[&[1, 9]], Some(2)),
            Verdict::Differs(SECOND)
        );
    }

    #[test]
    fn two_cannot_tell_which_is_right() {
        assert_eq!(of_three(&[1], &[&[2]]), Verdict::Differs(EVERY));
        assert_eq!(of_three(&[1], &[]), Verdict::Same);
    }

    #[test]
    fn only_what_both_have_noted_is_compared() {
        assert_eq!(of_three(&[], &[&[1, 2], &[1, 2]]), Verdict::Same);
        // One of them is behind.
        assert_eq!(
            of_three(&[1, 9], &[&[1, 2], &[1]]),
            Verdict::Differs(SECOND)
        );
        assert_eq!(of_three(&[1], &[&[1, 2], &[1, 2, 3]]), Verdict::Same);
    }

    #[test]
    fn who_doubts_itself_is_no_witness() {
        let mine = Checkpoints::default();
        assert_eq!(mine.told(), Some(vec![]));
        mine.doubt(true);
        assert_eq!(mine.told(), None);
        mine.doubt(false);
        assert_eq!(mine.told(), Some(vec![]));
    }

    #[test]
    fn some_are_kept_of_some_entries() {
        let mine = Checkpoints::default();
        for index in 0..=EVERY * (KEPT as u64 + 2) {
            mine.pass(index, index);
        }
        let kept = mine.last();
        assert_eq!(kept.len(), KEPT);
        assert_eq!(kept[0].index, 3 * EVERY);
        mine.forget();
        assert!(mine.last().is_empty());
    }
}
