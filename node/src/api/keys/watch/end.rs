//! Ends of event streams: what the client is told, and when it connects again.

use std::borrow::Cow;
use std::time::Duration;

use bytes::Bytes;
use cloudkv_common::event_stream;

use crate::service::WatchEnd;

/// Time after which a client connects again: to another node, or to a bucket that has changed.
const RECONNECT_DELAY: Duration = Duration::from_secs(1);
/// Time after which a client connects again if something fails that heals by itself.
const FAILURE_DELAY: Duration = Duration::from_secs(2);
/// Time after which a client connects again if a limit is reached: others must leave first.
const LIMIT_DELAY: Duration = Duration::from_secs(10);

/// End of an event stream.
#[derive(Debug)]
pub(super) struct StreamEnd {
    reason: Cow<'static, str>,
    /// Time after which the client connects again.
    retry: Duration,
}

impl StreamEnd {
    /// Returns the end of a stream that the sender of the request can't pass on.
    pub(super) fn not_streamed() -> Self {
        Self {
            reason: "the router that passes this on has to be upgraded first".into(),
            retry: LIMIT_DELAY,
        }
    }

    /// Returns the last lines of the stream.
    pub(super) fn lines(&self) -> Bytes {
        event_stream::end(&self.reason, self.retry)
    }
}

impl From<&WatchEnd> for StreamEnd {
    fn from(end: &WatchEnd) -> Self {
        let retry = match end {
            WatchEnd::BucketDeleted
            | WatchEnd::AccessChanged
            | WatchEnd::Draining
            | WatchEnd::TooSlow => RECONNECT_DELAY,
            WatchEnd::NotServing | WatchEnd::ReadFailed => FAILURE_DELAY,
            WatchEnd::TooManyWatchers { .. } => LIMIT_DELAY,
        };
        Self {
            reason: end.to_string().into(),
            retry,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_end_tells_its_reason_and_when_to_connect_again() {
        let lines = StreamEnd::from(&WatchEnd::Draining).lines();
        assert_eq!(lines, ": this node is stopping\nretry: 1000\n");
        let of = "bucket";
        let lines = StreamEnd::from(&WatchEnd::TooManyWatchers { of }).lines();
        let expected = ": there are too many watchers of this bucket\nretry: 10000\n";
        assert_eq!(lines, expected);
        let lines = StreamEnd::not_streamed().lines();
        assert!(lines.ends_with(b" first\nretry: 10000\n"), "{lines:?}");
    }
}
