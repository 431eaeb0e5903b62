//! Detects a backlog to another region, and whether it shrinks faster than new changes are written.

use std::time::{Duration, Instant};

/// Age of a change at sending from which the region counts as behind. Less is a burst or a hiccup.
pub(super) const BEHIND: Duration = Duration::from_secs(5);
/// Interval between two evaluations of the backlog.
const LOOK: Duration = Duration::from_secs(1);
/// Ratio of sent to newly written changes below which the backlog shrinks too slowly.
const TIMES: u64 = 2;

/// Changes of a shard that another region lacks, while they are old and exceed one batch.
///
/// Sending the backlog yields to users' requests, but not without limit: if the backlog doesn't
/// shrink that way, it is sent at full speed until nothing is left, because it takes disk space and
/// would grow without bound.
#[derive(Debug)]
pub(super) struct Backlog {
    looked: Instant,
    /// Position up to which changes had been sent at `checked_at`.
    sent: u64,
    /// Position up to which changes had been written at `checked_at`.
    written: u64,
    yields: bool,
}

impl Backlog {
    /// Starts to track a backlog detected at `now`.
    pub fn new(now: Instant, sent: u64, written: u64) -> Self {
        Self {
            looked: now,
            sent,
            written,
            yields: true,
        }
    }

    /// Returns whether sending yields to users' requests. `sent` and `written` are positions in the
    /// shard's history.
    pub fn yields(&mut self, now: Instant, sent: u64, written: u64) -> bool {
        if now.saturating_duration_since(self.looked) >= LOOK {
            let gained = sent.saturating_sub(self.sent);
            let grown = written.saturating_sub(self.written);
            *self = Self {
                yields: self.yields && gained >= grown.saturating_mul(TIMES),
                ..Self::new(now, sent, written)
            };
        }
        self.yields
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_shrinking_backlog_has_low_priority_and_a_growing_one_has_not() {
        let start = Instant::now();
        let after = |seconds| start + Duration::from_secs(seconds);
        let mut backlog = Backlog::new(start, 0, 100_000);
        assert!(backlog.yields(after(0), 0, 100_000));
        assert!(backlog.yields(after(1), 2_000, 101_000));
        assert!(!backlog.yields(after(2), 3_999, 102_000));
        // Between two evaluations nothing changes.
        assert!(!backlog.yields(after(2), 9_000, 102_000));
        // With low priority the region would only fall behind again.
        assert!(!backlog.yields(after(3), 60_000, 103_000));
    }

    #[test]
    fn without_writes_a_backlog_has_low_priority() {
        let start = Instant::now();
        let mut backlog = Backlog::new(start, 0, 100_000);
        assert!(backlog.yields(start + Duration::from_secs(1), 0, 100_000));
    }
}
