//! May this node answer a read of the group now? Answered without a queue, from three atomics.
//!
//! Invariant: `holds` is true only while no other node can have become the leader, and only after
//! this leader has applied the first entry of its own term, and with it all that was acknowledged
//! before. The clock is the monotonic one; jumps of the wall clock don't matter.
//!
//! A term can be closed, for good: before leadership is handed over, and on stop. The target's
//! election bypasses every lease, so `close` comes before anything that may start it.

use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

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
}

impl Default for Lease {
    fn default() -> Self {
        Self {
            start: Instant::now(),
            term: AtomicU64::new(0),
            since: AtomicU64::new(0),
            until: AtomicU64::new(0),
            closed: AtomicU64::new(0),
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

    /// This node leads `term`, whose lease ends at `until`; `None`: never, it is the sole voter.
    pub(super) fn lead(&self, term: u64, until: Option<Instant>) {
        let until = match until {
            None => FOREVER,
            Some(at) => nanos(at.saturating_duration_since(self.start)),
        };
        // The term goes last: with the old term, a new end is never believed.
        if self.term.load(Ordering::Acquire) != term {
            self.term.store(0, Ordering::Release);
            self.since.store(self.now(), Ordering::Release);
        }
        self.until.store(until, Ordering::Release);
        self.term.store(term, Ordering::Release);
    }

    /// For how long this node has led without a break, at least, if it leads.
    pub fn led_for(&self) -> Duration {
        let since = self.since.load(Ordering::Acquire);
        Duration::from_nanos(self.now().saturating_sub(since))
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
        lease.lead(3, None);
        assert!(!lease.holds(&applied(2)));
        assert!(lease.holds(&applied(3)));
    }

    #[test]
    fn a_lease_ends() {
        let lease = Lease::default();
        lease.lead(1, Some(Instant::now() + Duration::from_secs(3600)));
        assert!(lease.holds(&applied(1)));
        lease.lead(1, Some(Instant::now()));
        assert!(!lease.holds(&applied(1)));
    }

    #[test]
    fn a_closed_term_stays_closed_and_a_later_one_is_open() {
        let lease = Lease::default();
        lease.lead(1, None);
        lease.close_term(1);
        lease.lead(1, None);
        assert!(!lease.holds(&applied(1)));
        lease.lead(2, None);
        assert!(lease.holds(&applied(2)));
        lease.follow();
        assert!(!lease.holds(&applied(2)));
        lease.lead(3, None);
        lease.close();
        lease.lead(4, None);
        assert!(!lease.holds(&applied(4)));
    }
}
