//! The body of a request as it is sent to a node, and perhaps to another one after that.
//!
//! A body that arrived with its head, as nearly all do, is one chunk of memory. Any other is
//! forwarded as it arrives, so that a node can refuse it early; forwarded chunks are buffered up to
//! a limit, and only a completely buffered body can be sent again.
//!
//! A client that expects `100 Continue` gets it when the node sends it: until then its body is held
//! behind a gate.

use std::net::IpAddr;
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::task::{Context, Poll, ready};

use bytes::Bytes;
use cloudkv_common::server::{BodyError, Memory, RequestBody};
use futures_util::task::AtomicWaker;
use http::HeaderMap;
use http_body::{Body, Frame, SizeHint};
use parking_lot::Mutex;

/// Maximum number of polls of a body before it counts as one that arrives later. The server
/// delivers a body one poll after the head, also if both arrived together.
const TURNS: usize = 2;

/// A request's body, to be sent as often as necessary and possible.
#[derive(Clone, Debug)]
pub enum Payload {
    /// There is no body.
    Empty,
    /// The complete body.
    Whole(Bytes),
    /// The body is still arriving.
    Coming(Arc<Coming>),
}

/// A body that is still arriving from the client.
#[derive(Debug)]
pub struct Coming {
    parts: Mutex<Parts>,
    gate: Gate,
}

#[derive(Debug)]
struct Parts {
    source: RequestBody,
    kept: Vec<Bytes>,
    trailers: Option<HeaderMap>,
    /// Bytes that may still be buffered; `None` if some chunk wasn't.
    room: Option<usize>,
    share: Share,
    ended: bool,
    broken: bool,
    /// Number of the current attempt, and whether it has forwarded the whole body.
    attempt: u32,
    passed_on: bool,
}

/// Memory of one request's body that is buffered to be sent again, accounted to its client.
#[derive(Debug)]
pub struct Share {
    memory: Arc<Memory>,
    client: Option<IpAddr>,
    taken: usize,
}

#[derive(Debug, Default)]
struct Gate {
    open: AtomicBool,
    waker: AtomicWaker,
}

impl Payload {
    /// Creates the payload of a request. If the client `expects_continue`, nothing is read from it
    /// before a node sends `100 Continue`.
    ///
    /// Up to `max_buffered` bytes are buffered to be sent again, as far as `memory` has room for
    /// them.
    pub async fn of(
        mut source: RequestBody,
        max_buffered: usize,
        expects_continue: bool,
        memory: impl FnOnce() -> Share,
    ) -> Result<Self, BodyError> {
        if source.is_end_stream() {
            return Ok(Self::Empty);
        }
        let mut chunks = Vec::new();
        if !expects_continue {
            let first = at_once(&mut source).await?;
            if source.is_end_stream() {
                return Ok(first.map_or(Self::Empty, Self::Whole));
            }
            chunks.extend(first);
        }
        let bytes: usize = chunks.iter().map(Bytes::len).sum();
        let mut parts = Parts {
            source,
            kept: chunks,
            trailers: None,
            room: Some(max_buffered.saturating_sub(bytes)),
            share: memory(),
            ended: false,
            broken: false,
            attempt: 0,
            passed_on: false,
        };
        // The first chunk is in memory already, and small: at most a flow-control window.
        parts.share.take(bytes);
        let gate = Gate::default();
        gate.open.store(!expects_continue, Ordering::Relaxed);
        Ok(Self::Coming(Arc::new(Coming {
            parts: Mutex::new(parts),
            gate,
        })))
    }

    /// Body for one attempt; `None` if a part of it is no longer buffered.
    pub fn outgoing(&self) -> Option<Outgoing> {
        match self {
            Self::Empty => Some(Outgoing::Empty),
            Self::Whole(bytes) => Some(Outgoing::Whole(bytes.clone())),
            Self::Coming(coming) => {
                let mut parts = coming.parts.lock();
                parts.room?;
                parts.attempt += 1;
                parts.passed_on = false;
                Some(Outgoing::Coming {
                    coming: coming.clone(),
                    attempt: parts.attempt,
                    next: 0,
                })
            }
        }
    }

    /// Returns whether the last attempt has forwarded the whole body: before that, no node can have
    /// received it.
    pub fn is_passed_on(&self) -> bool {
        match self {
            Self::Empty | Self::Whole(_) => true,
            Self::Coming(coming) => coming.parts.lock().passed_on,
        }
    }

    /// Complete body, if it is in memory.
    pub fn whole(&self) -> Option<&Bytes> {
        static NONE: Bytes = Bytes::new();
        match self {
            Self::Empty => Some(&NONE),
            Self::Whole(bytes) => Some(bytes),
            Self::Coming(_) => None,
        }
    }

    /// Returns whether the client aborted the body: then no node has received all of it, and none
    /// has executed the request.
    pub fn is_broken(&self) -> bool {
        match self {
            Self::Empty | Self::Whole(_) => false,
            Self::Coming(coming) => coming.parts.lock().broken,
        }
    }

    /// Gate that a node's `100 Continue` opens, if the client expects one.
    pub(super) fn gate(&self) -> Option<Arc<Coming>> {
        match self {
            Self::Coming(coming) if !coming.gate.open.load(Ordering::Acquire) => {
                Some(coming.clone())
            }
            Self::Empty | Self::Whole(_) | Self::Coming(_) => None,
        }
    }
}

/// Returns the first chunk of a body, if it has arrived already.
async fn at_once(source: &mut RequestBody) -> Result<Option<Bytes>, BodyError> {
    let mut polls = 0;
    std::future::poll_fn(|cx| match Pin::new(&mut *source).poll_frame(cx) {
        Poll::Ready(Some(Ok(frame))) => Poll::Ready(Ok(frame.into_data().ok())),
        Poll::Ready(Some(Err(error))) => Poll::Ready(Err(error)),
        Poll::Ready(None) => Poll::Ready(Ok(None)),
        Poll::Pending if polls < TURNS => {
            polls += 1;
            cx.waker().wake_by_ref();
            Poll::Pending
        }
        Poll::Pending => Poll::Ready(Ok(None)),
    })
    .await
}

impl Coming {
    /// Opens the gate.
    pub(super) fn open(&self) {
        self.gate.open.store(true, Ordering::Release);
        self.gate.waker.wake();
    }

    fn poll(
        &self,
        cx: &mut Context<'_>,
        (attempt, next): (u32, &mut usize),
    ) -> Poll<Option<Result<Frame<Bytes>, BodyError>>> {
        if !self.gate.open.load(Ordering::Acquire) {
            self.gate.waker.register(cx.waker());
            if !self.gate.open.load(Ordering::Acquire) {
                return Poll::Pending;
            }
        }
        let mut parts = self.parts.lock();
        let frame = parts.poll(cx, next);
        if parts.attempt == attempt && parts.is_over(*next) {
            parts.passed_on = true;
        }
        frame
    }
}

impl Parts {
    fn poll(
        &mut self,
        cx: &mut Context<'_>,
        next: &mut usize,
    ) -> Poll<Option<Result<Frame<Bytes>, BodyError>>> {
        if let Some(chunk) = self.kept.get(*next) {
            *next += 1;
            return Poll::Ready(Some(Ok(Frame::data(chunk.clone()))));
        }
        if self.ended {
            let is_last = *next == self.kept.len();
            *next += 1;
            let trailers = self.trailers.clone().filter(|_| is_last);
            return Poll::Ready(trailers.map(|trailers| Ok(Frame::trailers(trailers))));
        }
        let frame = match ready!(Pin::new(&mut self.source).poll_frame(cx)) {
            Some(Ok(frame)) => frame,
            Some(Err(error)) => {
                // Polled again, it would end as if it were complete.
                self.room = None;
                self.broken = true;
                return Poll::Ready(Some(Err(error)));
            }
            None => {
                self.ended = true;
                return Poll::Ready(None);
            }
        };
        match frame.into_data() {
            Ok(data) => {
                if self.keep(&data) {
                    *next += 1;
                }
                Poll::Ready(Some(Ok(Frame::data(data))))
            }
            Err(frame) => {
                self.ended = true;
                *next += 1;
                self.trailers = frame.trailers_ref().cloned();
                Poll::Ready(Some(Ok(frame)))
            }
        }
    }

    /// Returns whether no chunk follows the one with this number.
    fn is_over(&self, next: usize) -> bool {
        (self.ended || self.source.is_end_stream()) && !self.broken && next >= self.kept.len()
    }

    /// Buffers a chunk, if there is memory for all of them so far.
    fn keep(&mut self, data: &Bytes) -> bool {
        let remaining = self.room.and_then(|room| room.checked_sub(data.len()));
        self.room = remaining.filter(|_| self.share.try_take(data.len()));
        if self.room.is_some() {
            self.kept.push(data.clone());
        } else {
            self.kept = Vec::new();
            self.share.release();
        }
        self.room.is_some()
    }
}

impl Share {
    /// Creates an account with nothing used. A `client` is limited in its use of memory.
    pub fn new(memory: Arc<Memory>, client: Option<IpAddr>) -> Self {
        Self {
            memory,
            client,
            taken: 0,
        }
    }

    fn try_take(&mut self, bytes: usize) -> bool {
        let is_taken = self.memory.try_take(self.client, bytes);
        self.taken += if is_taken { bytes } else { 0 };
        is_taken
    }

    fn take(&mut self, bytes: usize) {
        self.memory.take(self.client, bytes);
        self.taken += bytes;
    }

    fn release(&mut self) {
        self.memory.release(self.client, self.taken);
        self.taken = 0;
    }
}

impl Drop for Share {
    fn drop(&mut self) {
        self.release();
    }
}

/// Body of a request to a node.
#[derive(Debug)]
pub enum Outgoing {
    /// There is no body, or it has been sent.
    Empty,
    /// A single chunk.
    Whole(Bytes),
    /// The body is still arriving.
    Coming {
        /// Source of the body.
        coming: Arc<Coming>,
        /// Number of the attempt.
        attempt: u32,
        /// Number of buffered chunks that were forwarded.
        next: usize,
    },
}

impl Body for Outgoing {
    type Data = Bytes;
    type Error = BodyError;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, BodyError>>> {
        match &mut *self {
            Self::Empty => Poll::Ready(None),
            Self::Whole(bytes) => {
                let bytes = std::mem::take(bytes);
                *self = Self::Empty;
                Poll::Ready(Some(Ok(Frame::data(bytes))))
            }
            Self::Coming {
                coming,
                attempt,
                next,
            } => coming.poll(cx, (*attempt, next)),
        }
    }

    fn is_end_stream(&self) -> bool {
        match self {
            Self::Empty => true,
            Self::Whole(_) | Self::Coming { .. } => false,
        }
    }

    fn size_hint(&self) -> SizeHint {
        match self {
            Self::Empty => SizeHint::with_exact(0),
            Self::Whole(bytes) => SizeHint::with_exact(bytes.len() as u64),
            // A length that the client declared is in the headers.
            Self::Coming { .. } => SizeHint::default(),
        }
    }
}
