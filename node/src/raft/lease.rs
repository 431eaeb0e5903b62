//! May this node answer a read of the group now? Answered without a queue, from three atomics.
//!
//! Invariant: `holds` is true only while no other node can have become the leader, and only after
//! this leader has applied the first entry of its own term, and with it all that was acknowledged
//! before. The clock is the monotonic one; jumps of the wall clock don't matter.
//!
//! A term can be closed, for good: before leadership is handed over, and on stop. The target's
//! election bypasses every lease, so `close` comes before anything that may start it.
//!
//! A lease doesn't outlive the configuration in which it was counted: once another configuration is
//! proposed, acknowledgements prove nothing in the old one any more, and a sole voter isn't the
//! only one that can be elected. So `supersede` comes before each proposal. What was counted until
//! then may hold on: whoever stands for election in the new configuration has got it from this
//! leader later than that, and promised its vote with it.

use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

use parking_lot::Mutex;

use super::replica::Progress;

/// A lease that never ends by itself: that of a sole voter.
const FOREVER: u64 = u64::MAX;

/// The read lease of one group on this node.
#[derive(Debug)]
pub struct Lease {
    start: Instant,
    /// The term that this node leads; 0: none.
    term: AtomicU64,
    /// Since when, nanoseconds after `start`.
    since: AtomicU64,
    /// End of the lease, nanoseconds after `start`.
    until: AtomicU64,
    /// No read is answered in this term or an earlier one.
    closed: AtomicU64,
    /// Read and written by those who change the lease only, never by readers.
    superseded: Mutex<Option<Superseded>>,
}

/// A configuration that another one was proposed to follow.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Superseded {
    /// The term of the leader who proposed it.
    term: u64,
    /// Index of the entry that brought the old configuration.
    config: u64,
    /// No lease that is counted in the old configuration ends later; nanoseconds after `start`.
    latest: u64,
}

impl Default for Lease {
    fn default() -> Self {
        Self {
            start: Instant::now(),
            term: AtomicU64::new(0),
            since: AtomicU64::new(0),
            until: AtomicU64::new(0),
            closed: AtomicU64::new(0),
            superseded: Mutex::new(None),
        }
    }
}

impl Lease {
    /// Whether a read that begins now may be answered from the state.
    pub fn holds(&self, progress: &Progress) -> bool {
        let term = self.term.load(Ordering::Acquire);
        let until = self.until.load(Ordering::Acquire);
        term != 0
            && term > self.closed.load(Ordering::Acquire)
            && progress.applied_term() == term
            && !progress.is_stalled()
            && (until == FOREVER || self.now() < until)
            // With the old term, a new end would have been read.
            && self.term.load(Ordering::Acquire) == term
    }

    /// This node leads `term`, and its lease, counted in the configuration of the entry at
    /// `config`, ends at `until`; `None`: never, it is the sole voter.
    pub(super) fn lead(&self, term: u64, config: u64, until: Option<Instant>) {
        let mut superseded = self.superseded.lock();
        let latest = match *superseded {
            Some(it) if (term, config) == (it.term, it.config) => it.latest,
            // Seen before the configuration that is in force was proposed: it tells nothing now.
            Some(it) if (term, config) < (it.term, it.config) => return,
            Some(_) | None => {
                *superseded = None;
                FOREVER
            }
        };
        let until = latest.min(until.map_or(FOREVER, |at| self.nanos_at(at)));
        // The term goes last: with the old term, a new end is never believed.
        if self.term.load(Ordering::Acquire) != term {
            self.term.store(0, Ordering::Release);
            self.since.store(self.now(), Ordering::Release);
        }
        self.until.store(until, Ordering::Release);
        self.term.store(term, Ordering::Release);
    }

    /// Another configuration is about to be proposed in `term`, to follow that of the entry at
    /// `config`: no lease counted in that one ends later than `latest`.
    pub(super) fn supersede(&self, term: u64, config: u64, latest: Instant) {
        let latest = self.nanos_at(latest);
        let mut superseded = self.superseded.lock();
        *superseded = Some(Superseded {
            term,
            config,
            latest,
        });
        self.until.fetch_min(latest, Ordering::AcqRel);
    }

    /// Nothing followed the configuration of the entry at `config`, nor is anything under way that
    /// could: leases are counted in it as before.
    pub(super) fn reinstate(&self, term: u64, config: u64) {
        let mut superseded = self.superseded.lock();
        if superseded.is_some_and(|it| it.term == term && it.config == config) {
            *superseded = None;
        }
    }

    /// Whether leases have an end because another configuration was to follow, and none has been
    /// seen.
    pub(super) fn is_superseded(&self) -> bool {
        self.superseded.lock().is_some()
    }

    /// For how long this node has led without a break, at least, if it leads.
    pub fn led_for(&self) -> Duration {
        self.led_since().elapsed()
    }

    /// Since when this node leads in its term, if it does. It led already then.
    pub fn led_since(&self) -> Instant {
        self.start + Duration::from_nanos(self.since.load(Ordering::Acquire))
    }

    /// The term that this node leads, if it does, and since when.
    pub(super) fn led_term(&self) -> Option<(u64, Instant)> {
        let term = self.term.load(Ordering::Acquire);
        // Read later, it is that of this term or of a later one.
        let since = self.led_since();
        (term != 0).then_some((term, since))
    }

    /// This node doesn't lead.
    pub(super) fn follow(&self) {
        self.term.store(0, Ordering::Release);
    }

    /// Answers no read in `term` or an earlier one again.
    pub fn close_term(&self, term: u64) {
        self.closed.fetch_max(term, Ordering::AcqRel);
    }

    /// Answers no read again, in any term.
    pub fn close(&self) {
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
    u64::try_from(duration.as_nanos()).unwrap_or(FOREVER - 1)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn applied(term: u64) -> Progress {
        let progress = Progress::default();
        progress.publish(term, 1);
        progress
    }

    #[test]
    fn nobody_reads_before_the_terms_first_entry_is_applied() {
        let lease = Lease::default();
        assert!(!lease.holds(&applied(0)));
        lease.lead(3, 1, None);
        assert!(!lease.holds(&applied(2)));
        assert!(lease.holds(&applied(3)));
    }

    #[test]
    fn a_lease_ends() {
        let lease = Lease::default();
        lease.lead(1, 1, Some(Instant::now() + Duration::from_secs(3600)));
        assert!(lease.holds(&applied(1)));
        lease.lead(1, 1, Some(Instant::now()));
        assert!(!lease.holds(&applied(1)));
    }

    #[test]
    fn a_closed_term_stays_closed_and_a_later_one_is_open() {
        let lease = Lease::default();
        lease.lead(1, 1, None);
        lease.close_term(1);
        lease.lead(1, 1, None);
        assert!(!lease.holds(&applied(1)));
        lease.lead(2, 1, None);
        assert!(lease.holds(&applied(2)));
        lease.follow();
        assert!(!lease.holds(&applied(2)));
        lease.lead(3, 1, None);
        lease.close();
        lease.lead(4, 1, None);
        assert!(!lease.holds(&applied(4)));
    }

    #[test]
    fn a_sole_voters_lease_ends_once_it_proposes_another_configuration() {
        let lease = Lease::default();
        lease.lead(1, 7, None);
        lease.supersede(1, 7, Instant::now());
        assert!(!lease.holds(&applied(1)));
        // Who keeps the lease may learn of the new configuration late.
        lease.lead(1, 7, None);
        assert!(!lease.holds(&applied(1)));
        let soon = Instant::now() + Duration::from_secs(3600);
        lease.lead(1, 8, Some(soon));
        assert!(lease.holds(&applied(1)));
        // What is older than the last one that was superseded isn't counted at all.
        lease.supersede(1, 8, Instant::now());
        lease.lead(1, 7, None);
        assert!(!lease.holds(&applied(1)));
        lease.lead(1, 9, Some(soon));
        assert!(lease.holds(&applied(1)));
    }

    #[test]
    fn a_configuration_that_nothing_followed_counts_again() {
        let lease = Lease::default();
        lease.lead(1, 7, None);
        lease.supersede(1, 7, Instant::now());
        lease.reinstate(1, 6);
        lease.reinstate(2, 7);
        lease.lead(1, 7, None);
        assert!(!lease.holds(&applied(1)));
        lease.reinstate(1, 7);
        lease.lead(1, 7, None);
        assert!(lease.holds(&applied(1)));
    }

    #[test]
    fn a_later_term_may_be_led_in_a_configuration_that_was_superseded_before() {
        let lease = Lease::default();
        lease.lead(1, 7, None);
        lease.supersede(1, 9, Instant::now());
        lease.lead(2, 7, None);
        assert!(lease.holds(&applied(2)));
    }
}
