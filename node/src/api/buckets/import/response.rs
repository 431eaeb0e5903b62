//! Body of the response to an import: progress lines, and the last line.
//!
//! It is made when the client reads it, so nothing queues up while it doesn't. The import itself
//! runs in a task of its own, and goes on meanwhile; it ends soon when this body is dropped.

use std::io;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll, ready};

use bytes::Bytes;
use http_body::{Body, Frame};
use tokio::sync::oneshot;
use tokio::time::{Instant, Sleep, sleep_until};
use tokio_util::sync::DropGuard;

use super::progress::{Progress, line_interval};

/// Maximum size of a frame, in bytes.
const MAX_FRAME_BYTES: usize = 64 << 10;

/// Body of the response to an import.
pub(super) struct ImportBody {
    progress: Arc<Progress>,
    began_at: Instant,
    /// Time of the next progress line.
    next_line: Pin<Box<Sleep>>,
    end: ImportEnd,
    /// Stops the import when it is dropped.
    _stop: DropGuard,
}

/// Last line of an import.
enum ImportEnd {
    /// The import goes on.
    Pending(oneshot::Receiver<Bytes>),
    /// Rest of the last line; empty if all was sent.
    Known(Bytes),
}

impl ImportBody {
    /// Creates the body of an import that sends its last line to `end`.
    pub(super) fn new(
        progress: Arc<Progress>,
        end: oneshot::Receiver<Bytes>,
        stop: DropGuard,
    ) -> Self {
        let began_at = Instant::now();
        let first = began_at + line_interval(began_at.elapsed());
        Self {
            progress,
            began_at,
            next_line: Box::pin(sleep_until(first)),
            end: ImportEnd::Pending(end),
            _stop: stop,
        }
    }

    /// Returns the next progress line once it is due.
    fn poll_progress(&mut self, cx: &mut Context<'_>) -> Poll<Bytes> {
        ready!(self.next_line.as_mut().poll(cx));
        let next = Instant::now() + line_interval(self.began_at.elapsed());
        self.next_line.as_mut().reset(next);
        Poll::Ready(self.progress.line())
    }
}

impl Body for ImportBody {
    type Data = Bytes;
    type Error = io::Error;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, io::Error>>> {
        let this = &mut *self;
        if let ImportEnd::Pending(end) = &mut this.end {
            match Pin::new(end).poll(cx) {
                Poll::Ready(Ok(line)) => this.end = ImportEnd::Known(line),
                Poll::Ready(Err(_)) => {
                    this.end = ImportEnd::Known(Bytes::new());
                    let error = io::Error::other("the import ended without its last line");
                    return Poll::Ready(Some(Err(error)));
                }
                Poll::Pending => {
                    let line = ready!(this.poll_progress(cx));
                    return Poll::Ready(Some(Ok(Frame::data(line))));
                }
            }
        }
        let ImportEnd::Known(rest) = &mut this.end else {
            return Poll::Pending;
        };
        if rest.is_empty() {
            return Poll::Ready(None);
        }
        let frame = rest.split_to(rest.len().min(MAX_FRAME_BYTES));
        Poll::Ready(Some(Ok(Frame::data(frame))))
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use http_body_util::BodyExt;
    use tokio_util::sync::CancellationToken;

    use super::*;

    const SECOND: Duration = Duration::from_secs(1);

    fn body() -> (ImportBody, oneshot::Sender<Bytes>, CancellationToken) {
        let (end, last_line) = oneshot::channel();
        let stop = CancellationToken::new();
        let body = ImportBody::new(Arc::default(), last_line, stop.clone().drop_guard());
        (body, end, stop)
    }

    #[tokio::test]
    async fn the_last_line_is_the_end() {
        let (body, end, stop) = body();
        let line = Bytes::from("x".repeat(MAX_FRAME_BYTES + 1));
        end.send(line.clone()).unwrap();
        assert!(!stop.is_cancelled());
        assert_eq!(body.collect().await.unwrap().to_bytes(), line);
        assert!(stop.is_cancelled());
    }

    #[tokio::test]
    async fn progress_is_told_only_when_it_is_due_and_read() {
        let (mut body, end, _stop) = body();
        let later = Instant::now() + 1000 * SECOND;
        body.next_line.as_mut().reset(later);
        assert!(futures_util::poll!(body.frame()).is_pending());
        // As if the client had not read for a while.
        let now = Instant::now();
        body.next_line.as_mut().reset(now);
        let line = body.frame().await.unwrap().unwrap().into_data().unwrap();
        assert_eq!(line, Progress::default().line());
        assert!(body.next_line.deadline() >= now + SECOND);
        end.send(Bytes::from("end")).unwrap();
        let rest = body.collect().await.unwrap().to_bytes();
        assert_eq!(rest, "end");
    }

    #[tokio::test]
    async fn a_lost_import_breaks_the_response() {
        let (body, end, _stop) = body();
        drop(end);
        assert!(body.collect().await.is_err());
    }

    #[tokio::test]
    async fn an_import_stops_if_its_client_is_gone() {
        let (body, _end, stop) = body();
        drop(body);
        assert!(stop.is_cancelled());
    }
}
