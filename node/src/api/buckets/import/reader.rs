//! Reads the lines of a request's body as it comes, without a deadline.
//!
//! Time counts only while the import waits for the client: a body that stops arriving, or is too
//! slow, ends the import, and a client that has to wait for the import isn't at fault.

use std::future::poll_fn;
use std::pin::Pin;
use std::time::Duration;

use axum::body::Body;
use bytes::Bytes;
use http_body::Body as _;
use tokio::time::{Instant, timeout};

use super::lines::{Line, LineSplitter};
use crate::api::errors::ApiError;
use crate::api::http::receive::StreamBounds;

/// Maximum length of a line, in bytes.
pub(super) const MAX_LINE_BYTES: usize = 8 << 20;

/// Result of waiting for a line.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum NextLine {
    /// A line.
    Line(Line),
    /// No line has arrived within the time that the caller waits.
    Idle,
    /// The body has ended.
    End,
}

/// Lines of a body.
pub(super) struct BodyLines {
    body: Body,
    splitter: LineSplitter,
    bounds: StreamBounds,
    is_ended: bool,
    /// Bytes that have arrived.
    received: u64,
    /// Time for which the import has waited for the client.
    waited: Duration,
    /// Part of it since the last chunk.
    quiet: Duration,
}

impl BodyLines {
    /// Creates a reader of a body's lines.
    pub(super) fn new(body: Body, bounds: StreamBounds) -> Self {
        Self {
            body,
            splitter: LineSplitter::new(MAX_LINE_BYTES),
            bounds,
            is_ended: false,
            received: 0,
            waited: Duration::ZERO,
            quiet: Duration::ZERO,
        }
    }

    /// Waits for the first chunk, and returns it; empty if there is none. To be called once, before
    /// the first line.
    pub(super) async fn first_chunk(&mut self) -> Result<Bytes, ApiError> {
        while !self.is_ended {
            if let Some(chunk) = self.next_chunk(Duration::MAX).await? {
                self.splitter.push(chunk.clone());
                return Ok(chunk);
            }
        }
        Ok(Bytes::new())
    }

    /// Returns the next line, or waits for it for up to `patience`.
    ///
    /// Cancel safe: no byte is lost.
    pub(super) async fn next(&mut self, patience: Duration) -> Result<NextLine, ApiError> {
        loop {
            if let Some(line) = self.splitter.next_line() {
                return Ok(NextLine::Line(line));
            }
            if self.is_ended {
                let last = self.splitter.finish();
                return Ok(last.map_or(NextLine::End, NextLine::Line));
            }
            match self.next_chunk(patience).await? {
                Some(chunk) => self.splitter.push(chunk),
                None if self.is_ended => {}
                None => return Ok(NextLine::Idle),
            }
        }
    }

    /// Waits for the next chunk that isn't empty; `None` at the end, or after `patience`. Fails
    /// with 408 if the client is too slow. Trailers are dropped.
    async fn next_chunk(&mut self, patience: Duration) -> Result<Option<Bytes>, ApiError> {
        loop {
            let remaining = self.remaining_time();
            let began = Instant::now();
            let frame = poll_fn(|cx| Pin::new(&mut self.body).poll_frame(cx));
            let frame = timeout(remaining.min(patience), frame).await;
            let elapsed = began.elapsed();
            self.waited += elapsed;
            self.quiet += elapsed;
            match frame {
                Err(_) if remaining <= patience => return Err(ApiError::body_timeout()),
                Err(_) => return Ok(None),
                Ok(None) => {
                    self.is_ended = true;
                    return Ok(None);
                }
                Ok(Some(Err(_))) => {
                    let message = "the request's body ended early or is malformed";
                    return Err(ApiError::invalid_body(message));
                }
                Ok(Some(Ok(frame))) => {
                    if let Ok(data) = frame.into_data()
                        && !data.is_empty()
                    {
                        self.received += data.len() as u64;
                        self.quiet = Duration::ZERO;
                        return Ok(Some(data));
                    }
                }
            }
        }
    }

    /// Returns the time that the client has to send the next byte.
    fn remaining_time(&self) -> Duration {
        let StreamBounds {
            chunk_timeout,
            min_rate,
        } = self.bounds;
        let mut remaining = chunk_timeout.saturating_sub(self.quiet);
        if min_rate > 0 {
            let earned = Duration::from_secs_f64(self.received as f64 / min_rate as f64);
            let allowed = chunk_timeout.saturating_add(earned);
            remaining = remaining.min(allowed.saturating_sub(self.waited));
        }
        remaining
    }
}

#[cfg(test)]
mod tests {
    use std::convert::Infallible;

    use futures_util::StreamExt;
    use futures_util::stream::{iter, pending};

    use super::*;

    const BOUNDS: StreamBounds = StreamBounds {
        chunk_timeout: Duration::from_millis(20),
        min_rate: 0,
    };
    const LONG: Duration = Duration::from_secs(60);

    /// A body of these chunks, which then ends, or stops arriving.
    fn body(chunks: &[&'static str], is_stalled: bool) -> Body {
        let chunks: Vec<_> = chunks.iter().map(|chunk| Ok(Bytes::from(*chunk))).collect();
        let chunks = iter(chunks);
        if is_stalled {
            Body::from_stream(chunks.chain(pending::<Result<Bytes, Infallible>>()))
        } else {
            Body::from_stream(chunks)
        }
    }

    fn line(number: u64, content: &'static str) -> NextLine {
        NextLine::Line(Line::Complete {
            number,
            content: Bytes::from(content),
        })
    }

    #[tokio::test]
    async fn a_body_is_read_line_by_line() {
        let mut lines = BodyLines::new(body(&["", "a\nb", "c", "\nd"], false), BOUNDS);
        assert_eq!(lines.first_chunk().await.unwrap(), "a\nb");
        for expected in [line(1, "a"), line(2, "bc"), line(3, "d")] {
            assert_eq!(lines.next(LONG).await.unwrap(), expected);
        }
        assert_eq!(lines.next(LONG).await.unwrap(), NextLine::End);
        assert_eq!(lines.next(LONG).await.unwrap(), NextLine::End);
        let mut empty = BodyLines::new(body(&[""], false), BOUNDS);
        assert_eq!(empty.first_chunk().await.unwrap(), "");
        assert_eq!(empty.next(LONG).await.unwrap(), NextLine::End);
    }

    #[tokio::test]
    async fn a_body_that_stops_arriving_ends_with_408() {
        let mut lines = BodyLines::new(body(&["a\nb"], true), BOUNDS);
        assert_eq!(lines.next(LONG).await.unwrap(), line(1, "a"));
        let error = lines.next(LONG).await.unwrap_err();
        assert_eq!(error.code(), "request_timeout");
        // An impatient caller is told so, until the time is used up.
        let mut lines = BodyLines::new(body(&["a\nb"], true), BOUNDS);
        assert_eq!(lines.next(Duration::ZERO).await.unwrap(), line(1, "a"));
        let mut idle = 0;
        let error = loop {
            match lines.next(Duration::from_millis(1)).await {
                Ok(next) => assert_eq!(next, NextLine::Idle),
                Err(error) => break error,
            }
            idle += 1;
        };
        assert_eq!(error.code(), "request_timeout");
        assert!(idle > 0);
    }

    #[tokio::test]
    async fn a_broken_body_is_malformed() {
        let broken = iter([Ok(Bytes::from("a\n")), Err(std::io::Error::other("reset"))]);
        let mut lines = BodyLines::new(Body::from_stream(broken), BOUNDS);
        assert_eq!(lines.next(LONG).await.unwrap(), line(1, "a"));
        assert_eq!(lines.next(LONG).await.unwrap_err().code(), "invalid_body");
    }

    #[test]
    fn slow_clients_have_the_time_that_their_bytes_earn() {
        let bounds = StreamBounds {
            chunk_timeout: Duration::from_secs(10),
            min_rate: 1000,
        };
        let mut lines = BodyLines::new(Body::empty(), bounds);
        let second = Duration::from_secs(1);
        assert_eq!(lines.remaining_time(), 10 * second);
        lines.quiet = 4 * second;
        lines.waited = 4 * second;
        assert_eq!(lines.remaining_time(), 6 * second);
        lines.quiet = Duration::ZERO;
        lines.received = 2000;
        lines.waited = 9 * second;
        assert_eq!(lines.remaining_time(), 3 * second);
        lines.waited = 13 * second;
        assert_eq!(lines.remaining_time(), Duration::ZERO);
        lines.bounds.min_rate = 0;
        assert_eq!(lines.remaining_time(), 10 * second);
    }
}
