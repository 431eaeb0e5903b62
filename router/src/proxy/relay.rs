//! Relays a response's body to the client, and then returns its connection to the pool.
//!
//! Invariant: a connection is reused only if its request was sent completely before the response
//! came, and the response was read completely. A node that responds early may leave the rest of the
//! request unread, and then requests that follow on the connection aren't read either.

use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::{Duration, Instant};

use bytes::Bytes;
use http_body::{Frame, SizeHint};
use hyper::body::Incoming;
use tokio::time::Sleep;

use crate::upstream::{Node, NodeResponse, PooledConnection};

/// Time without progress after which a response is aborted.
const STALL_TIMEOUT: Duration = Duration::from_secs(30);

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
    first_chunk: Option<Bytes>,
    source: Incoming,
    pool_return: Option<PoolReturn>,
    stall_timer: Option<Pin<Box<Sleep>>>,
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
        (parts, Self::start(source, pool_return))
    }

    fn start(mut source: Incoming, pool_return: PoolReturn) -> Self {
        use http_body::Body as _;
        if source.is_end_stream() {
            pool_return.return_connection();
            return Self::Empty;
        }
        let mut cx = Context::from_waker(std::task::Waker::noop());
        let mut first = None;
        if let Poll::Ready(Some(Ok(frame))) = Pin::new(&mut source).poll_frame(&mut cx)
            && let Ok(data) = frame.into_data()
        {
            if source.is_end_stream() {
                pool_return.return_connection();
                return Self::Buffered(data);
            }
            first = Some(data);
        }
        Self::Streaming(Box::new(RelayedBody {
            first_chunk: first,
            source,
            pool_return: Some(pool_return),
            stall_timer: None,
        }))
    }
}

impl RelayedBody {
    fn poll(&mut self, cx: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, RelayError>>> {
        use http_body::Body as _;
        if let Some(first) = self.first_chunk.take() {
            return Poll::Ready(Some(Ok(Frame::data(first))));
        }
        match Pin::new(&mut self.source).poll_frame(cx) {
            Poll::Ready(Some(Ok(frame))) => {
                self.stall_timer = None;
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
                let stall_timer = self
                    .stall_timer
                    .get_or_insert_with(|| Box::pin(tokio::time::sleep(STALL_TIMEOUT)));
                match stall_timer.as_mut().poll(cx) {
                    Poll::Ready(()) => Poll::Ready(Some(Err(RelayError::Stalled))),
                    Poll::Pending => Poll::Pending,
                }
            }
        }
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
            Self::Streaming(relay) => relay.first_chunk.is_none() && relay.source.is_end_stream(),
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
