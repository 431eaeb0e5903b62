//! A region that is behind, and whether it gains on what is written meanwhile.

use std::time::{Duration, Instant};

/// A region is behind if changes are so old when they are sent: less is a burst, or a hiccup.
pub(super) const BEHIND: Duration = Duration::from_secs(5);
/// How often it is judged.
const LOOK: Duration = Duration::from_secs(1);
/// So many times what was written must have been sent, for the backlog to shrink soon enough.
const TIMES: u64 = 2;

/// What some region lacks of a shard's history, while that is more than a part, and old.
///
/// Sending it yields to users' requests, but not at any price: where the backlog doesn't shrink that
/// way it is sent as fast as it can be until nothing is left, for it takes disk and would grow
/// without bound.
#[derive(Debug)]
pub(super) struct Backlog {
    looked: Instant,
    /// Sent up to here then.
    sent: u64,
    /// Written up to here then.
    written: u64,
    yields: bool,
}

impl Backlog {
    /// A backlog found now.
    pub fn new(now: Instant, sent: u64, written: u64) -> Self {
        Self {
            looked: now,
            sent,
            written,
            yields: true,
        }
    }

    /// Whether what is sent next shall yield; `sent` and `written` are positions in the history.
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
    fn a_backlog_that_shrinks_yields_and_one_that_does_not_is_hurried() {
        let began = Instant::now();
        let after = |seconds| began + Duration::from_secs(seconds);
        let mut backlog = Backlog::new(began, 0, 100_000);
        assert!(backlog.yields(after(0), 0, 100_000));
        assert!(backlog.yields(after(1), 2_000, 101_000));
        assert!(!backlog.yields(after(2), 3_999, 102_000));
        // Between two looks nothing changes.
        assert!(!backlog.yields(after(2), 9_000, 102_000));
        // It would only fall behind again.
        assert!(!backlog.yields(after(3), 60_000, 103_000));
    }

    #[test]
    fn without_writes_there_is_no_hurry() {
        let began = Instant::now();
        let mut backlog = Backlog::new(began, 0, 100_000);
        assert!(backlog.yields(began + Duration::from_secs(1), 0, 100_000));
    }
}
