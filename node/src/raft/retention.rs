//! How much of a group's log is kept for members that lag.
//!
//! A leader keeps what a member lacks, and what it will lack when it has the snapshot that is on its
//! way: else that member would need another snapshot, and another one after that. What that takes is
//! bounded for the node (`assembly/log_budget`), which then releases it.
//!
//! Invariant: what was released is never held again, so a member that needs it counts no more.

use std::sync::atomic::{AtomicU64, Ordering};

/// The log that one group keeps for members that lag.
#[derive(Debug, Default)]
pub struct Retention {
    /// Entries kept beyond those that are kept in any case.
    entries: AtomicU64,
    /// Up to this position nothing is kept.
    released: AtomicU64,
    /// Up to this one nothing would be, without members that lag.
    usual: AtomicU64,
}

impl Retention {
    /// The position up to which the log may be purged: `usual`, or less if a member lacks entries
    /// behind `needed`.
    pub(super) fn hold(&self, usual: u64, needed: Option<u64>) -> u64 {
        let released = self.released.load(Ordering::Relaxed);
        let needed = needed.filter(|needed| *needed >= released);
        let hold = needed.map_or(usual, |needed| needed.min(usual));
        self.usual.store(usual, Ordering::Relaxed);
        self.entries.store(usual - hold, Ordering::Relaxed);
        hold
    }

    /// How many entries are kept for members that lag, when it was last looked at.
    pub fn entries(&self) -> u64 {
        self.entries.load(Ordering::Relaxed)
    }

    /// Keeps none of them any more; returns the position up to which that is so.
    pub(super) fn release(&self) -> u64 {
        let usual = self.usual.load(Ordering::Relaxed);
        self.released.fetch_max(usual, Ordering::Relaxed);
        self.entries.store(0, Ordering::Relaxed);
        usual
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_log_is_kept_from_what_the_last_member_has_until_that_is_released() {
        let retention = Retention::default();
        assert_eq!(retention.hold(100, None), 100);
        assert_eq!(retention.hold(100, Some(150)), 100);
        assert_eq!(retention.hold(100, Some(40)), 40);
        assert_eq!(retention.entries(), 60);
        assert_eq!(retention.release(), 100);
        // That member needs a snapshot now, and what comes after it is kept again.
        assert_eq!(retention.hold(130, Some(40)), 130);
        assert_eq!(retention.hold(200, Some(120)), 120);
        assert_eq!(retention.entries(), 80);
    }
}
