//! Event streams that are relayed: how many there are, and how each ends.
//!
//! Each holds a connection to a node for hours, so their number is bounded. When the router stops
//! they end at once: they would last until their clients leave, which come back to another router.
//!
//! Invariant: a stream ends as a whole response does, whatever the reason. Browsers come back after
//! that, but not after each error of a connection. Only a part of the last block may be missing, and
//! clients ignore a block without its end. So no line is completed, and no empty one added.

use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::task::{Context, Poll, ready};
use std::time::Duration;

use bytes::Bytes;
use cloudkv_common::event_stream;
use tokio_util::sync::{CancellationToken, WaitForCancellationFutureOwned};

/// Time after which clients connect again when the router stops.
const STOP_RETRY: Duration = Duration::from_secs(1);

/// Event streams of a router.
#[derive(Clone, Debug)]
pub(crate) struct EventStreams {
    open: Arc<AtomicUsize>,
    max: usize,
    stop: CancellationToken,
}

/// One event stream.
#[derive(Debug)]
pub(crate) struct EventStream {
    _open: OpenStream,
    stopped: Pin<Box<WaitForCancellationFutureOwned>>,
    /// True if the last line that was relayed is complete.
    is_between_lines: bool,
    is_ended: bool,
}

/// Reason for which no stream begins.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum StreamRefused {
    /// The router stops.
    Stopping,
    /// There are as many streams as may be.
    TooMany,
}

/// Guard of an open stream, which counts until it is dropped.
#[derive(Debug)]
struct OpenStream(Arc<AtomicUsize>);

impl EventStreams {
    /// Creates the record of at most `max` streams, which end at `stop`.
    pub(crate) fn new(max: usize, stop: CancellationToken) -> Self {
        Self {
            open: Arc::default(),
            max,
            stop,
        }
    }

    /// Returns the number of open streams.
    pub(crate) fn open_streams(&self) -> usize {
        self.open.load(Ordering::Relaxed)
    }

    /// Begins a stream, if there may be another one.
    pub(super) fn begin(&self) -> Result<EventStream, StreamRefused> {
        if self.stop.is_cancelled() {
            return Err(StreamRefused::Stopping);
        }
        let open = OpenStream(self.open.clone());
        if self.open.fetch_add(1, Ordering::Relaxed) >= self.max {
            return Err(StreamRefused::TooMany);
        }
        Ok(EventStream {
            _open: open,
            stopped: Box::pin(self.stop.clone().cancelled_owned()),
            is_between_lines: true,
            is_ended: false,
        })
    }
}

impl EventStream {
    /// Waits until the router stops, which ends the stream. Returns its last lines, unless one was
    /// broken off.
    pub(super) fn poll_stop(&mut self, cx: &mut Context<'_>) -> Poll<Option<Bytes>> {
        ready!(self.stopped.as_mut().poll(cx));
        self.end();
        let last = || event_stream::end("this router is stopping", STOP_RETRY);
        Poll::Ready(self.is_between_lines.then(last))
    }

    /// Records bytes that are relayed.
    pub(super) fn record(&mut self, data: &[u8]) {
        if let Some(last) = data.last() {
            self.is_between_lines = *last == b'\n';
        }
    }

    /// Ends the stream.
    pub(super) fn end(&mut self) {
        self.is_ended = true;
    }

    /// Returns whether the stream has ended.
    pub(super) fn is_ended(&self) -> bool {
        self.is_ended
    }
}

impl Drop for OpenStream {
    fn drop(&mut self) {
        self.0.fetch_sub(1, Ordering::Relaxed);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Returns the last lines of a stream that has relayed this when the router stops.
    fn last_lines(chunks: &[&str]) -> Option<Bytes> {
        let stop = CancellationToken::new();
        let mut stream = EventStreams::new(1, stop.clone()).begin().unwrap();
        let mut cx = Context::from_waker(std::task::Waker::noop());
        for chunk in chunks {
            stream.record(chunk.as_bytes());
        }
        assert!(stream.poll_stop(&mut cx).is_pending() && !stream.is_ended());
        stop.cancel();
        let Poll::Ready(last) = stream.poll_stop(&mut cx) else {
            panic!("it goes on")
        };
        assert!(stream.is_ended());
        last
    }

    #[test]
    fn a_stop_ends_a_stream_and_completes_no_line() {
        for chunks in [
            &[][..],
            &["retry: 2000\n"][..],
            &["data: 1\n", "\n", ""][..],
            &["id", ": 1\n"][..],
        ] {
            let last = last_lines(chunks).unwrap();
            assert!(last.starts_with(b": ") && last.ends_with(b"\nretry: 1000\n"));
        }
        for chunks in [
            &["data: {\"na"][..],
            &["\n\n", "id"][..],
            &["\n\n:", ""][..],
        ] {
            assert_eq!(last_lines(chunks), None, "{chunks:?}");
        }
    }

    #[test]
    fn streams_are_bounded_and_none_begins_at_a_stop() {
        let stop = CancellationToken::new();
        let streams = EventStreams::new(2, stop.clone());
        let first = streams.begin().unwrap();
        let _second = streams.begin().unwrap();
        assert!(streams.begin().is_err());
        assert_eq!(streams.open_streams(), 2);
        drop(first);
        assert!(streams.begin().is_ok());
        stop.cancel();
        assert!(streams.begin().is_err());
        assert_eq!(streams.open_streams(), 1);
    }
}
