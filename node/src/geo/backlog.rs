//! Detects a backlog to another region, and whether it shrinks faster than new changes are written.

use std::time::{Duration, Instant};

/// Age of a change at sending from which the region counts as behind. Less is a burst or a hiccup.
pub(super) const LAG_THRESHOLD: Duration = Duration::from_secs(5);
/// Interval between two evaluations of the backlog.
const CHECK_INTERVAL: Duration = Duration::from_secs(1);
/// Ratio of sent to newly written changes below which the backlog shrinks too slowly.
const MIN_DRAIN_RATIO: u64 = 2;

/// Changes of a shard that another region lacks, while they are old and exceed one batch.
///
/// Sending the backlog yields to users' requests, but not without limit: if the backlog doesn't
/// shrink that way, it is sent at full speed until nothing is left, because it takes disk space and
/// would grow without bound.
#[derive(Debug)]
pub(super) struct Backlog {
    checked_at: Instant,
    /// Position up to which changes had been sent at `checked_at`.
    sent_position: u64,
    /// Position up to which changes had been written at `checked_at`.
    written_position: u64,
    is_low_priority: bool,
}

impl Backlog {
    /// Starts to track a backlog detected at `now`.
    pub(super) fn new(now: Instant, sent_position: u64, written_position: u64) -> Self {
        Self {
            checked_at: now,
            sent_position,
            written_position,
            is_low_priority: true,
        }
    }

    /// Returns whether sending yields to users' requests. `sent` and `written` are positions in the
    /// shard's history.
    pub(super) fn is_low_priority(&mut self, now: Instant, sent: u64, written: u64) -> bool {
        if now.saturating_duration_since(self.checked_at) >= CHECK_INTERVAL {
            let gained = sent.saturating_sub(self.sent_position);
            let grown = written.saturating_sub(self.written_position);
            *self = Self {
                is_low_priority: self.is_low_priority
                    && gained >= grown.saturating_mul(MIN_DRAIN_RATIO),
                ..Self::new(now, sent, written)
            };
        }
        self.is_low_priority
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
        assert!(backlog.is_low_priority(after(0), 0, 100_000));
        assert!(backlog.is_low_priority(after(1), 2_000, 101_000));
        assert!(!backlog.is_low_priority(after(2), 3_999, 102_000));
        // Between two evaluations nothing changes.
        assert!(!backlog.is_low_priority(after(2), 9_000, 102_000));
        // With low priority the region would only fall behind again.
        assert!(!backlog.is_low_priority(after(3), 60_000, 103_000));
    }

    #[test]
    fn without_writes_a_backlog_has_low_priority() {
        let start = Instant::now();
        let mut backlog = Backlog::new(start, 0, 100_000);
        assert!(backlog.is_low_priority(start + Duration::from_secs(1), 0, 100_000));
    }
}
