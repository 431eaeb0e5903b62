//! Retains a group's log for members that lag.
//!
//! A leader keeps the entries that a member lacks, and those that it will lack once it has the
//! snapshot that is being sent to it: else that member would need another snapshot, and another one
//! after that. With each append it announces the position from which on it does, and the other
//! members keep as much: so the next leader can go on. The size of the retained log is bounded on
//! each node (`log_budget`), which releases it beyond that.
//!
//! Invariant: a released part of the log is never retained again, so a member that needs it doesn't
//! count any more.

use std::sync::atomic::{AtomicU64, Ordering};

use parking_lot::Mutex;

/// Log that one group retains for members that lag.
#[derive(Debug, Default)]
pub struct LogRetention {
    /// Number of entries retained beyond those that are kept in any case.
    retained_entries: AtomicU64,
    /// Up to this position nothing is retained.
    released_index: AtomicU64,
    /// Purge position without members that lag.
    usual_index: AtomicU64,
    /// Position behind which a member lacks entries, plus one; 0: no member lacks any.
    needed_index: AtomicU64,
    /// Last announcement of a leader, if one was received since the start.
    announced: Mutex<Option<Announcement>>,
}

/// Position behind which a leader retains entries, if a member lacks any.
#[derive(Clone, Copy, Debug)]
struct Announcement(Option<u64>);

/// Entries that other members lack, as far as this node knows.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct MissingEntries {
    /// Lowest position behind which a member is known to lack entries.
    pub lowest_known: Option<u64>,
    /// Set if this node leads, and knows the position of every member.
    pub is_complete: bool,
}

impl LogRetention {
    /// Returns the position up to which the log may be purged: `usual`, or less if a member lacks
    /// entries behind `needed`.
    pub(super) fn purge_limit(&self, usual: u64, needed: Option<u64>) -> u64 {
        let released = self.released_index.load(Ordering::Relaxed);
        let needed = needed.filter(|needed| *needed >= released);
        let hold = needed.map_or(usual, |needed| needed.min(usual));
        self.usual_index.store(usual, Ordering::Relaxed);
        self.retained_entries.store(usual - hold, Ordering::Relaxed);
        let needed = needed.map_or(0, |needed| needed.saturating_add(1));
        self.needed_index.store(needed, Ordering::Relaxed);
        hold
    }

    /// Returns the position behind which entries are needed, from what the node knows and the
    /// leader's last announcement; `purged` if neither is known.
    pub(super) fn needed_index(&self, purged: u64, lacking: MissingEntries) -> Option<u64> {
        if lacking.is_complete {
            return lacking.lowest_known;
        }
        let announced = *self.announced.lock();
        let announced = announced.map_or(Some(purged), |last| last.0);
        announced.into_iter().chain(lacking.lowest_known).min()
    }

    /// Position that this node announces to the other members when it leads.
    pub(super) fn announcement(&self) -> Option<u64> {
        self.needed_index.load(Ordering::Relaxed).checked_sub(1)
    }

    /// Records the position behind which the leader retains entries.
    pub(super) fn record_announcement(&self, position: Option<u64>) {
        *self.announced.lock() = Some(Announcement(position));
    }

    /// Number of entries retained for members that lag, at the last purge.
    pub fn retained_entries(&self) -> u64 {
        self.retained_entries.load(Ordering::Relaxed)
    }

    /// Stops retaining entries; returns the position up to which they are released.
    pub(super) fn release(&self) -> u64 {
        let usual = self.usual_index.load(Ordering::Relaxed);
        self.released_index.fetch_max(usual, Ordering::Relaxed);
        self.retained_entries.store(0, Ordering::Relaxed);
        self.needed_index.store(0, Ordering::Relaxed);
        usual
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_log_is_retained_behind_the_slowest_member_until_it_is_released() {
        let retention = LogRetention::default();
        assert_eq!(retention.purge_limit(100, None), 100);
        assert_eq!(retention.purge_limit(100, Some(150)), 100);
        assert_eq!(retention.purge_limit(100, Some(40)), 40);
        assert_eq!(retention.retained_entries(), 60);
        assert_eq!(retention.release(), 100);
        // That member needs a snapshot now, and what it lacks after it is retained again.
        assert_eq!(retention.purge_limit(130, Some(40)), 130);
        assert_eq!(retention.purge_limit(200, Some(120)), 120);
        assert_eq!(retention.retained_entries(), 80);
    }

    #[test]
    fn members_retain_what_their_leader_announces_until_they_lead() {
        let (leader, member) = (LogRetention::default(), LogRetention::default());
        let unknown = MissingEntries::default();
        // Nothing announced yet: all is retained.
        assert_eq!(member.needed_index(10, unknown), Some(10));
        assert_eq!(leader.announcement(), None);
        leader.purge_limit(100, Some(40));
        assert_eq!(leader.announcement(), Some(40));
        leader.purge_limit(100, Some(0));
        assert_eq!(leader.announcement(), Some(0));

        member.record_announcement(Some(40));
        assert_eq!(member.needed_index(10, unknown), Some(40));
        // It leads, and hasn't received acknowledgements of all others yet.
        let lacking = |known, is_complete| MissingEntries {
            lowest_known: known,
            is_complete,
        };
        assert_eq!(member.needed_index(10, lacking(Some(70), false)), Some(40));
        assert_eq!(member.needed_index(10, lacking(Some(70), true)), Some(70));
        assert_eq!(member.needed_index(10, lacking(None, true)), None);
        member.record_announcement(None);
        assert_eq!(member.needed_index(10, unknown), None);
        leader.purge_limit(100, Some(40));
        leader.release();
        assert_eq!(leader.announcement(), None);
    }
}
