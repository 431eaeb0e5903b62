//! Tracks when this node last knew its group to have a leader, and the commit index that it must
//! have applied to be caught up with that leader.
//!
//! Raft remembers a leader that has failed: without a majority nobody else is elected, and after a
//! restart the stored vote names the previous leader. So a leader counts only as long as its
//! messages arrive, or, on the leader itself, as long as a majority acknowledges it.

use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

use super::apply_progress::ApplyProgress;

/// Placeholder while no leader has announced a commit index.
const UNKNOWN_INDEX: u64 = u64::MAX;

/// Contact of a node with the leader of one group.
#[derive(Debug)]
pub(super) struct LeaderContact {
    start: Instant,
    /// Time without contact after which there is no leader.
    timeout: Duration,
    /// Last contact with a leader, in nanoseconds after `start`; 0: never.
    last_contact: AtomicU64,
    /// Last change of the known leader, in nanoseconds after `start`.
    leader_since: AtomicU64,
    /// Commit index when contact began.
    catch_up_index: AtomicU64,
}

impl LeaderContact {
    /// Creates a tracker without contact. Contact is lost after `timeout` without a message of the
    /// leader.
    pub(super) fn new(timeout: Duration) -> Self {
        Self {
            start: Instant::now(),
            timeout,
            last_contact: AtomicU64::new(0),
            leader_since: AtomicU64::new(0),
            catch_up_index: AtomicU64::new(UNKNOWN_INDEX),
        }
    }

    /// Records a message of the leader of `term`, which has committed the entry of this term and
    /// index.
    pub(super) fn record_append(&self, term: u64, commit: Option<(u64, u64)>) {
        let now = self.nanos_at(Instant::now());
        let last = self.last_contact.fetch_max(now, Ordering::AcqRel);
        let limit = u64::try_from(self.timeout.as_nanos()).unwrap_or(u64::MAX);
        if last == 0 || now.saturating_sub(last) > limit {
            self.catch_up_index.store(UNKNOWN_INDEX, Ordering::Release);
        }
        // A leader that has committed no entry of its own term doesn't know the commit index.
        if let Some((_, index)) = commit.filter(|(of, _)| *of == term) {
            let (order, failed) = (Ordering::AcqRel, Ordering::Acquire);
            // Fails if another call has set it.
            let _ = self
                .catch_up_index
                .compare_exchange(UNKNOWN_INDEX, index, order, failed);
        }
    }

    /// Records that this node led at `at`: a majority has acknowledged a message sent then.
    pub(super) fn record_quorum_ack(&self, at: Instant) {
        self.last_contact
            .fetch_max(self.nanos_at(at), Ordering::AcqRel);
        self.catch_up_index.store(0, Ordering::Release);
    }

    /// Records that another node is now known as the leader, or none.
    pub(super) fn record_leader_change(&self) {
        self.leader_since
            .store(self.nanos_at(Instant::now()), Ordering::Release);
    }

    /// Time since the known leader last changed.
    pub(super) fn leader_age(&self) -> Duration {
        let since = self.start + Duration::from_nanos(self.leader_since.load(Ordering::Acquire));
        since.elapsed()
    }

    /// Returns whether a leader was in contact within the timeout.
    pub(super) fn is_recent(&self) -> bool {
        self.since_last_contact()
            .is_some_and(|elapsed| elapsed < self.timeout)
    }

    /// Time since the last contact with a leader; `None` if there was none since the start.
    pub(super) fn since_last_contact(&self) -> Option<Duration> {
        let last = self.last_contact.load(Ordering::Acquire);
        (last > 0).then(|| (self.start + Duration::from_nanos(last)).elapsed())
    }

    /// Number of entries that this replica lacks of those committed when contact began; `None`
    /// while no leader has announced its commit index.
    pub(super) fn catch_up_lag(&self, progress: &ApplyProgress) -> Option<u64> {
        let floor = self.catch_up_index.load(Ordering::Acquire);
        (floor != UNKNOWN_INDEX).then(|| floor.saturating_sub(progress.applied_index()))
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

    const LONG_TIMEOUT: Duration = Duration::from_secs(3600);

    #[test]
    fn a_leader_counts_only_while_in_contact() {
        let contact = LeaderContact::new(LONG_TIMEOUT);
        assert!(!contact.is_recent());
        assert_eq!(contact.since_last_contact(), None);
        contact.record_append(3, None);
        assert!(contact.is_recent());
        let lost = LeaderContact::new(Duration::ZERO);
        lost.record_append(3, None);
        assert!(!lost.is_recent() && lost.since_last_contact().is_some());
    }

    #[test]
    fn an_old_quorum_ack_is_no_contact() {
        let contact = LeaderContact::new(Duration::from_millis(1));
        contact.record_quorum_ack(contact.start);
        while contact.is_recent() {
            std::hint::spin_loop();
        }
        contact.record_quorum_ack(Instant::now() + LONG_TIMEOUT);
        assert!(contact.is_recent());
    }

    #[test]
    fn a_replica_lags_until_it_has_applied_the_commit_index_at_first_contact() {
        let (contact, progress) = (LeaderContact::new(LONG_TIMEOUT), ApplyProgress::default());
        progress.publish(3, 10);
        assert_eq!(contact.catch_up_lag(&progress), None);
        // A leader that doesn't know yet what was committed before its term.
        contact.record_append(4, Some((3, 9)));
        assert_eq!(contact.catch_up_lag(&progress), None);
        contact.record_append(4, Some((4, 12)));
        contact.record_append(4, Some((4, 20)));
        assert_eq!(contact.catch_up_lag(&progress), Some(2));
        progress.publish(4, 12);
        assert_eq!(contact.catch_up_lag(&progress), Some(0));
    }

    #[test]
    fn contact_begins_anew_after_it_was_lost() {
        let (contact, progress) = (LeaderContact::new(Duration::ZERO), ApplyProgress::default());
        contact.record_append(4, Some((4, 12)));
        assert_eq!(contact.catch_up_lag(&progress), Some(12));
        std::hint::black_box(Instant::now());
        contact.record_append(4, Some((4, 30)));
        assert_eq!(contact.catch_up_lag(&progress), Some(30));
        contact.record_quorum_ack(Instant::now());
        assert_eq!(contact.catch_up_lag(&progress), Some(0));
    }
}
