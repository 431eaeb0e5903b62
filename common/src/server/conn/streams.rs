//! Tasks of HTTP/2 streams: each ends when its response makes no progress for too long.
//!
//! hyper polls a stream whose response waits for the client's window when that has grown, and not
//! before. So a stream that has a response and isn't polled makes no progress.

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
    static ANSWERED: Cell<bool> = const { Cell::new(false) };
}

/// Records that the stream that is being polled has got its response.
pub(crate) fn answered() {
    ANSWERED.set(true);
}

/// Executor of the streams of HTTP/2 connections, as tracked tasks.
#[derive(Clone)]
pub(crate) struct Streams {
    tasks: TaskTracker,
    patience: Duration,
}

impl Streams {
    /// Creates an executor that ends streams whose responses make no progress for `timeout`.
    pub(crate) fn new(tasks: TaskTracker, timeout: Duration) -> Self {
        Self {
            tasks,
            patience: timeout,
        }
    }
}

impl<F> Executor<F> for Streams
where
    F: Future + Send + 'static,
    F::Output: Send + 'static,
{
    fn execute(&self, future: F) {
        self.tasks.spawn(Stream {
            future: Box::pin(future),
            patience: self.patience,
            answered: false,
            end: None,
        });
    }
}

/// Task of a stream, which is reset if this is dropped before its end.
struct Stream<F> {
    future: Pin<Box<F>>,
    patience: Duration,
    answered: bool,
    end: Option<Pin<Box<Sleep>>>,
}

impl<F: Future> Future for Stream<F> {
    type Output = ();

    fn poll(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<()> {
        let this = &mut *self;
        if this
            .end
            .as_ref()
            .is_some_and(|deadline| deadline.is_elapsed())
        {
            tracing::debug!("response made no progress, stream reset");
            return Poll::Ready(());
        }
        ANSWERED.set(false);
        if this.future.as_mut().poll(cx).is_ready() {
            return Poll::Ready(());
        }
        this.answered |= ANSWERED.get();
        if !this.answered {
            return Poll::Pending;
        }
        let timeout = this.patience;
        let deadline = this.end.get_or_insert_with(|| Box::pin(sleep(timeout)));
        deadline.as_mut().reset(Instant::now() + timeout);
        deadline.as_mut().poll(cx)
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use super::*;

    /// Runs a stream that never ends by itself, and returns a reference that it shares until its
    /// end.
    fn run(streams: &Streams, has_response: bool) -> Arc<()> {
        let alive = Arc::new(());
        let inside = Arc::clone(&alive);
        streams.execute(async move {
            if has_response {
                answered();
            }
            std::future::pending::<()>().await;
            drop(inside);
        });
        alive
    }

    #[tokio::test]
    async fn streams_end_whose_responses_make_no_progress() {
        let streams = Streams::new(TaskTracker::new(), Duration::from_millis(5));
        let without_response = run(&streams, false);
        let stuck = run(&streams, true);
        while Arc::strong_count(&stuck) > 1 {
            tokio::task::yield_now().await;
        }
        assert_eq!(Arc::strong_count(&without_response), 2);
    }
}
