//! When this node last knew its group to have a leader, and what it must have applied to be level
//! with that one.
//!
//! Who leads is remembered also when the leader is gone: without a majority nobody else is elected,
//! and after a restart the vote that was kept names the leader of before. So a leader counts only
//! as long as it is heard, or, on the leader itself, as long as a majority acknowledges it.

use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

use super::replica::Progress;

/// No leader has told yet what is committed.
const UNTOLD: u64 = u64::MAX;

/// A node's contact with the leader of one group.
#[derive(Debug)]
pub(super) struct Contact {
    start: Instant,
    /// Silence after which there is no leader.
    timeout: Duration,
    /// When a leader was last known, in nanoseconds after `start`; 0: never.
    last: AtomicU64,
    /// Since when the current one is taken for the leader, likewise.
    since: AtomicU64,
    /// What was committed when contact began: index of an entry.
    floor: AtomicU64,
}

impl Contact {
    /// None yet. It counts as lost after `timeout` without a sign of the leader.
    pub fn new(timeout: Duration) -> Self {
        Self {
            start: Instant::now(),
            timeout,
            last: AtomicU64::new(0),
            since: AtomicU64::new(0),
            floor: AtomicU64::new(UNTOLD),
        }
    }

    /// The leader of `term` was heard; it has committed the entry of this term and index.
    pub fn heard(&self, term: u64, commit: Option<(u64, u64)>) {
        let now = self.nanos_at(Instant::now());
        let last = self.last.fetch_max(now, Ordering::AcqRel);
        let limit = u64::try_from(self.timeout.as_nanos()).unwrap_or(u64::MAX);
        if last == 0 || now.saturating_sub(last) > limit {
            self.floor.store(UNTOLD, Ordering::Release);
        }
        // A leader that has committed no entry of its own term doesn't know what is committed.
        if let Some((_, index)) = commit.filter(|(of, _)| *of == term) {
            let (order, failed) = (Ordering::AcqRel, Ordering::Acquire);
            // Fails if another call has told.
            let _ = self.floor.compare_exchange(UNTOLD, index, order, failed);
        }
    }

    /// This node led at `at`: a majority had acknowledged it by a message sent then.
    pub fn led(&self, at: Instant) {
        self.last.fetch_max(self.nanos_at(at), Ordering::AcqRel);
        self.floor.store(0, Ordering::Release);
    }

    /// Another node is taken for the leader, or none.
    pub fn changed(&self) {
        self.since
            .store(self.nanos_at(Instant::now()), Ordering::Release);
    }

    /// For how long the current leader has been taken for it.
    pub fn settled_for(&self) -> Duration {
        let since = self.start + Duration::from_nanos(self.since.load(Ordering::Acquire));
        since.elapsed()
    }

    /// Whether there was a sign of a leader lately.
    pub fn is_recent(&self) -> bool {
        self.silence().is_some_and(|silence| silence < self.timeout)
    }

    /// For how long there was no sign of a leader; `None`: since the start.
    pub fn silence(&self) -> Option<Duration> {
        let last = self.last.load(Ordering::Acquire);
        (last > 0).then(|| (self.start + Duration::from_nanos(last)).elapsed())
    }

    /// How many entries this replica lacks of what was committed when contact began; `None` while
    /// no leader has told.
    pub fn behind(&self, progress: &Progress) -> Option<u64> {
        let floor = self.floor.load(Ordering::Acquire);
        (floor != UNTOLD).then(|| floor.saturating_sub(progress.applied_index()))
    }

    fn nanos_at(&self, at: Instant) -> u64 {
        let nanos = at.saturating_duration_since(self.start).as_nanos();
        // 0 stands for never.
        u64::try_from(nanos).unwrap_or(u64::MAX).max(1)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const LONG: Duration = Duration::from_secs(3600);

    #[test]
    fn a_leader_counts_only_while_there_are_signs_of_it() {
        let contact = Contact::new(LONG);
        assert!(!contact.is_recent());
        assert_eq!(contact.silence(), None);
        contact.heard(3, None);
        assert!(contact.is_recent());
        let lost = Contact::new(Duration::ZERO);
        lost.heard(3, None);
        assert!(!lost.is_recent() && lost.silence().is_some());
    }

    #[test]
    fn a_majority_that_acknowledged_long_ago_is_none() {
        let contact = Contact::new(Duration::from_millis(1));
        contact.led(contact.start);
        while contact.is_recent() {
            std::hint::spin_loop();
        }
        contact.led(Instant::now() + LONG);
        assert!(contact.is_recent());
    }

    #[test]
    fn a_replica_is_behind_until_it_has_what_was_committed_when_contact_began() {
        let (contact, progress) = (Contact::new(LONG), Progress::default());
        progress.publish(3, 10);
        assert_eq!(contact.behind(&progress), None);
        // A leader that doesn't know yet what was committed before its term.
        contact.heard(4, Some((3, 9)));
        assert_eq!(contact.behind(&progress), None);
        contact.heard(4, Some((4, 12)));
        contact.heard(4, Some((4, 20)));
        assert_eq!(contact.behind(&progress), Some(2));
        progress.publish(4, 12);
        assert_eq!(contact.behind(&progress), Some(0));
    }

    #[test]
    fn contact_that_was_lost_begins_anew() {
        let (contact, progress) = (Contact::new(Duration::ZERO), Progress::default());
        contact.heard(4, Some((4, 12)));
        assert_eq!(contact.behind(&progress), Some(12));
        std::hint::black_box(Instant::now());
        contact.heard(4, Some((4, 30)));
        assert_eq!(contact.behind(&progress), Some(30));
        contact.led(Instant::now());
        assert_eq!(contact.behind(&progress), Some(0));
    }
}
