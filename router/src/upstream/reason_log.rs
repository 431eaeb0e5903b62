//! Decides when a changed reason of a lasting failure is logged.

use std::time::{Duration, Instant};

/// Minimum interval at which changes of a reason are logged.
const CHANGE_INTERVAL: Duration = Duration::from_secs(10);

/// Reason of a lasting failure, as it was last logged. Another reason is logged at once, and then
/// none for [`CHANGE_INTERVAL`], after which the last one counts.
#[derive(Debug, Default)]
pub(crate) struct ReasonLog {
    logged: Option<String>,
    changed_at: Option<Instant>,
}

impl ReasonLog {
    /// Records a reason that is logged in any case, as at the begin of the failure.
    pub(crate) fn record(&mut self, reason: &str) {
        self.logged = Some(reason.to_owned());
    }

    /// Takes the reason of the last attempt. Returns whether it must be logged now, because it
    /// differs from the logged one.
    pub(crate) fn take_change(&mut self, reason: &str, now: Instant) -> bool {
        let is_changed = self.logged.as_deref().is_some_and(|it| it != reason);
        let is_recent = |changed: Instant| now.saturating_duration_since(changed) < CHANGE_INTERVAL;
        if !is_changed || self.changed_at.is_some_and(is_recent) {
            return false;
        }
        self.logged = Some(reason.to_owned());
        self.changed_at = Some(now);
        true
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_changed_reason_is_logged_at_once_and_then_at_intervals() {
        let (mut log, begin) = (ReasonLog::default(), Instant::now());
        let at = |seconds| begin + Duration::from_secs(seconds);
        log.record("refused");
        assert!(!log.take_change("refused", at(1)));
        assert!(log.take_change("another CA", at(2)));
        assert!(!log.take_change("another CA", at(3)));
        // It changes back and forth: only the last one is logged, when the interval is over.
        assert!(!log.take_change("refused", at(4)));
        assert!(!log.take_change("no response", at(11)));
        assert!(log.take_change("no response", at(12)));
        assert!(!log.take_change("refused", at(13)));
        assert!(!log.take_change("no response", at(40)));
    }

    #[test]
    fn a_reason_is_no_change_before_one_was_logged() {
        let (mut log, begin) = (ReasonLog::default(), Instant::now());
        assert!(!log.take_change("refused", begin));
        assert!(!log.take_change("another CA", begin));
        log.record("another CA");
        assert!(!log.take_change("another CA", begin));
        assert!(log.take_change("refused", begin));
    }
}
