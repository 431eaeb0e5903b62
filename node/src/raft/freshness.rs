//! Whether a replica that doesn't lead has all that this node may have shown before.
//!
//! A node that has restarted applies its log only up to where it had noted that it was committed,
//! and one that held a replica long ago has what there was then: what it shows would go back, by
//! any amount. Invariant: `is_known` is true only after this replica has applied all that its
//! leader had committed when it was first heard, after the start or after [`Freshness::forget`]. A
//! leader knows of all that was committed once it has committed an entry of its own term; before
//! that it isn't listened to.

use std::sync::atomic::{AtomicU64, Ordering};

use super::replica::Progress;

/// No leader was heard yet.
const UNHEARD: u64 = u64::MAX;

/// What a replica must have applied before it shows anything.
#[derive(Debug)]
pub struct Freshness {
    /// Index of an entry.
    floor: AtomicU64,
}

impl Default for Freshness {
    fn default() -> Self {
        Self {
            floor: AtomicU64::new(UNHEARD),
        }
    }
}

impl Freshness {
    /// Whether a leader has to be heard yet.
    pub fn is_unheard(&self) -> bool {
        self.floor.load(Ordering::Acquire) == UNHEARD
    }

    /// The leader of `term` has committed the entry of this term and index.
    pub fn heard(&self, term: u64, (commit_term, commit_index): (u64, u64)) {
        if commit_term == term {
            let (old, new) = (UNHEARD, commit_index);
            // Fails if another call has told.
            let (order, failed) = (Ordering::AcqRel, Ordering::Acquire);
            let _ = self.floor.compare_exchange(old, new, order, failed);
        }
    }

    /// The replica was left alone for some time.
    pub fn forget(&self) {
        self.floor.store(UNHEARD, Ordering::Release);
    }

    /// Whether the replica has all that it must have.
    pub fn is_known(&self, progress: &Progress) -> bool {
        let floor = self.floor.load(Ordering::Acquire);
        floor != UNHEARD && progress.applied_index() >= floor
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_replica_shows_nothing_before_it_has_what_was_committed_when_it_came_back() {
        let (freshness, progress) = (Freshness::default(), Progress::default());
        progress.publish(3, 10);
        assert!(!freshness.is_known(&progress));
        // A leader that doesn't know yet what was committed before its term.
        freshness.heard(4, (3, 9));
        assert!(freshness.is_unheard() && !freshness.is_known(&progress));
        freshness.heard(4, (4, 12));
        freshness.heard(4, (4, 20));
        assert!(!freshness.is_known(&progress));
        progress.publish(4, 12);
        assert!(freshness.is_known(&progress));
        freshness.forget();
        assert!(!freshness.is_known(&progress));
    }
}
