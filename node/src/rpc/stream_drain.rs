//! Drains the streams of users' requests before the node stops.

use std::time::Duration;

use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

/// Timeout of draining the streams of forwarded requests before the node stops.
const DRAIN_TIMEOUT: Duration = Duration::from_secs(2);

/// Drains the streams of users' requests before the rest of the node stops: all calls that others
/// have sent are answered, and they send no more.
#[derive(Clone, Debug, Default)]
pub(crate) struct StreamDrain {
    started: CancellationToken,
    streams: TaskTracker,
}

impl StreamDrain {
    /// Returns a token that is cancelled when draining starts.
    pub(super) fn started(&self) -> CancellationToken {
        self.started.clone()
    }

    /// Returns whether draining has started.
    pub(super) fn is_started(&self) -> bool {
        self.started.is_cancelled()
    }

    /// Returns the tracker of the streams that are drained.
    pub(super) fn streams(&self) -> &TaskTracker {
        &self.streams
    }

    /// Starts draining, and waits until all calls are answered, for up to [`DRAIN_TIMEOUT`].
    pub(crate) async fn drain(&self) {
        self.started.cancel();
        self.streams.close();
        if tokio::time::timeout(DRAIN_TIMEOUT, self.streams.wait())
            .await
            .is_err()
        {
            tracing::warn!(
                timeout = ?DRAIN_TIMEOUT,
                "draining forwarded requests timed out, some calls get no reply"
            );
        }
    }
}
