//! How much of a group's log is kept for members that lag.
//!
//! A leader keeps what a member lacks, and what it will lack when it has the snapshot that is on its
//! way: else that member would need another snapshot, and another one after that. It tells the
//! others with each append from which position on it does, and they keep as much: whoever leads next
//! can go on. What that takes is bounded on each node (`assembly/log_budget`), which then releases
//! it.
//!
//! Invariant: what was released is never held again, so a member that needs it counts no more.

use std::sync::atomic::{AtomicU64, Ordering};

use parking_lot::Mutex;

/// The log that one group keeps for members that lag.
#[derive(Debug, Default)]
pub struct Retention {
    /// Entries kept beyond those that are kept in any case.
    entries: AtomicU64,
    /// Up to this position nothing is kept.
    released: AtomicU64,
    /// Up to this one nothing would be, without members that lag.
    usual: AtomicU64,
    /// Position behind which a member lacks entries, and one more; 0: none does.
    needed: AtomicU64,
    /// What a leader has announced last, if one was heard since the start.
    announced: Mutex<Option<Announcement>>,
}

/// The position behind which a leader keeps entries, if a member lacks any.
#[derive(Clone, Copy, Debug)]
struct Announcement(Option<u64>);

/// What a node knows about what the other members lack.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct Lacking {
    /// The lowest position behind which a member is known to lack entries.
    pub known: Option<u64>,
    /// Whether this node leads, and knows of all members what they have.
    pub is_complete: bool,
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
        let needed = needed.map_or(0, |needed| needed.saturating_add(1));
        self.needed.store(needed, Ordering::Relaxed);
        hold
    }

    /// The position behind which entries are needed, out of what the node knows and what the last
    /// leader has announced; `purged` where neither tells yet.
    pub(super) fn needed(&self, purged: u64, lacking: Lacking) -> Option<u64> {
        if lacking.is_complete {
            return lacking.known;
        }
        let announced = *self.announced.lock();
        let announced = announced.map_or(Some(purged), |it| it.0);
        announced.into_iter().chain(lacking.known).min()
    }

    /// What this node announces to the other members when it leads.
    pub(super) fn announcement(&self) -> Option<u64> {
        self.needed.load(Ordering::Relaxed).checked_sub(1)
    }

    /// A leader has announced behind which position it keeps entries.
    pub(super) fn note_announcement(&self, position: Option<u64>) {
        *self.announced.lock() = Some(Announcement(position));
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
        self.needed.store(0, Ordering::Relaxed);
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

    #[test]
    fn members_keep_what_their_leader_announces_until_they_know_better() {
        let (leader, member) = (Retention::default(), Retention::default());
        let unknown = Lacking::default();
        // Nobody has told yet: all is kept.
        assert_eq!(member.needed(10, unknown), Some(10));
        assert_eq!(leader.announcement(), None);
        leader.hold(100, Some(40));
        assert_eq!(leader.announcement(), Some(40));
        leader.hold(100, Some(0));
        assert_eq!(leader.announcement(), Some(0));

        member.note_announcement(Some(40));
        assert_eq!(member.needed(10, unknown), Some(40));
        // It leads, and hasn't heard of all others yet.
        let lacking = |known, is_complete| Lacking { known, is_complete };
        assert_eq!(member.needed(10, lacking(Some(70), false)), Some(40));
        assert_eq!(member.needed(10, lacking(Some(70), true)), Some(70));
        assert_eq!(member.needed(10, lacking(None, true)), None);
        member.note_announcement(None);
        assert_eq!(member.needed(10, unknown), None);
        leader.hold(100, Some(40));
        leader.release();
        assert_eq!(leader.announcement(), None);
    }
}
