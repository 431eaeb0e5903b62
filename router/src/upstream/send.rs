//! Sends a request once, and says what became of it.
//!
//! Invariant (unknown fate): [`Fate::NotSent`] is only said of a request of which no byte left the
//! router: no connection came about, or hyper gave the request back.

use std::sync::Arc;
use std::time::{Duration, Instant};

use cloudkv_common::server::forwarded::X_CLOUDKV_ROUTER;
use http::{Request, Response};
use hyper::body::Incoming;
use hyper::client::conn::http1::Builder;
use hyper_util::rt::TokioIo;

use super::outgoing::{Outgoing, Payload};
use super::pool::Sender;
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

/// Sends a request to a node. `payload` is what its body was made of.
pub async fn send(
    node: &Arc<Node>,
    request: Request<Outgoing>,
    payload: &Payload,
    bounds: Bounds,
) -> Result<Sent, Fate> {
    let sent = tokio::time::timeout(bounds.within, try_send(node, request, payload, bounds));
    sent.await.unwrap_or(Err(Fate::TimedOut))
}

async fn try_send(
    node: &Arc<Node>,
    mut request: Request<Outgoing>,
    payload: &Payload,
    bounds: Bounds,
) -> Result<Sent, Fate> {
    if let Some(token) = &node.token {
        let token = token.clone();
        request.headers_mut().insert(&X_CLOUDKV_ROUTER, token);
    }
    if let Some(gate) = payload.gate() {
        hyper::ext::on_informational(&mut request, move |informed| {
            if informed.status() == http::StatusCode::CONTINUE {
                gate.open();
            }
        });
    }
    let now = Instant::now();
    while let Some(mut sender) = node.pools.take(bounds.worker, now) {
        match sender.try_send_request(request).await {
            Ok(response) => return Ok(Sent { response, sender }),
            Err(mut error) => match error.take_message() {
                // The node has closed the connection, as it may: another one will do.
                Some(unsent) => request = unsent,
                None => return Err(Fate::Lost(error.into_error().to_string())),
            },
        }
    }
    let mut sender = connect(node, bounds).await?;
    match sender.try_send_request(request).await {
        Ok(response) => Ok(Sent { response, sender }),
        Err(mut error) => match error.take_message() {
            Some(_) => Err(Fate::NotSent(error.into_error().to_string())),
            None => Err(Fate::Lost(error.into_error().to_string())),
        },
    }
}

async fn connect(node: &Arc<Node>, bounds: Bounds) -> Result<Sender, Fate> {
    let open = node.pools.open(bounds.connections).ok_or(Fate::Busy)?;
    let connected = tokio::time::timeout(CONNECT_WITHIN, node.connect()).await;
    let stream = connected
        .map_err(|_| Fate::NotSent(format!("no connection within {CONNECT_WITHIN:?}")))?
        .map_err(|error| Fate::NotSent(error.to_string()))?;
    let handshake = Builder::new()
        .max_buf_size(MAX_READ_BYTES)
        .handshake(TokioIo::new(stream))
        .await;
    let (sender, connection) = handshake.map_err(|error| Fate::NotSent(error.to_string()))?;
    tokio::spawn(async move {
        let _open = open;
        if let Err(error) = connection.await {
            tracing::debug!(%error, "a connection to a node ended early");
        }
    });
    Ok(sender)
}
