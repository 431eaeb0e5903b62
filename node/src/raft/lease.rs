//! Read lease of a leader: decides from three atomics, without a queue, whether this node may
//! answer a read of the group now.
//!
//! Invariant: `is_valid` is true only while no other node can have become the leader, and only
//! after this leader has applied the first entry of its own term, and with it everything that was
//! acknowledged before. The clock is the monotonic one; jumps of the wall clock don't matter.
//!
//! A term can be closed, for good: before leadership is transferred, and on stop. The election of a
//! transfer's target bypasses every lease, so `close` comes before anything that may start it.
//!
//! A lease doesn't outlive the configuration in which it was counted: once another configuration is
//! proposed, acknowledgements prove nothing in the old one any more, and a sole voter isn't the
//! only node that can be elected. So `supersede` comes before each proposal. A lease that was
//! counted until then may stay valid: a candidate in the new configuration has received it from
//! this leader later than that, and promised its vote with it.

use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

use parking_lot::Mutex;

use super::apply_progress::ApplyProgress;

/// Expiry of a lease that never expires: that of a sole voter.
const NO_EXPIRY: u64 = u64::MAX;

/// Read lease of one group on this node.
#[derive(Debug)]
pub(crate) struct Lease {
    start: Instant,
    /// Term that this node leads; 0: none.
    term: AtomicU64,
    /// Start of the leadership, in nanoseconds after `start`.
    leader_since: AtomicU64,
    /// Expiry of the lease, in nanoseconds after `start`.
    expires_at: AtomicU64,
    /// No read is answered in this term or an earlier one.
    closed_term: AtomicU64,
    /// Accessed only by those who change the lease, never by readers.
    superseded: Mutex<Option<SupersededConfig>>,
}

/// Configuration that another one was proposed to follow.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct SupersededConfig {
    /// Term of the leader that proposed the new configuration.
    term: u64,
    /// Index of the entry that holds the old configuration.
    config_index: u64,
    /// Latest expiry of a lease that is counted in the old configuration, in nanoseconds after
    /// `start`.
    latest_expiry: u64,
}

impl Default for Lease {
    fn default() -> Self {
        Self {
            start: Instant::now(),
            term: AtomicU64::new(0),
            leader_since: AtomicU64::new(0),
            expires_at: AtomicU64::new(0),
            closed_term: AtomicU64::new(0),
            superseded: Mutex::new(None),
        }
    }
}

impl Lease {
    /// Returns whether a read that begins now may be answered from the state.
    pub(crate) fn is_valid(&self, progress: &ApplyProgress) -> bool {
        let term = self.term.load(Ordering::Acquire);
        let until = self.expires_at.load(Ordering::Acquire);
        term != 0
            && term > self.closed_term.load(Ordering::Acquire)
            && progress.applied_term() == term
            && !progress.is_stalled()
            && (until == NO_EXPIRY || self.now() < until)
            // If the term is still the old one, so was the expiry that was read.
            && self.term.load(Ordering::Acquire) == term
    }

    /// Renews the lease of `term`, counted in the configuration of the entry at `config`, until
    /// `until`; `None`: it never expires, since this node is the sole voter.
    pub(super) fn renew(&self, term: u64, config: u64, until: Option<Instant>) {
        let mut superseded = self.superseded.lock();
        let latest = match *superseded {
            Some(it) if (term, config) == (it.term, it.config_index) => it.latest_expiry,
            // Counted before the configuration in force was proposed: it proves nothing now.
            Some(it) if (term, config) < (it.term, it.config_index) => return,
            Some(_) | None => {
                *superseded = None;
                NO_EXPIRY
            }
        };
        let until = latest.min(until.map_or(NO_EXPIRY, |at| self.nanos_at(at)));
        // The term is stored last: a new expiry is never taken for one of the old term.
        if self.term.load(Ordering::Acquire) != term {
            self.term.store(0, Ordering::Release);
            self.leader_since.store(self.now(), Ordering::Release);
        }
        self.expires_at.store(until, Ordering::Release);
        self.term.store(term, Ordering::Release);
    }

    /// Bounds leases before another configuration is proposed in `term`: none that is counted in
    /// the configuration of the entry at `config` ends later than `latest`.
    pub(super) fn supersede(&self, term: u64, config: u64, latest: Instant) {
        let latest = self.nanos_at(latest);
        let mut superseded = self.superseded.lock();
        *superseded = Some(SupersededConfig {
            term,
            config_index: config,
            latest_expiry: latest,
        });
        self.expires_at.fetch_min(latest, Ordering::AcqRel);
    }

    /// Counts leases in the configuration of the entry at `config` as before: no configuration
    /// followed it, and no proposal is in flight that could.
    pub(super) fn reinstate(&self, term: u64, config: u64) {
        let mut superseded = self.superseded.lock();
        if superseded.is_some_and(|it| it.term == term && it.config_index == config) {
            *superseded = None;
        }
    }

    /// Returns whether leases are bounded by a proposed configuration that isn't known to be in
    /// force or refused.
    pub(super) fn is_superseded(&self) -> bool {
        self.superseded.lock().is_some()
    }

    /// Time for which this node has led without interruption, at least, if it leads.
    pub(crate) fn led_for(&self) -> Duration {
        self.led_since().elapsed()
    }

    /// Start of this node's leadership in its term, if it leads. It led already then.
    pub(crate) fn led_since(&self) -> Instant {
        self.start + Duration::from_nanos(self.leader_since.load(Ordering::Acquire))
    }

    /// Term that this node leads, if it does, and the start of its leadership.
    pub(super) fn led_term(&self) -> Option<(u64, Instant)> {
        let term = self.term.load(Ordering::Acquire);
        // Read after the term, it belongs to this term or to a later one.
        let since = self.led_since();
        (term != 0).then_some((term, since))
    }

    /// Ends the lease: this node doesn't lead.
    pub(super) fn revoke(&self) {
        self.term.store(0, Ordering::Release);
    }

    /// Closes `term` and all earlier ones: no read is answered in them again.
    pub(crate) fn close_term(&self, term: u64) {
        self.closed_term.fetch_max(term, Ordering::AcqRel);
    }

    /// Closes all terms: no read is answered again.
    pub(crate) fn close(&self) {
        self.close_term(u64::MAX);
    }

    fn now(&self) -> u64 {
        nanos(self.start.elapsed())
    }

    fn nanos_at(&self, at: Instant) -> u64 {
        nanos(at.saturating_duration_since(self.start))
    }
}

fn nanos(duration: Duration) -> u64 {
    u64::try_from(duration.as_nanos()).unwrap_or(NO_EXPIRY - 1)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn applied(term: u64) -> ApplyProgress {
        let progress = ApplyProgress::default();
        progress.publish(term, 1);
        progress
    }

    #[test]
    fn no_read_before_the_terms_first_entry_is_applied() {
        let lease = Lease::default();
        assert!(!lease.is_valid(&applied(0)));
        lease.renew(3, 1, None);
        assert!(!lease.is_valid(&applied(2)));
        assert!(lease.is_valid(&applied(3)));
    }

    #[test]
    fn a_lease_ends() {
        let lease = Lease::default();
        lease.renew(1, 1, Some(Instant::now() + Duration::from_secs(3600)));
        assert!(lease.is_valid(&applied(1)));
        lease.renew(1, 1, Some(Instant::now()));
        assert!(!lease.is_valid(&applied(1)));
    }

    #[test]
    fn a_closed_term_stays_closed_and_a_later_one_is_open() {
        let lease = Lease::default();
        lease.renew(1, 1, None);
        lease.close_term(1);
        lease.renew(1, 1, None);
        assert!(!lease.is_valid(&applied(1)));
        lease.renew(2, 1, None);
        assert!(lease.is_valid(&applied(2)));
        lease.revoke();
        assert!(!lease.is_valid(&applied(2)));
        lease.renew(3, 1, None);
        lease.close();
        lease.renew(4, 1, None);
        assert!(!lease.is_valid(&applied(4)));
    }

    #[test]
    fn a_sole_voters_lease_expires_once_it_proposes_another_configuration() {
        let lease = Lease::default();
        lease.renew(1, 7, None);
        lease.supersede(1, 7, Instant::now());
        assert!(!lease.is_valid(&applied(1)));
        // The task that renews the lease may learn of the new configuration late.
        lease.renew(1, 7, None);
        assert!(!lease.is_valid(&applied(1)));
        let expiry = Instant::now() + Duration::from_secs(3600);
        lease.renew(1, 8, Some(expiry));
        assert!(lease.is_valid(&applied(1)));
        // A configuration older than the last superseded one isn't counted at all.
        lease.supersede(1, 8, Instant::now());
        lease.renew(1, 7, None);
        assert!(!lease.is_valid(&applied(1)));
        lease.renew(1, 9, Some(expiry));
        assert!(lease.is_valid(&applied(1)));
    }

    #[test]
    fn a_configuration_whose_successor_was_refused_counts_again() {
        let lease = Lease::default();
        lease.renew(1, 7, None);
        lease.supersede(1, 7, Instant::now());
        lease.reinstate(1, 6);
        lease.reinstate(2, 7);
        lease.renew(1, 7, None);
        assert!(!lease.is_valid(&applied(1)));
        lease.reinstate(1, 7);
        lease.renew(1, 7, None);
        assert!(lease.is_valid(&applied(1)));
    }

    #[test]
    fn a_later_term_may_use_a_configuration_that_was_superseded() {
        let lease = Lease::default();
        lease.renew(1, 7, None);
        lease.supersede(1, 9, Instant::now());
        lease.renew(2, 7, None);
        assert!(lease.is_valid(&applied(2)));
    }
}
