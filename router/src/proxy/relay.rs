//! The answer's body on its way back, and then its connection on its way back into the pool.
//!
//! Invariant: a connection is kept only when the request that went over it was sent to its end
//! before the answer came, and that was read to its end. A node that answers early may leave the
//! rest of the request unread, and then what follows on the connection isn't read either.

use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::{Duration, Instant};

use bytes::Bytes;
use http_body::{Frame, SizeHint};
use hyper::body::Incoming;
use tokio::time::Sleep;

use crate::topology::Node;
use crate::upstream::{Sender, Sent};

/// An answer of which no byte comes for this long is broken off.
const STALLED: Duration = Duration::from_secs(30);

/// The body of an answer.
#[derive(Debug)]
pub enum Body {
    /// None, or it has been sent.
    Empty,
    /// One piece.
    Full(Bytes),
    /// It comes from a node.
    Coming(Box<Relay>),
}

/// A body on its way from a node.
#[derive(Debug)]
pub struct Relay {
    first: Option<Bytes>,
    source: Incoming,
    way_back: Option<WayBack>,
    stalled: Option<Pin<Box<Sleep>>>,
}

/// Where a connection goes when it is free.
#[derive(Debug)]
pub(super) struct WayBack {
    pub node: Arc<Node>,
    pub sender: Sender,
    pub worker: usize,
    /// Whether the connection is of any more use.
    pub reusable: bool,
}

impl WayBack {
    fn go(self) {
        // On a connection that the node closes a request's fate could be unknown.
        if self.reusable && !self.node.is_draining() {
            self.node
                .pools
                .put(self.worker, self.sender, Instant::now());
        }
    }
}

/// Why an answer broke off.
#[derive(Debug, thiserror::Error)]
pub enum RelayError {
    /// The node's connection did.
    #[error("read an answer of a node")]
    Node(#[from] hyper::Error),
    /// No byte came for too long.
    #[error("an answer of a node stopped coming")]
    Stalled,
}

impl Body {
    /// A body in memory.
    pub(super) fn whole(bytes: Bytes) -> Self {
        if bytes.is_empty() {
            Self::Empty
        } else {
            Self::Full(bytes)
        }
    }

    /// The body of what a node answered. If it is there already its connection is free at once.
    pub(super) fn of(sent: Sent, node: Arc<Node>, worker: usize) -> (http::response::Parts, Self) {
        let (parts, source) = sent.response.into_parts();
        let way_back = WayBack {
            node,
            sender: sent.sender,
            worker,
            reusable: sent.complete,
        };
        (parts, Self::begin(source, way_back))
    }

    fn begin(mut source: Incoming, way_back: WayBack) -> Self {
        use http_body::Body as _;
        if source.is_end_stream() {
            way_back.go();
            return Self::Empty;
        }
        let mut cx = Context::from_waker(std::task::Waker::noop());
        let mut first = None;
        if let Poll::Ready(Some(Ok(frame))) = Pin::new(&mut source).poll_frame(&mut cx)
            && let Ok(data) = frame.into_data()
        {
            if source.is_end_stream() {
                way_back.go();
                return Self::Full(data);
            }
            first = Some(data);
        }
        Self::Coming(Box::new(Relay {
            first,
            source,
            way_back: Some(way_back),
            stalled: None,
        }))
    }
}

impl Relay {
    fn poll(&mut self, cx: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, RelayError>>> {
        use http_body::Body as _;
        if let Some(first) = self.first.take() {
            return Poll::Ready(Some(Ok(Frame::data(first))));
        }
        match Pin::new(&mut self.source).poll_frame(cx) {
            Poll::Ready(Some(Ok(frame))) => {
                self.stalled = None;
                if self.source.is_end_stream() {
                    self.free();
                }
                Poll::Ready(Some(Ok(frame)))
            }
            Poll::Ready(Some(Err(error))) => Poll::Ready(Some(Err(error.into()))),
            Poll::Ready(None) => {
                self.free();
                Poll::Ready(None)
            }
            Poll::Pending => {
                let stalled = self
                    .stalled
                    .get_or_insert_with(|| Box::pin(tokio::time::sleep(STALLED)));
                match stalled.as_mut().poll(cx) {
                    Poll::Ready(()) => Poll::Ready(Some(Err(RelayError::Stalled))),
                    Poll::Pending => Poll::Pending,
                }
            }
        }
    }

    fn free(&mut self) {
        if let Some(way_back) = self.way_back.take() {
            way_back.go();
        }
    }
}

impl http_body::Body for Body {
    type Data = Bytes;
    type Error = RelayError;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, RelayError>>> {
        match &mut *self {
            Self::Empty => Poll::Ready(None),
            Self::Full(bytes) => {
                let bytes = std::mem::take(bytes);
                *self = Self::Empty;
                Poll::Ready(Some(Ok(Frame::data(bytes))))
            }
            Self::Coming(relay) => relay.poll(cx),
        }
    }

    fn is_end_stream(&self) -> bool {
        match self {
            Self::Empty => true,
            Self::Full(_) => false,
            Self::Coming(relay) => relay.first.is_none() && relay.source.is_end_stream(),
        }
    }

    fn size_hint(&self) -> SizeHint {
        match self {
            Self::Empty => SizeHint::with_exact(0),
            Self::Full(bytes) => SizeHint::with_exact(bytes.len() as u64),
            // A length that the node told is in the head.
            Self::Coming(_) => SizeHint::default(),
        }
    }
}
