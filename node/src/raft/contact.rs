//! Tracks when this node last knew its group to have a leader, and the commit index that it must
//! have applied to be caught up with that leader.
//!
//! Raft remembers a leader that has failed: without a majority nobody else is elected, and after a
//! restart the stored vote names the previous leader. So a leader counts only as long as its
//! messages arrive, or, on the leader itself, as long as a majority acknowledges it.

use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

use super::replica::Progress;

/// Placeholder while no leader has announced a commit index.
const UNTOLD: u64 = u64::MAX;

/// Contact of a node with the leader of one group.
#[derive(Debug)]
pub(super) struct Contact {
    start: Instant,
    /// Time without contact after which there is no leader.
    timeout: Duration,
    /// Last contact with a leader, in nanoseconds after `start`; 0: never.
    last: AtomicU64,
    /// Last change of the known leader, in nanoseconds after `start`.
    since: AtomicU64,
    /// Commit index when contact began.
    floor: AtomicU64,
}

impl Contact {
    /// Creates a tracker without contact. Contact is lost after `timeout` without a message of the
    /// leader.
    pub fn new(timeout: Duration) -> Self {
        Self {
            start: Instant::now(),
            timeout,
            last: AtomicU64::new(0),
            since: AtomicU64::new(0),
            floor: AtomicU64::new(UNTOLD),
        }
    }

    /// Records a message of the leader of `term`, which has committed the entry of this term and
    /// index.
    pub fn heard(&self, term: u64, commit: Option<(u64, u64)>) {
        let now = self.nanos_at(Instant::now());
        let last = self.last.fetch_max(now, Ordering::AcqRel);
        let limit = u64::try_from(self.timeout.as_nanos()).unwrap_or(u64::MAX);
        if last == 0 || now.saturating_sub(last) > limit {
            self.floor.store(UNTOLD, Ordering::Release);
        }
        // A leader that has committed no entry of its own term doesn't know the commit index.
        if let Some((_, index)) = commit.filter(|(of, _)| *of == term) {
            let (order, failed) = (Ordering::AcqRel, Ordering::Acquire);
            // Fails if another call has set it.
            let _ = self.floor.compare_exchange(UNTOLD, index, order, failed);
        }
    }

    /// Records that this node led at `at`: a majority has acknowledged a message sent then.
    pub fn led(&self, at: Instant) {
        self.last.fetch_max(self.nanos_at(at), Ordering::AcqRel);
        self.floor.store(0, Ordering::Release);
    }

    /// Records that another node is now known as the leader, or none.
    pub fn changed(&self) {
        self.since
            .store(self.nanos_at(Instant::now()), Ordering::Release);
    }

    /// Time since the known leader last changed.
    pub fn settled_for(&self) -> Duration {
        let since = self.start + Duration::from_nanos(self.since.load(Ordering::Acquire));
        since.elapsed()
    }

    /// Returns whether a leader was in contact within the timeout.
    pub fn is_recent(&self) -> bool {
        self.silence().is_some_and(|elapsed| elapsed < self.timeout)
    }

    /// Time since the last contact with a leader; `None` if there was none since the start.
    pub fn silence(&self) -> Option<Duration> {
        let last = self.last.load(Ordering::Acquire);
        (last > 0).then(|| (self.start + Duration::from_nanos(last)).elapsed())
    }

    /// Number of entries that this replica lacks of those committed when contact began; `None`
    /// while no leader has announced its commit index.
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
    fn a_leader_counts_only_while_in_contact() {
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
    fn an_old_quorum_ack_is_no_contact() {
        let contact = Contact::new(Duration::from_millis(1));
        contact.led(contact.start);
        while contact.is_recent() {
            std::hint::spin_loop();
        }
        contact.led(Instant::now() + LONG);
        assert!(contact.is_recent());
    }

    #[test]
    fn a_replica_lags_until_it_has_applied_the_commit_index_at_first_contact() {
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
    fn contact_begins_anew_after_it_was_lost() {
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
