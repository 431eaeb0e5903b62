//! Tasks of HTTP/2 streams: each ends when its response makes no progress for too long.
//!
//! hyper polls a stream whose response waits for the client's window when that has grown, and not
//! before. So a stream that has a response and isn't polled makes no progress, unless its response
//! waits for its own source, which may take hours: that time isn't counted.

use std::cell::Cell;
use std::future::Future;
use std::pin::Pin;
use std::task::{Context, Poll};
use std::time::Duration;

use hyper::rt::Executor;
use tokio::time::{Instant, Sleep, sleep};
use tokio_util::task::TaskTracker;

thread_local! {
    /// Set if the stream that is being polled on this thread has got its response.
    static HAS_RESPONSE: Cell<bool> = const { Cell::new(false) };
    /// Set if the response of the stream that is being polled on this thread waits for its source.
    static WAITS_FOR_SOURCE: Cell<bool> = const { Cell::new(false) };
}

/// Records that the stream that is being polled has got its response.
pub(crate) fn set_has_response() {
    HAS_RESPONSE.set(true);
}

/// Records whether the response of the stream that is being polled waits for its source.
pub(crate) fn set_waits_for_source(waits: bool) {
    WAITS_FOR_SOURCE.set(waits);
}

/// Executor of the streams of HTTP/2 connections, as tracked tasks.
#[derive(Clone)]
pub(crate) struct StreamExecutor {
    tasks: TaskTracker,
    timeout: Duration,
}

impl StreamExecutor {
    /// Creates an executor that ends streams whose responses make no progress for `timeout`.
    pub(crate) fn new(tasks: TaskTracker, timeout: Duration) -> Self {
        Self { tasks, timeout }
    }
}

impl<F> Executor<F> for StreamExecutor
where
    F: Future + Send + 'static,
    F::Output: Send + 'static,
{
    fn execute(&self, future: F) {
        self.tasks.spawn(StreamTask {
            future: Box::pin(future),
            timeout: self.timeout,
            has_response: false,
            deadline: None,
        });
    }
}

/// Task of a stream, which is reset if this is dropped before its end.
struct StreamTask<F> {
    future: Pin<Box<F>>,
    timeout: Duration,
    has_response: bool,
    deadline: Option<Pin<Box<Sleep>>>,
}

impl<F: Future> Future for StreamTask<F> {
    type Output = ();

    fn poll(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<()> {
        let this = &mut *self;
        if this
            .deadline
            .as_ref()
            .is_some_and(|deadline| deadline.is_elapsed())
        {
            tracing::debug!("response made no progress, stream reset");
            return Poll::Ready(());
        }
        HAS_RESPONSE.set(false);
        WAITS_FOR_SOURCE.set(false);
        if this.future.as_mut().poll(cx).is_ready() {
            return Poll::Ready(());
        }
        this.has_response |= HAS_RESPONSE.get();
        if WAITS_FOR_SOURCE.get() {
            this.deadline = None;
            return Poll::Pending;
        }
        if !this.has_response {
            return Poll::Pending;
        }
        let timeout = this.timeout;
        let deadline = this
            .deadline
            .get_or_insert_with(|| Box::pin(sleep(timeout)));
        deadline.as_mut().reset(Instant::now() + timeout);
        deadline.as_mut().poll(cx)
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use super::*;

    /// Runs a stream that does this once and never ends by itself, and returns a reference that it
    /// shares until its end.
    fn run(streams: &StreamExecutor, first: impl FnOnce() + Send + 'static) -> Arc<()> {
        let alive = Arc::new(());
        let inside = Arc::clone(&alive);
        streams.execute(async move {
            first();
            std::future::pending::<()>().await;
            drop(inside);
        });
        alive
    }

    #[tokio::test]
    async fn streams_end_whose_responses_make_no_progress() {
        let streams = StreamExecutor::new(TaskTracker::new(), Duration::from_millis(5));
        let without_response = run(&streams, || {});
        let waiting = run(&streams, || {
            set_has_response();
            set_waits_for_source(true);
        });
        let stuck = run(&streams, set_has_response);
        while Arc::strong_count(&stuck) > 1 {
            tokio::task::yield_now().await;
        }
        assert_eq!(Arc::strong_count(&without_response), 2);
        assert_eq!(Arc::strong_count(&waiting), 2);
    }

    #[tokio::test]
    async fn the_time_counts_again_when_the_source_was_ready() {
        let streams = StreamExecutor::new(TaskTracker::new(), Duration::from_millis(5));
        let alive = Arc::new(());
        let inside = Arc::clone(&alive);
        streams.execute(async move {
            let mut polls = 0;
            // It waits for its source at first, then for the client.
            std::future::poll_fn(|cx| {
                polls += 1;
                if polls == 1 {
                    set_has_response();
                    set_waits_for_source(true);
                    cx.waker().wake_by_ref();
                }
                Poll::<()>::Pending
            })
            .await;
            drop(inside);
        });
        while Arc::strong_count(&alive) > 1 {
            tokio::task::yield_now().await;
        }
    }
}
