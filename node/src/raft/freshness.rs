//! Decides whether a replica that doesn't lead has everything that this node may have shown before.
//!
//! A node that has restarted applies its log only up to the commit index that it had recorded, and
//! one that held a replica long ago has an old state: reads of it would go back in time, by any
//! amount. Invariant: `is_fresh` is true only after this replica has applied everything that its
//! leader had committed at first contact, after the start or after [`Freshness::reset`]. A leader
//! knows the commit index once it has committed an entry of its own term; before that its messages
//! are ignored.

use std::sync::atomic::{AtomicU64, Ordering};

use super::apply_progress::ApplyProgress;

/// Placeholder while no leader was in contact.
const UNKNOWN_INDEX: u64 = u64::MAX;

/// Bound that a replica must have applied before it may be read.
#[derive(Debug)]
pub(super) struct Freshness {
    /// Index of an entry.
    min_applied_index: AtomicU64,
}

impl Default for Freshness {
    fn default() -> Self {
        Self {
            min_applied_index: AtomicU64::new(UNKNOWN_INDEX),
        }
    }
}

impl Freshness {
    /// Returns whether no leader has announced its commit index yet.
    pub(super) fn is_unknown(&self) -> bool {
        self.min_applied_index.load(Ordering::Acquire) == UNKNOWN_INDEX
    }

    /// Records that the leader of `term` has committed the entry of this term and index.
    pub(super) fn record_commit(&self, term: u64, (commit_term, commit_index): (u64, u64)) {
        if commit_term == term {
            let (old, new) = (UNKNOWN_INDEX, commit_index);
            // Fails if another call has set it.
            let (order, failed) = (Ordering::AcqRel, Ordering::Acquire);
            let _ = self
                .min_applied_index
                .compare_exchange(old, new, order, failed);
        }
    }

    /// Starts over, after the replica received nothing for some time.
    pub(super) fn reset(&self) {
        self.min_applied_index
            .store(UNKNOWN_INDEX, Ordering::Release);
    }

    /// Returns whether the replica has applied everything that it must have.
    pub(super) fn is_fresh(&self, progress: &ApplyProgress) -> bool {
        let floor = self.min_applied_index.load(Ordering::Acquire);
        floor != UNKNOWN_INDEX && progress.applied_index() >= floor
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_replica_is_fresh_once_it_has_applied_the_commit_index_at_first_contact() {
        let (freshness, progress) = (Freshness::default(), ApplyProgress::default());
        progress.publish(3, 10);
        assert!(!freshness.is_fresh(&progress));
        // A leader that doesn't know yet what was committed before its term.
        freshness.record_commit(4, (3, 9));
        assert!(freshness.is_unknown() && !freshness.is_fresh(&progress));
        freshness.record_commit(4, (4, 12));
        freshness.record_commit(4, (4, 20));
        assert!(!freshness.is_fresh(&progress));
        progress.publish(4, 12);
        assert!(freshness.is_fresh(&progress));
        freshness.reset();
        assert!(!freshness.is_fresh(&progress));
    }
}
