//! Sends a request once, and says what became of it.
//!
//! Invariant (unknown fate): [`Fate::NotSent`] is only said of a request of which no byte left the
//! router: no connection came about, or hyper gave the request back. [`Fate::Unread`] is only said
//! of one that no node can have read to its end: the connection accepted no byte of it, or the last
//! of its body was never passed on and it is of those that nodes read before they do anything.

use std::sync::Arc;
use std::time::{Duration, Instant};

use cloudkv_common::server::forwarded::X_CLOUDKV_ROUTER;
use http::{Request, Response};
use hyper::body::Incoming;
use hyper::client::conn::http1::Builder;
use hyper_util::rt::TokioIo;

use super::outgoing::{Outgoing, Payload};
use super::pool::Sender;
use super::stream::{Accepted, NodeStream};
use crate::topology::Node;

/// Time to connect to a node, and to see certificates.
const CONNECT_WITHIN: Duration = Duration::from_secs(1);

/// Bytes of an answer that are read ahead of the client, who may not take them.
const MAX_READ_BYTES: usize = 64 << 10;

/// What became of a request that has no answer.
#[derive(Debug, thiserror::Error)]
pub enum Fate {
    /// No byte of it was sent: the node can't be reached.
    #[error("not sent: {0}")]
    NotSent(String),
    /// No byte of it was sent: there are as many connections to the node as there may be.
    #[error("not sent: too many connections to the node")]
    Busy,
    /// It wasn't read to its end, so nothing was done: the node closed the connection.
    #[error("not read: {0}")]
    Unread(String),
    /// It may have been done, or may be yet: the connection broke.
    #[error("no answer: {0}")]
    Lost(String),
    /// It may have been done, or may be yet: no answer came in time.
    #[error("no answer came in time")]
    TimedOut,
}

/// An answer, and the connection that it comes over.
#[derive(Debug)]
pub struct Sent {
    /// The answer.
    pub response: Response<Incoming>,
    /// The connection: of use again when the answer was read to its end.
    pub sender: Sender,
    /// Whether all of the request was passed on before the answer came; if not, the connection is
    /// of no more use.
    pub complete: bool,
}

/// A request to be sent, over another connection if one turns out to be closed.
pub struct Try<'a> {
    /// Makes the request; `None` if a part of its body is gone.
    pub request: &'a (dyn Fn() -> Option<Request<Outgoing>> + Sync),
    /// What its body is made of.
    pub payload: &'a Payload,
    /// Whether nodes read all of the body before they do anything.
    pub body_first: bool,
}

/// How a request is sent.
#[derive(Clone, Copy, Debug)]
pub struct Bounds {
    /// The thread that sends it.
    pub worker: usize,
    /// Connections to one node.
    pub connections: usize,
    /// Time for the answer to begin.
    pub within: Duration,
}

/// Sends a request to a node; `None` if a part of its body is gone.
pub async fn send(node: &Arc<Node>, order: Try<'_>, bounds: Bounds) -> Option<Result<Sent, Fate>> {
    let sent = tokio::time::timeout(bounds.within, try_send(node, &order, bounds));
    sent.await.unwrap_or(Some(Err(Fate::TimedOut)))
}

async fn try_send(node: &Arc<Node>, order: &Try<'_>, bounds: Bounds) -> Option<Result<Sent, Fate>> {
    let now = Instant::now();
    while let Some(sender) = node.pools.take(bounds.worker, now) {
        match exchange(sender, node, order).await? {
            // The node has closed the connection, as it may: another one will do.
            Err(Fate::NotSent(_) | Fate::Unread(_)) => {}
            answered => return Some(answered),
        }
    }
    match connect(node, bounds).await {
        Ok(sender) => exchange(sender, node, order).await,
        Err(fate) => Some(Err(fate)),
    }
}

/// Sends a request over a connection; `None` if a part of its body is gone.
async fn exchange(mut sender: Sender, node: &Node, order: &Try<'_>) -> Option<Result<Sent, Fate>> {
    let mut request = (order.request)()?;
    if let Some(token) = &node.token {
        let token = token.clone();
        request.headers_mut().insert(&X_CLOUDKV_ROUTER, token);
    }
    if let Some(gate) = order.payload.gate() {
        hyper::ext::on_informational(&mut request, move |informed| {
            if informed.status() == http::StatusCode::CONTINUE {
                gate.open();
            }
        });
    }
    let before = sender.accepted.bytes();
    Some(match sender.requests.try_send_request(request).await {
        Ok(response) => Ok(Sent {
            response,
            complete: order.payload.is_passed_on(),
            sender,
        }),
        Err(mut error) => {
            let returned = error.take_message().is_some();
            let why = error.into_error().to_string();
            let nothing_accepted = sender.accepted.bytes() == before;
            Err(if returned {
                Fate::NotSent(why)
            } else if nothing_accepted || (order.body_first && !order.payload.is_passed_on()) {
                Fate::Unread(why)
            } else {
                Fate::Lost(why)
            })
        }
    })
}

async fn connect(node: &Arc<Node>, bounds: Bounds) -> Result<Sender, Fate> {
    let open = node.pools.open(bounds.connections).ok_or(Fate::Busy)?;
    let connected = tokio::time::timeout(CONNECT_WITHIN, node.connect()).await;
    let stream = connected
        .map_err(|_| Fate::NotSent(format!("no connection within {CONNECT_WITHIN:?}")))?
        .map_err(|error| Fate::NotSent(error.to_string()))?;
    let accepted = Accepted::default();
    let stream = NodeStream::new(stream, accepted.clone());
    let handshake = Builder::new()
        .max_buf_size(MAX_READ_BYTES)
        .handshake(TokioIo::new(stream))
        .await;
    let (requests, connection) = handshake.map_err(|error| Fate::NotSent(error.to_string()))?;
    tokio::spawn(async move {
        let _open = open;
        if let Err(error) = connection.await {
            tracing::debug!(%error, "a connection to a node ended early");
        }
    });
    Ok(Sender { requests, accepted })
}
