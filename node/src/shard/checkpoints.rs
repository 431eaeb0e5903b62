//! What a replica held at certain entries, to be compared with others.
//!
//! Apply is a function of state and entry, so all replicas hold the same after the same entry. One that
//! doesn't has met a bug, or its disk or memory has changed a record; the digest shows that as soon as
//! the record is written again.

use std::collections::VecDeque;

use cloudkv_proto::v1 as pb;
use parking_lot::Mutex;

/// Each entry whose index is a multiple of this is noted.
const EVERY: u64 = 256;
/// How many are kept: the last ones.
const KEPT: usize = 64;

/// The checkpoints of one replica.
#[derive(Debug, Default)]
pub struct Checkpoints(Mutex<VecDeque<pb::Checkpoint>>);

/// What comparing them with those of other replicas shows.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Verdict {
    /// Nothing that differs.
    Same,
    /// Another replica holds something else after this entry, and it can't be told which is right.
    Differs(u64),
    /// Two others or more agree on what they hold after this entry, and this one holds something else.
    Odd(u64),
}

impl Checkpoints {
    /// An entry was applied, after which this is the digest.
    pub(super) fn pass(&self, index: u64, digest: u64) {
        if !index.is_multiple_of(EVERY) {
            return;
        }
        let mut points = self.0.lock();
        if points.len() >= KEPT {
            points.pop_front();
        }
        points.push_back(pb::Checkpoint { index, digest });
    }

    /// The state is another one now.
    pub(super) fn forget(&self) {
        self.0.lock().clear();
    }

    /// The last ones.
    pub fn last(&self) -> Vec<pb::Checkpoint> {
        self.0.lock().iter().copied().collect()
    }

    /// Compares them with those of the other replicas.
    pub fn compare(&self, others: &[Vec<pb::Checkpoint>]) -> Verdict {
        let mut verdict = Verdict::Same;
        for own in self.last() {
            let at = |points: &Vec<pb::Checkpoint>| {
                let same = points.iter().find(|point| point.index == own.index);
                same.map(|point| point.digest)
            };
            let theirs: Vec<u64> = others.iter().filter_map(at).collect();
            if theirs.iter().all(|digest| *digest == own.digest) {
                continue;
            }
            let agree = theirs.iter().all(|digest| Some(digest) == theirs.first());
            if agree && theirs.len() >= 2 {
                return Verdict::Odd(own.index);
            }
            verdict = Verdict::Differs(own.index);
        }
        verdict
    }
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

    fn compare(own: &[u64], others: &[&[u64]]) -> Verdict {
        let mine = Checkpoints::default();
        for point in points(own) {
            mine.pass(point.index, point.digest);
        }
        let others: Vec<_> = others.iter().map(|digests| points(digests)).collect();
        mine.compare(&others)
    }

    #[test]
    fn the_odd_one_of_three_finds_out() {
        assert_eq!(compare(&[1, 2], &[&[1, 2], &[1, 2]]), Verdict::Same);
        assert_eq!(
            compare(&[1, 9], &[&[1, 2], &[1, 2]]),
            Verdict::Odd(2 * EVERY)
        );
        assert_eq!(
            compare(&[1, 2], &[&[1, 9], &[1, 2]]),
            Verdict::Differs(2 * EVERY)
        );
        assert_eq!(
            compare(&[1, 2], &[&[1, 8], &[1, 9]]),
            Verdict::Differs(2 * EVERY)
        );
    }

    #[test]
    fn two_cannot_tell_which_is_right() {
        assert_eq!(compare(&[1], &[&[2]]), Verdict::Differs(EVERY));
        assert_eq!(compare(&[1], &[]), Verdict::Same);
    }

    #[test]
    fn only_what_both_have_noted_is_compared() {
        assert_eq!(compare(&[], &[&[1, 2], &[1, 2]]), Verdict::Same);
        // One of them is behind.
        assert_eq!(
            compare(&[1, 9], &[&[1, 2], &[1]]),
            Verdict::Differs(2 * EVERY)
        );
        assert_eq!(compare(&[1], &[&[1, 2], &[1, 2, 3]]), Verdict::Same);
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
