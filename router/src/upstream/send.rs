//! Sends a request once, and classifies its outcome.
//!
//! Invariant (unknown outcome): [`SendError::NotSent`] is only returned for a request of which no
//! byte left the router: no connection was established, or hyper returned the request.
//! [`SendError::NotRead`] is only returned for one that no node can have read completely: the
//! connection accepted no byte of it, or the end of its body was never forwarded and its method is
//! one for which nodes read the body before they execute it.

use std::sync::Arc;
use std::time::{Duration, Instant};

use cloudkv_common::server::forwarded::X_CLOUDKV_ROUTER;
use http::{Request, Response};
use hyper::body::Incoming;
use hyper::client::conn::http1::Builder;
use hyper_util::rt::TokioIo;

use super::counting_stream::{AcceptedBytes, CountingStream};
use super::node::Node;
use super::pool::PooledConnection;
use super::request_body::{PayloadRest, RequestPayload, UpstreamBody};
use super::send_error::SendError;

/// Time to connect to a node, including the TLS handshake.
const CONNECT_TIMEOUT: Duration = Duration::from_secs(1);

/// Maximum number of bytes of a response that are read ahead of the client.
const MAX_READ_BYTES: usize = 64 << 10;

/// Response of a node, and its connection.
#[derive(Debug)]
pub(crate) struct NodeResponse {
    /// The response.
    pub response: Response<Incoming>,
    /// The connection, which is reusable once the response has been read completely.
    pub connection: PooledConnection,
    /// True if the request was sent completely before the response; if not, the connection isn't
    /// reusable.
    pub is_request_complete: bool,
    /// Rest of the request's body, which is sent on while the response is read.
    pub rest: PayloadRest,
}

/// A request to be sent, over another connection if the first one turns out to be closed.
pub(crate) struct NodeRequest<'a> {
    /// Builds the request; `None` if a part of its body is no longer buffered.
    pub build: &'a (dyn Fn() -> Option<Request<UpstreamBody>> + Sync),
    /// Source of the body.
    pub payload: &'a RequestPayload,
    /// True if nodes read the whole body before they execute the request.
    pub is_body_read_first: bool,
    /// True if nodes read the body to its end although their response has begun.
    pub is_body_read_on: bool,
}

/// Limits for sending a request.
#[derive(Clone, Copy, Debug)]
pub(crate) struct SendLimits {
    /// Number of the sending thread.
    pub worker: usize,
    /// Maximum number of connections to the node.
    pub max_connections: usize,
    /// Time for the response to begin.
    pub timeout: Duration,
}

/// Sends a request to a node; `None` if a part of its body is no longer buffered.
pub(crate) async fn send(
    node: &Arc<Node>,
    request: NodeRequest<'_>,
    limits: SendLimits,
) -> Option<Result<NodeResponse, SendError>> {
    let sent = tokio::time::timeout(limits.timeout, try_send(node, &request, limits));
    sent.await.unwrap_or(Some(Err(SendError::TimedOut)))
}

async fn try_send(
    node: &Arc<Node>,
    request: &NodeRequest<'_>,
    limits: SendLimits,
) -> Option<Result<NodeResponse, SendError>> {
    let now = Instant::now();
    while let Some(connection) = node.pools.take(limits.worker, now) {
        match exchange(connection, node, request).await? {
            // The node has closed the connection, as it may: try another one.
            Err(SendError::NotSent(_) | SendError::NotRead(_)) => {}
            outcome => return Some(outcome),
        }
    }
    match connect(node, limits).await {
        Ok(connection) => exchange(connection, node, request).await,
        Err(error) => Some(Err(error)),
    }
}

/// Sends a request over a connection; `None` if a part of its body is no longer buffered.
async fn exchange(
    mut connection: PooledConnection,
    node: &Node,
    request: &NodeRequest<'_>,
) -> Option<Result<NodeResponse, SendError>> {
    let mut message = (request.build)()?;
    if let Some(token) = &node.token {
        let token = token.clone();
        message.headers_mut().insert(&X_CLOUDKV_ROUTER, token);
    }
    if let Some(gate) = request.payload.continue_gate() {
        hyper::ext::on_informational(&mut message, move |informed| {
            if informed.status() == http::StatusCode::CONTINUE {
                gate.open();
            }
        });
    }
    let before = connection.accepted.count();
    Some(match connection.requests.try_send_request(message).await {
        Ok(response) => {
            if request.is_body_read_on && response.status().is_success() {
                // Without `100 Continue`, too, the node wants the body now.
                request.payload.open_gate();
            }
            Ok(NodeResponse {
                response,
                is_request_complete: request.payload.is_forwarded(),
                rest: request.payload.rest(),
                connection,
            })
        }
        Err(mut error) => {
            let is_returned = error.take_message().is_some();
            let reason = error.into_error().to_string();
            let is_nothing_accepted = connection.accepted.count() == before;
            Err(if is_returned {
                SendError::NotSent(reason)
            } else if is_nothing_accepted
                || (request.is_body_read_first && !request.payload.is_forwarded())
            {
                SendError::NotRead(reason)
            } else {
                SendError::Lost(reason)
            })
        }
    })
}

async fn connect(node: &Arc<Node>, limits: SendLimits) -> Result<PooledConnection, SendError> {
    let open = node
        .pools
        .try_open(limits.max_connections)
        .ok_or(SendError::Busy)?;
    let connected = tokio::time::timeout(CONNECT_TIMEOUT, node.connect()).await;
    let stream = connected
        .map_err(|_| SendError::NotSent(format!("no connection within {CONNECT_TIMEOUT:?}")))?
        .map_err(|error| SendError::NotSent(error.to_string()))?;
    let accepted = AcceptedBytes::default();
    let stream = CountingStream::new(stream, accepted.clone());
    let handshake = Builder::new()
        .max_buf_size(MAX_READ_BYTES)
        .handshake(TokioIo::new(stream))
        .await;
    let (requests, connection) =
        handshake.map_err(|error| SendError::NotSent(error.to_string()))?;
    tokio::spawn(async move {
        let _open = open;
        if let Err(error) = connection.await {
            tracing::debug!(%error, "connection to node failed");
        }
    });
    Ok(PooledConnection { requests, accepted })
}
