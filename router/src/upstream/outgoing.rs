//! The body of a request as it goes to a node, and perhaps to another one after that.
//!
//! A body that came with its head, as nearly all do, is one piece of memory. Any other is passed
//! on as it comes, so that a node can refuse it early; what was passed on is kept up to a bound,
//! and only a body of which all is kept can be sent again.
//!
//! A client that waits for `100 Continue` gets it when the node gives it: until then its body is
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

/// How often a body is asked for before it counts as one that comes later. The server hands a body
/// over a turn after the head, also if both came together.
const TURNS: usize = 2;

/// A request's body, to be sent as often as is needed, or as is possible.
#[derive(Clone, Debug)]
pub enum Payload {
    /// None.
    Empty,
    /// All of it.
    Whole(Bytes),
    /// It comes.
    Coming(Arc<Coming>),
}

/// A body that is on its way.
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
    /// Bytes that may still be kept; `None`: something was not.
    room: Option<usize>,
    share: Share,
    ended: bool,
    broken: bool,
    /// The number of the current try, and whether it has passed all of the body on.
    attempt: u32,
    passed_on: bool,
}

/// Memory that bodies take which are kept to be sent again, for one client's.
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
    /// The body of a request, of which `keep` bytes may be kept. If the client `waits`, nothing of
    /// it is asked for before a node does.
    ///
    /// Up to `keep` bytes are kept to be sent again, if `share` tells that there is memory for them.
    pub async fn of(
        mut source: RequestBody,
        keep: usize,
        waits: bool,
        share: impl FnOnce() -> Share,
    ) -> Result<Self, BodyError> {
        if source.is_end_stream() {
            return Ok(Self::Empty);
        }
        let mut kept = Vec::new();
        if !waits {
            let first = at_once(&mut source).await?;
            if source.is_end_stream() {
                return Ok(first.map_or(Self::Empty, Self::Whole));
            }
            kept.extend(first);
        }
        let bytes: usize = kept.iter().map(Bytes::len).sum();
        let mut parts = Parts {
            source,
            kept,
            trailers: None,
            room: Some(keep.saturating_sub(bytes)),
            share: share(),
            ended: false,
            broken: false,
            attempt: 0,
            passed_on: false,
        };
        // The first part is in memory already, and not large: a window's.
        parts.share.take(bytes);
        let gate = Gate::default();
        gate.open.store(!waits, Ordering::Relaxed);
        Ok(Self::Coming(Arc::new(Coming {
            parts: Mutex::new(parts),
            gate,
        })))
    }

    /// The body for one try; `None` if a part of it is gone.
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

    /// Whether the last try has passed all of it on: before that, no node can have got it.
    pub fn is_passed_on(&self) -> bool {
        match self {
            Self::Empty | Self::Whole(_) => true,
            Self::Coming(coming) => coming.parts.lock().passed_on,
        }
    }

    /// All of the body, if it is in memory.
    pub fn whole(&self) -> Option<&Bytes> {
        static NONE: Bytes = Bytes::new();
        match self {
            Self::Empty => Some(&NONE),
            Self::Whole(bytes) => Some(bytes),
            Self::Coming(_) => None,
        }
    }

    /// Whether the client broke off: then no node has got all of it, and none has done anything.
    pub fn is_broken(&self) -> bool {
        match self {
            Self::Empty | Self::Whole(_) => false,
            Self::Coming(coming) => coming.parts.lock().broken,
        }
    }

    /// The gate that a node's `100 Continue` opens, if the client waits for it.
    pub(super) fn gate(&self) -> Option<Arc<Coming>> {
        match self {
            Self::Coming(coming) if !coming.gate.open.load(Ordering::Acquire) => {
                Some(coming.clone())
            }
            Self::Empty | Self::Whole(_) | Self::Coming(_) => None,
        }
    }
}

/// The first piece of a body if it is there already.
async fn at_once(source: &mut RequestBody) -> Result<Option<Bytes>, BodyError> {
    let mut turns = 0;
    std::future::poll_fn(|cx| match Pin::new(&mut *source).poll_frame(cx) {
        Poll::Ready(Some(Ok(frame))) => Poll::Ready(Ok(frame.into_data().ok())),
        Poll::Ready(Some(Err(error))) => Poll::Ready(Err(error)),
        Poll::Ready(None) => Poll::Ready(Ok(None)),
        Poll::Pending if turns < TURNS => {
            turns += 1;
            cx.waker().wake_by_ref();
            Poll::Pending
        }
        Poll::Pending => Poll::Ready(Ok(None)),
    })
    .await
}

impl Coming {
    /// Lets the body pass.
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
        if let Some(kept) = self.kept.get(*next) {
            *next += 1;
            return Poll::Ready(Some(Ok(Frame::data(kept.clone()))));
        }
        if self.ended {
            let last = *next == self.kept.len();
            *next += 1;
            let trailers = self.trailers.clone().filter(|_| last);
            return Poll::Ready(trailers.map(|trailers| Ok(Frame::trailers(trailers))));
        }
        let frame = match ready!(Pin::new(&mut self.source).poll_frame(cx)) {
            Some(Ok(frame)) => frame,
            Some(Err(error)) => {
                // Asked again, it would end as if it were whole.
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

    /// Whether nothing comes behind the piece with this number.
    fn is_over(&self, next: usize) -> bool {
        (self.ended || self.source.is_end_stream()) && !self.broken && next >= self.kept.len()
    }

    /// Keeps a piece if there is room for all so far.
    fn keep(&mut self, data: &Bytes) -> bool {
        let left = self.room.and_then(|room| room.checked_sub(data.len()));
        self.room = left.filter(|_| self.share.try_take(data.len()));
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
    /// Nothing is taken yet. A `client` is bounded in what it may take.
    pub fn new(memory: Arc<Memory>, client: Option<IpAddr>) -> Self {
        Self {
            memory,
            client,
            taken: 0,
        }
    }

    fn try_take(&mut self, bytes: usize) -> bool {
        let taken = self.memory.try_take(self.client, bytes);
        self.taken += if taken { bytes } else { 0 };
        taken
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

/// The body of a request to a node.
#[derive(Debug)]
pub enum Outgoing {
    /// None, or it has been sent.
    Empty,
    /// One piece.
    Whole(Bytes),
    /// It comes.
    Coming {
        /// Where from.
        coming: Arc<Coming>,
        /// The number of the try.
        attempt: u32,
        /// The number of pieces that were passed on, of those that are kept.
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
            // A length that the client told is in the head.
            Self::Coming { .. } => SizeHint::default(),
        }
    }
}
