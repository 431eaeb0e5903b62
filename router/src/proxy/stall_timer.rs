//! Timer of a response whose node sends nothing.
//!
//! As long as a node is sent the body of a request it may have nothing to say, as while an import
//! waits for its client: that time doesn't count, unless the node has been lost meanwhile.

use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll, ready};
use std::time::Duration;

use tokio::time::{Sleep, sleep};

use crate::upstream::{Node, PayloadRest};

/// Time without progress after which a response is aborted. Nodes send something at least every 15
/// seconds, and give up what they wait for themselves after 30.
const STALL_TIMEOUT: Duration = Duration::from_secs(60);

/// Timer of one response.
#[derive(Debug)]
pub(super) struct StallTimer {
    node: Arc<Node>,
    rest: PayloadRest,
    /// True if the request's body was still being sent when the current period began.
    was_open: bool,
    period: Option<Pin<Box<Sleep>>>,
}

impl StallTimer {
    /// Creates the timer of a node's response to a request of which this is left.
    pub(super) fn new(node: Arc<Node>, rest: PayloadRest) -> Self {
        Self {
            node,
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
        !self.was_open || !self.node.is_up()
    }
}

#[cfg(test)]
mod tests {
    use cloudkv_common::node_id::NodeId;

    use super::*;
    use crate::upstream::ConnectSettings;

    fn node() -> Arc<Node> {
        let addresses = ("127.0.0.1:1", "127.0.0.1:2");
        let settings = ConnectSettings::default();
        Arc::new(Node::new("c", NodeId::from(1), addresses, &settings))
    }

    #[test]
    fn a_response_is_stalled_after_a_period() {
        let mut timer = StallTimer::new(node(), PayloadRest::default());
        timer.begin_period();
        assert!(timer.is_stalled());
    }

    #[test]
    fn time_counts_from_the_end_of_the_request() {
        let body = Arc::new(());
        let mut timer = StallTimer::new(node(), PayloadRest::of(&body));
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

    #[test]
    fn a_request_to_a_lost_node_is_stalled_although_its_body_is_open() {
        let (body, node) = (Arc::new(()), node());
        let mut timer = StallTimer::new(node.clone(), PayloadRest::of(&body));
        timer.begin_period();
        assert!(!timer.is_stalled());
        node.record_failed_check(&"no response");
        assert!(timer.is_stalled());
    }
}
