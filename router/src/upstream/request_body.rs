//! The body of a request as it is sent to a node, and perhaps to another one after that.
//!
//! A body that arrived with its head, as nearly all do, is one chunk of memory. Any other is
//! forwarded as it arrives, so that a node can refuse it early; forwarded chunks are buffered up to
//! a limit, and only a completely buffered body can be sent again.
//!
//! A client that expects `100 Continue` gets it when the node sends it: until then its body is held
//! behind a gate.
//!
//! A node may respond before it has read the body, as it does to an import. The connection to it
//! then goes on sending the body, which it holds alone: the body is dropped when it has been sent,
//! or when the connection ends, as it does when nobody reads the response any more.
//!
//! Invariant: only the last attempt reads the body. The connection of an earlier one, which may
//! still be open since its response was early, sends nothing more: it would take what the last one
//! lacks, as soon as not all is buffered.

use std::net::IpAddr;
use std::pin::Pin;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Weak};
use std::task::{Context, Poll, ready};

use bytes::Bytes;
use cloudkv_common::server::{BodyError, MemoryBudget, RequestBody};
use futures_util::task::AtomicWaker;
use http::HeaderMap;
use http_body::{Body, Frame, SizeHint};
use parking_lot::Mutex;

/// Maximum number of polls of a body before it counts as one that arrives later. The server
/// delivers a body one poll after the head, also if both arrived together.
const MAX_FIRST_POLLS: usize = 2;

/// A request's body, to be sent as often as necessary and possible.
#[derive(Clone, Debug)]
pub(crate) enum RequestPayload {
    /// There is no body.
    Empty,
    /// The complete body.
    Buffered(Bytes),
    /// The body is still arriving.
    Streaming(Arc<StreamingBody>),
}

/// What is left of a request's body when its response has begun.
#[derive(Clone, Debug, Default)]
pub(crate) struct PayloadRest(Option<Weak<dyn Send + Sync>>);

/// A body that is still arriving from the client.
#[derive(Debug)]
pub(crate) struct StreamingBody {
    state: Mutex<BodyState>,
    gate: ContinueGate,
}

#[derive(Debug)]
struct BodyState {
    source: RequestBody,
    chunks: Vec<Bytes>,
    trailers: Option<HeaderMap>,
    /// Bytes that may still be buffered; `None` if some chunk wasn't.
    remaining_bytes: Option<usize>,
    memory: BodyMemory,
    is_ended: bool,
    is_aborted: bool,
    /// Number of the current attempt, and whether it has forwarded the whole body.
    attempt: u32,
    is_forwarded: bool,
}

/// Memory of one request's body that is buffered to be sent again, accounted to its client.
#[derive(Debug)]
pub(crate) struct BodyMemory {
    memory: Arc<MemoryBudget>,
    client: Option<IpAddr>,
    used: usize,
}

#[derive(Debug, Default)]
struct ContinueGate {
    is_open: AtomicBool,
    waker: AtomicWaker,
}

impl RequestPayload {
    /// Creates the payload of a request. If the client `expects_continue`, nothing is read from it
    /// before a node sends `100 Continue`.
    ///
    /// Up to `max_buffered` bytes are buffered to be sent again, as far as `memory` has room for
    /// them.
    pub(crate) async fn read(
        mut source: RequestBody,
        max_buffered: usize,
        expects_continue: bool,
        memory: impl FnOnce() -> BodyMemory,
    ) -> Result<Self, BodyError> {
        if source.is_end_stream() {
            return Ok(Self::Empty);
        }
        let mut chunks = Vec::new();
        if !expects_continue {
            let first = first_chunk(&mut source).await?;
            if source.is_end_stream() {
                return Ok(first.map_or(Self::Empty, Self::Buffered));
            }
            chunks.extend(first);
        }
        let bytes: usize = chunks.iter().map(Bytes::len).sum();
        let mut parts = BodyState {
            source,
            chunks,
            trailers: None,
            remaining_bytes: Some(max_buffered.saturating_sub(bytes)),
            memory: memory(),
            is_ended: false,
            is_aborted: false,
            attempt: 0,
            is_forwarded: false,
        };
        // The first chunk is in memory already, and small: at most a flow-control window.
        parts.memory.take(bytes);
        let gate = ContinueGate::default();
        gate.is_open.store(!expects_continue, Ordering::Relaxed);
        Ok(Self::Streaming(Arc::new(StreamingBody {
            state: Mutex::new(parts),
            gate,
        })))
    }

    /// Body for one attempt; `None` if a part of it is no longer buffered.
    pub(crate) fn attempt_body(&self) -> Option<UpstreamBody> {
        match self {
            Self::Empty => Some(UpstreamBody::Empty),
            Self::Buffered(bytes) => Some(UpstreamBody::Buffered(bytes.clone())),
            Self::Streaming(streaming) => {
                let mut parts = streaming.state.lock();
                parts.remaining_bytes?;
                parts.attempt += 1;
                parts.is_forwarded = false;
                Some(UpstreamBody::Streaming {
                    body: streaming.clone(),
                    attempt: parts.attempt,
                    next: 0,
                })
            }
        }
    }

    /// Returns whether the last attempt has forwarded the whole body: before that, no node can have
    /// received it.
    pub(crate) fn is_forwarded(&self) -> bool {
        match self {
            Self::Empty | Self::Buffered(_) => true,
            Self::Streaming(streaming) => streaming.state.lock().is_forwarded,
        }
    }

    /// Complete body, if it is in memory.
    pub(crate) fn buffered(&self) -> Option<&Bytes> {
        static NONE: Bytes = Bytes::new();
        match self {
            Self::Empty => Some(&NONE),
            Self::Buffered(bytes) => Some(bytes),
            Self::Streaming(_) => None,
        }
    }

    /// Returns whether the client aborted the body: then no node has received all of it, and none
    /// has executed the request, except for what an import has of it.
    pub(crate) fn is_aborted(&self) -> bool {
        match self {
            Self::Empty | Self::Buffered(_) => false,
            Self::Streaming(streaming) => streaming.state.lock().is_aborted,
        }
    }

    /// Opens the gate, if there is one: the body is sent without `100 Continue` of a node.
    pub(super) fn open_gate(&self) {
        if let Some(gate) = self.continue_gate() {
            gate.open();
        }
    }

    /// Returns what is left of the body, for when this has been dropped.
    pub(super) fn rest(&self) -> PayloadRest {
        match self {
            Self::Empty | Self::Buffered(_) => PayloadRest::default(),
            Self::Streaming(streaming) => PayloadRest::of(streaming),
        }
    }

    /// Gate that a node's `100 Continue` opens, if the client expects one.
    pub(super) fn continue_gate(&self) -> Option<Arc<StreamingBody>> {
        match self {
            Self::Streaming(streaming) if !streaming.gate.is_open.load(Ordering::Acquire) => {
                Some(streaming.clone())
            }
            Self::Empty | Self::Buffered(_) | Self::Streaming(_) => None,
        }
    }
}

impl PayloadRest {
    /// Creates the rest of a body, which is open until the body has been dropped.
    pub(crate) fn of<B: Send + Sync + 'static>(body: &Arc<B>) -> Self {
        let body = Arc::downgrade(body);
        Self(Some(body))
    }

    /// Returns whether the body is still being sent.
    pub(crate) fn is_open(&self) -> bool {
        let body = self.0.as_ref();
        body.is_some_and(|body| body.strong_count() > 0)
    }
}

/// Returns the first chunk of a body, if it has arrived already.
async fn first_chunk(source: &mut RequestBody) -> Result<Option<Bytes>, BodyError> {
    let mut polls = 0;
    std::future::poll_fn(|cx| match Pin::new(&mut *source).poll_frame(cx) {
        Poll::Ready(Some(Ok(frame))) => Poll::Ready(Ok(frame.into_data().ok())),
        Poll::Ready(Some(Err(error))) => Poll::Ready(Err(error)),
        Poll::Ready(None) => Poll::Ready(Ok(None)),
        Poll::Pending if polls < MAX_FIRST_POLLS => {
            polls += 1;
            cx.waker().wake_by_ref();
            Poll::Pending
        }
        Poll::Pending => Poll::Ready(Ok(None)),
    })
    .await
}

impl StreamingBody {
    /// Opens the gate.
    pub(super) fn open(&self) {
        self.gate.is_open.store(true, Ordering::Release);
        self.gate.waker.wake();
    }

    fn poll(
        &self,
        cx: &mut Context<'_>,
        (attempt, next): (u32, &mut usize),
    ) -> Poll<Option<Result<Frame<Bytes>, BodyError>>> {
        if !self.gate.is_open.load(Ordering::Acquire) {
            self.gate.waker.register(cx.waker());
            if !self.gate.is_open.load(Ordering::Acquire) {
                return Poll::Pending;
            }
        }
        let mut parts = self.state.lock();
        if parts.attempt != attempt {
            return Poll::Pending;
        }
        let frame = parts.poll(cx, next);
        if parts.is_complete(*next) {
            parts.is_forwarded = true;
        }
        frame
    }
}

impl BodyState {
    fn poll(
        &mut self,
        cx: &mut Context<'_>,
        next: &mut usize,
    ) -> Poll<Option<Result<Frame<Bytes>, BodyError>>> {
        if let Some(chunk) = self.chunks.get(*next) {
            *next += 1;
            return Poll::Ready(Some(Ok(Frame::data(chunk.clone()))));
        }
        if self.is_ended {
            let is_last = *next == self.chunks.len();
            *next += 1;
            let trailers = self.trailers.clone().filter(|_| is_last);
            return Poll::Ready(trailers.map(|trailers| Ok(Frame::trailers(trailers))));
        }
        let frame = match ready!(Pin::new(&mut self.source).poll_frame(cx)) {
            Some(Ok(frame)) => frame,
            Some(Err(error)) => {
                // Polled again, it would end as if it were complete.
                self.remaining_bytes = None;
                self.is_aborted = true;
                return Poll::Ready(Some(Err(error)));
            }
            None => {
                self.is_ended = true;
                return Poll::Ready(None);
            }
        };
        match frame.into_data() {
            Ok(data) => {
                if self.buffer(&data) {
                    *next += 1;
                }
                Poll::Ready(Some(Ok(Frame::data(data))))
            }
            Err(frame) => {
                self.is_ended = true;
                *next += 1;
                self.trailers = frame.trailers_ref().cloned();
                Poll::Ready(Some(Ok(frame)))
            }
        }
    }

    /// Returns whether no chunk follows the one with this number.
    fn is_complete(&self, next: usize) -> bool {
        (self.is_ended || self.source.is_end_stream())
            && !self.is_aborted
            && next >= self.chunks.len()
    }

    /// Buffers a chunk, if there is memory for all of them so far.
    fn buffer(&mut self, data: &Bytes) -> bool {
        let remaining = self
            .remaining_bytes
            .and_then(|room| room.checked_sub(data.len()));
        self.remaining_bytes = remaining.filter(|_| self.memory.try_take(data.len()));
        if self.remaining_bytes.is_some() {
            self.chunks.push(data.clone());
        } else {
            self.chunks = Vec::new();
            self.memory.release();
        }
        self.remaining_bytes.is_some()
    }
}

impl BodyMemory {
    /// Creates an account with nothing used. A `client` is limited in its use of memory.
    pub(crate) fn new(memory: Arc<MemoryBudget>, client: Option<IpAddr>) -> Self {
        Self {
            memory,
            client,
            used: 0,
        }
    }

    fn try_take(&mut self, bytes: usize) -> bool {
        let is_taken = self.memory.try_acquire(self.client, bytes);
        self.used += if is_taken { bytes } else { 0 };
        is_taken
    }

    fn take(&mut self, bytes: usize) {
        self.memory.acquire(self.client, bytes);
        self.used += bytes;
    }

    fn release(&mut self) {
        self.memory.release(self.client, self.used);
        self.used = 0;
    }
}

impl Drop for BodyMemory {
    fn drop(&mut self) {
        self.release();
    }
}

/// Body of a request to a node.
#[derive(Debug)]
pub(crate) enum UpstreamBody {
    /// There is no body, or it has been sent.
    Empty,
    /// A single chunk.
    Buffered(Bytes),
    /// The body is still arriving.
    Streaming {
        /// Source of the body.
        body: Arc<StreamingBody>,
        /// Number of the attempt.
        attempt: u32,
        /// Number of buffered chunks that were forwarded.
        next: usize,
    },
}

impl Body for UpstreamBody {
    type Data = Bytes;
    type Error = BodyError;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, BodyError>>> {
        match &mut *self {
            Self::Empty => Poll::Ready(None),
            Self::Buffered(bytes) => {
                let bytes = std::mem::take(bytes);
                *self = Self::Empty;
                Poll::Ready(Some(Ok(Frame::data(bytes))))
            }
            Self::Streaming {
                body: streaming,
                attempt,
                next,
            } => streaming.poll(cx, (*attempt, next)),
        }
    }

    fn is_end_stream(&self) -> bool {
        match self {
            Self::Empty => true,
            Self::Buffered(_) | Self::Streaming { .. } => false,
        }
    }

    fn size_hint(&self) -> SizeHint {
        match self {
            Self::Empty => SizeHint::with_exact(0),
            Self::Buffered(bytes) => SizeHint::with_exact(bytes.len() as u64),
            // A length that the client declared is in the headers.
            Self::Streaming { .. } => SizeHint::default(),
        }
    }
}

#[cfg(test)]
#[path = "request_body_tests.rs"]
mod tests;
