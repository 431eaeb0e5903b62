//! Relays a response's body to the client, and then returns its connection to the pool.
//!
//! Invariant: a connection is reused only if its request was sent completely before the response
//! came, and the response was read completely. A node that responds early may leave the rest of the
//! request unread, and then requests that follow on the connection aren't read either.
//!
//! A response has no deadline. It is aborted when its node sends nothing for too long, and by the
//! server when its client reads nothing for too long. When a body is dropped before its end, so is
//! the connection, and with it what the node does for the request.

use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll, ready};
use std::time::Instant;

use bytes::Bytes;
use http_body::{Frame, SizeHint};
use hyper::body::Incoming;

use super::event_streams::EventStream;
use super::stall_timer::StallTimer;
use crate::upstream::{Node, NodeResponse, PayloadRest, PooledConnection};

/// Body of a response.
#[derive(Debug)]
pub(crate) enum ResponseBody {
    /// There is no body, or it has been sent.
    Empty,
    /// A single chunk.
    Buffered(Bytes),
    /// A body that arrives from a node.
    Streaming(Box<RelayedBody>),
}

/// A body that is streamed from a node to the client.
#[derive(Debug)]
pub(crate) struct RelayedBody {
    /// First chunk, or error, that had arrived with the head.
    first: Option<Result<Bytes, hyper::Error>>,
    source: Incoming,
    pool_return: Option<PoolReturn>,
    stall_timer: StallTimer,
    /// Set if it is an event stream.
    event_stream: Option<EventStream>,
}

/// Returns a connection to its pool when the response has been read.
#[derive(Debug)]
pub(super) struct PoolReturn {
    pub node: Arc<Node>,
    pub connection: PooledConnection,
    pub worker: usize,
    /// True if the connection may be used again.
    pub is_reusable: bool,
}

impl PoolReturn {
    fn return_connection(self) {
        // A draining node closes connections: the outcome of a request on one could be unknown.
        if self.is_reusable && !self.node.is_draining() {
            self.node
                .pools
                .put(self.worker, self.connection, Instant::now());
        }
    }
}

/// Reason for which a response was aborted.
#[derive(Debug, thiserror::Error)]
pub(crate) enum RelayError {
    /// The connection to the node failed.
    #[error("read a node's response")]
    Node(#[from] hyper::Error),
    /// The response made no progress for too long.
    #[error("read a node's response: no progress")]
    Stalled,
}

impl ResponseBody {
    /// Creates a body from memory.
    pub(super) fn buffered(bytes: Bytes) -> Self {
        if bytes.is_empty() {
            Self::Empty
        } else {
            Self::Buffered(bytes)
        }
    }

    /// Creates the body of a node's response. If it has arrived completely, its connection is
    /// returned at once.
    pub(super) fn from_node(
        sent: NodeResponse,
        node: Arc<Node>,
        worker: usize,
    ) -> (http::response::Parts, Self) {
        let (parts, source) = sent.response.into_parts();
        let pool_return = PoolReturn {
            node,
            connection: sent.connection,
            worker,
            is_reusable: sent.is_request_complete,
        };
        (parts, Self::start(source, pool_return, sent.rest))
    }

    /// Makes the body of an event stream of it.
    pub(super) fn into_event_stream(mut self, stream: EventStream) -> Self {
        if let Self::Streaming(relay) = &mut self {
            relay.event_stream = Some(stream);
        }
        self
    }

    fn start(mut source: Incoming, pool_return: PoolReturn, rest: PayloadRest) -> Self {
        use http_body::Body as _;
        if source.is_end_stream() {
            pool_return.return_connection();
            return Self::Empty;
        }
        let mut cx = Context::from_waker(std::task::Waker::noop());
        let mut first = None;
        if let Poll::Ready(Some(frame)) = Pin::new(&mut source).poll_frame(&mut cx) {
            first = frame.map(|frame| frame.into_data().ok()).transpose();
        }
        if let Some(Ok(data)) = &first
            && source.is_end_stream()
        {
            pool_return.return_connection();
            return Self::Buffered(data.clone());
        }
        Self::Streaming(Box::new(RelayedBody {
            first,
            source,
            stall_timer: StallTimer::new(Arc::clone(&pool_return.node), rest),
            pool_return: Some(pool_return),
            event_stream: None,
        }))
    }
}

impl RelayedBody {
    fn poll(&mut self, cx: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, RelayError>>> {
        match self.event_stream.take() {
            None => self.poll_source(cx),
            Some(mut stream) => {
                let frame = self.poll_event_stream(&mut stream, cx);
                self.event_stream = Some(stream);
                frame.map(|frame| frame.map(Ok))
            }
        }
    }

    /// Polls an event stream, which ends without an error.
    fn poll_event_stream(
        &mut self,
        stream: &mut EventStream,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Frame<Bytes>>> {
        if stream.is_ended() {
            return Poll::Ready(None);
        }
        if let Poll::Ready(last_lines) = stream.poll_stop(cx) {
            return Poll::Ready(last_lines.map(Frame::data));
        }
        match ready!(self.poll_source(cx)) {
            Some(Ok(frame)) => {
                if let Some(data) = frame.data_ref() {
                    stream.record(data);
                }
                Poll::Ready(Some(frame))
            }
            Some(Err(error)) => {
                tracing::debug!(%error, "event stream broke off");
                stream.end();
                Poll::Ready(None)
            }
            None => Poll::Ready(None),
        }
    }

    fn poll_source(
        &mut self,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, RelayError>>> {
        use http_body::Body as _;
        if let Some(first) = self.first.take() {
            let frame = first.map(Frame::data).map_err(RelayError::from);
            return Poll::Ready(Some(frame));
        }
        match Pin::new(&mut self.source).poll_frame(cx) {
            Poll::Ready(Some(Ok(frame))) => {
                self.stall_timer.reset();
                if self.source.is_end_stream() {
                    self.return_connection();
                }
                Poll::Ready(Some(Ok(frame)))
            }
            Poll::Ready(Some(Err(error))) => Poll::Ready(Some(Err(error.into()))),
            Poll::Ready(None) => {
                self.return_connection();
                Poll::Ready(None)
            }
            Poll::Pending => {
                ready!(self.stall_timer.poll(cx));
                Poll::Ready(Some(Err(RelayError::Stalled)))
            }
        }
    }

    fn is_end_stream(&self) -> bool {
        use http_body::Body as _;
        let has_ended = self
            .event_stream
            .as_ref()
            .is_some_and(EventStream::is_ended);
        has_ended || (self.first.is_none() && self.source.is_end_stream())
    }

    fn return_connection(&mut self) {
        if let Some(pool_return) = self.pool_return.take() {
            pool_return.return_connection();
        }
    }
}

impl http_body::Body for ResponseBody {
    type Data = Bytes;
    type Error = RelayError;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, RelayError>>> {
        match &mut *self {
            Self::Empty => Poll::Ready(None),
            Self::Buffered(bytes) => {
                let bytes = std::mem::take(bytes);
                *self = Self::Empty;
                Poll::Ready(Some(Ok(Frame::data(bytes))))
            }
            Self::Streaming(relay) => relay.poll(cx),
        }
    }

    fn is_end_stream(&self) -> bool {
        match self {
            Self::Empty => true,
            Self::Buffered(_) => false,
            Self::Streaming(relay) => relay.is_end_stream(),
        }
    }

    fn size_hint(&self) -> SizeHint {
        match self {
            Self::Empty => SizeHint::with_exact(0),
            Self::Buffered(bytes) => SizeHint::with_exact(bytes.len() as u64),
            // A length that the node declared is in the headers.
            Self::Streaming(_) => SizeHint::default(),
        }
    }
}
