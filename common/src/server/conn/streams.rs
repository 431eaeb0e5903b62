//! The tasks of HTTP/2 streams: each ends when its answer makes no progress for too long.
//!
//! hyper polls a stream whose answer waits for the client's window when that has grown, and not before.
//! So a stream that has an answer and isn't polled makes no progress.

use std::cell::Cell;
use std::future::Future;
use std::pin::Pin;
use std::task::{Context, Poll};
use std::time::Duration;

use hyper::rt::Executor;
use tokio::time::{Instant, Sleep, sleep};
use tokio_util::task::TaskTracker;

thread_local! {
    /// Whether the stream that is being polled on this thread has got its answer.
    static ANSWERED: Cell<bool> = const { Cell::new(false) };
}

/// Notes that the stream that is being polled has got its answer.
pub(crate) fn answered() {
    ANSWERED.set(true);
}

/// Runs the streams of HTTP/2 connections as tracked tasks.
#[derive(Clone)]
pub(crate) struct Streams {
    tasks: TaskTracker,
    patience: Duration,
}

impl Streams {
    /// Streams end whose answers make no progress for `patience`.
    pub(crate) fn new(tasks: TaskTracker, patience: Duration) -> Self {
        Self { tasks, patience }
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

/// A stream. Dropped before its end, it is reset.
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
        if this.end.as_ref().is_some_and(|end| end.is_elapsed()) {
            tracing::debug!("an answer made no progress: reset its stream");
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
        let patience = this.patience;
        let end = this.end.get_or_insert_with(|| Box::pin(sleep(patience)));
        end.as_mut().reset(Instant::now() + patience);
        end.as_mut().poll(cx)
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use super::*;

    /// Runs a stream that never ends by itself, and hands back what it drops at its end.
    fn run(streams: &Streams, gets_answer: bool) -> Arc<()> {
        let alive = Arc::new(());
        let inside = Arc::clone(&alive);
        streams.execute(async move {
            if gets_answer {
                answered();
            }
            std::future::pending::<()>().await;
            drop(inside);
        });
        alive
    }

    #[tokio::test]
    async fn streams_end_whose_answers_make_no_progress() {
        let streams = Streams::new(TaskTracker::new(), Duration::from_millis(5));
        let waits_for_answer = run(&streams, false);
        let stuck = run(&streams, true);
        while Arc::strong_count(&stuck) > 1 {
            tokio::task::yield_now().await;
        }
        assert_eq!(Arc::strong_count(&waits_for_answer), 2);
    }
}
