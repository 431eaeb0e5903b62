//! Timer of a response whose node sends nothing.
//!
//! As long as a node is sent the body of a request it may have nothing to say, as while an import
//! waits for its client: that time doesn't count.

use std::pin::Pin;
use std::task::{Context, Poll, ready};
use std::time::Duration;

use tokio::time::{Sleep, sleep};

use crate::upstream::PayloadRest;

/// Time without progress after which a response is aborted.
const STALL_TIMEOUT: Duration = Duration::from_secs(30);

/// Timer of one response.
#[derive(Debug)]
pub(super) struct StallTimer {
    rest: PayloadRest,
    /// True if the request's body was still being sent when the current period began.
    was_open: bool,
    period: Option<Pin<Box<Sleep>>>,
}

impl StallTimer {
    /// Creates the timer of a response to a request of which this is left.
    pub(super) fn new(rest: PayloadRest) -> Self {
        Self {
            rest,
            was_open: false,
            period: None,
        }
    }

    /// Records that the response has made progress.
    pub(super) fn reset(&mut self) {
        self.period = None;
    }

    /// Waits until the response has made no progress for too long.
    pub(super) fn poll(&mut self, cx: &mut Context<'_>) -> Poll<()> {
        loop {
            if self.period.is_none() {
                self.begin_period();
            }
            let period = self
                .period
                .get_or_insert_with(|| Box::pin(sleep(STALL_TIMEOUT)));
            ready!(period.as_mut().poll(cx));
            self.period = None;
            if self.is_stalled() {
                return Poll::Ready(());
            }
        }
    }

    fn begin_period(&mut self) {
        self.was_open = self.rest.is_open();
    }

    /// Returns whether the response is stalled at the end of a period.
    fn is_stalled(&self) -> bool {
        !self.was_open
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use super::*;

    #[test]
    fn a_response_is_stalled_after_a_period() {
        let mut timer = StallTimer::new(PayloadRest::default());
        timer.begin_period();
        assert!(timer.is_stalled());
    }

    #[test]
    fn time_counts_from_the_end_of_the_request() {
        let body = Arc::new(());
        let mut timer = StallTimer::new(PayloadRest::of(&body));
        for _ in 0..3 {
            timer.begin_period();
            assert!(!timer.is_stalled());
        }
        timer.begin_period();
        drop(body);
        assert!(!timer.is_stalled(), "the request ended in this period");
        timer.begin_period();
        assert!(timer.is_stalled());
    }
}
