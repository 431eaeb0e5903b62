//! Body of an event stream.

use std::convert::Infallible;
use std::net::IpAddr;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll, ready};
use std::time::Duration;

use bytes::Bytes;
use cloudkv_common::event_stream;
use cloudkv_common::server::MemoryBudget;
use futures_util::stream::{BoxStream, Stream, StreamExt, unfold};
use http::HeaderValue;
use tokio::time::{Instant, Interval, MissedTickBehavior, interval_at};

use super::render;
use crate::api::metrics::ApiMetrics;
use crate::service::{WatchEnd, WatchItem, WatchStream};

/// Interval of the comments that show both ends that the other one is there.
const COMMENT_INTERVAL: Duration = Duration::from_secs(15);
/// Maximum size of a chunk that is sent whatever other answers take, in bytes.
const SMALL_CHUNK_BYTES: usize = 16 << 10;

/// Chunks of an event stream: one for each item of a watch that has blocks, and comments while
/// nothing happens.
pub(super) struct EventStream {
    items: BoxStream<'static, WatchItem>,
    with_values: bool,
    region: HeaderValue,
    comments: Interval,
    state: StreamState,
    sent: SentBytes,
    memory: AnswerMemory,
}

/// Memory for answers that clients haven't read yet, which chunks share with all other answers.
pub(super) struct AnswerMemory {
    pub budget: Arc<MemoryBudget>,
    /// Address of the client.
    pub client: Option<IpAddr>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum StreamState {
    Begin,
    Running,
    Ended,
}

/// Bytes that are counted together, so that not each chunk writes to a counter of all threads.
struct SentBytes {
    uncounted: u64,
    metrics: Arc<ApiMetrics>,
}

impl EventStream {
    /// Creates the body of a watch at a node of `region`.
    pub(super) fn new(
        watch: WatchStream,
        with_values: bool,
        region: HeaderValue,
        metrics: Arc<ApiMetrics>,
        memory: AnswerMemory,
    ) -> Self {
        let items = unfold(watch, |mut watch| async move {
            let item = watch.next().await;
            Some((item, watch))
        });
        Self::of_items(
            items.boxed(),
            with_values,
            region,
            COMMENT_INTERVAL,
            (metrics, memory),
        )
    }

    fn of_items(
        items: BoxStream<'static, WatchItem>,
        with_values: bool,
        region: HeaderValue,
        interval: Duration,
        (metrics, memory): (Arc<ApiMetrics>, AnswerMemory),
    ) -> Self {
        let mut comments = interval_at(Instant::now() + interval, interval);
        comments.set_missed_tick_behavior(MissedTickBehavior::Delay);
        Self {
            items,
            with_values,
            region,
            comments,
            state: StreamState::Begin,
            sent: SentBytes {
                uncounted: 0,
                metrics,
            },
            memory,
        }
    }

    /// Waits for the next chunk; `None` after the end.
    fn poll_chunk(&mut self, cx: &mut Context<'_>) -> Poll<Option<Bytes>> {
        match self.state {
            StreamState::Begin => {
                self.state = StreamState::Running;
                return Poll::Ready(Some(Bytes::from_static(render::BEGIN)));
            }
            StreamState::Running => {}
            StreamState::Ended => return Poll::Ready(None),
        }
        while let Poll::Ready(item) = self.items.poll_next_unpin(cx) {
            let Some(item) = item else {
                self.state = StreamState::Ended;
                return Poll::Ready(None);
            };
            if matches!(item, WatchItem::End(_)) {
                self.state = StreamState::Ended;
            }
            let chunk = render::item(&item, self.with_values, &self.region);
            if !self.memory.has_capacity(chunk.len()) {
                // The client comes back, and goes on behind the chunk before this one.
                self.state = StreamState::Ended;
                let end = WatchItem::End(WatchEnd::TooSlow);
                return Poll::Ready(Some(render::item(&end, self.with_values, &self.region)));
            }
            if !chunk.is_empty() {
                return Poll::Ready(Some(chunk));
            }
        }
        ready!(self.comments.poll_tick(cx));
        self.sent.count();
        Poll::Ready(Some(Bytes::from_static(event_stream::COMMENT)))
    }
}

impl AnswerMemory {
    /// Returns whether a chunk of this size may be sent. Small ones always may: their number is
    /// bounded by that of watchers. The connection counts a chunk until the client has read it.
    fn has_capacity(&self, bytes: usize) -> bool {
        bytes <= SMALL_CHUNK_BYTES || self.budget.has_capacity(self.client, bytes)
    }
}

impl Stream for EventStream {
    type Item = Result<Bytes, Infallible>;

    fn poll_next(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Bytes, Infallible>>> {
        let chunk = ready!(self.poll_chunk(cx));
        if let Some(chunk) = &chunk {
            self.sent.uncounted += chunk.len() as u64;
        }
        Poll::Ready(chunk.map(Ok))
    }
}

impl SentBytes {
    fn count(&mut self) {
        let bytes = std::mem::take(&mut self.uncounted);
        self.metrics.count_streamed_bytes(bytes);
    }
}

impl Drop for SentBytes {
    fn drop(&mut self) {
        self.count();
    }
}

#[cfg(test)]
#[path = "stream_tests.rs"]
mod tests;
