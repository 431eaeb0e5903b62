//! Client of a node's admin port: one connection and one request per call.

use std::time::Duration;

use bytes::Bytes;
use http_body_util::{BodyExt, Full};
use hyper::client::conn::http1;
use hyper::header::{self, HeaderValue};
use hyper::{Method, Request, StatusCode};
use hyper_util::rt::TokioIo;
use serde_json::Value;
use tokio::net::TcpStream;
use tokio::task::JoinSet;

use crate::config::{AdminTarget, Secret};

/// Time for a query as a whole.
const QUERY_TIMEOUT: Duration = Duration::from_secs(5);
/// Time for a change, which may have to scan a bucket's keys.
const CHANGE_TIMEOUT: Duration = Duration::from_secs(60);
/// Time for a call that scans a shard several times.
const SCAN_TIMEOUT: Duration = Duration::from_secs(3600);

/// Reason for which a call of the admin port failed.
#[derive(Debug, thiserror::Error)]
pub enum AdminCallError {
    /// Nothing listens at the address, or it is unreachable.
    #[error(
        "connect to {target}: {source}. Does the node run, and is this its admin port (`admin`)? \
         Give its address with --admin, or the node's file with --config"
    )]
    Connect {
        /// The called node.
        target: AdminTarget,
        /// The cause.
        source: std::io::Error,
    },
    /// The response took too long.
    #[error("call {target}: no response within {} s", within.as_secs())]
    Timeout {
        /// The called node.
        target: AdminTarget,
        /// The timeout.
        within: Duration,
    },
    /// The response isn't HTTP, or was aborted.
    #[error(
        "call {target}: {source}. It may not be a node's admin port (`admin`): give that address \
         with --admin"
    )]
    Http {
        /// The called node.
        target: AdminTarget,
        /// The cause.
        source: hyper::Error,
    },
    /// The token or the address can't be sent in a request.
    #[error("build the request: the token or the address has invalid characters")]
    InvalidRequest(#[from] http::Error),
    /// The response isn't JSON.
    #[error("call {target}: the response isn't JSON. Is it a node's admin port?")]
    NotJson {
        /// The called node.
        target: AdminTarget,
        /// The cause.
        source: serde_json::Error,
    },
    /// The node refused the request.
    #[error("{target} answered {status}: {message}")]
    Refused {
        /// The called node.
        target: AdminTarget,
        /// Status of the response.
        status: StatusCode,
        /// Message of the response.
        message: String,
    },
    /// Regions hold different data.
    #[error("{text}the regions differ: the shards and ranges above are not the same everywhere")]
    RegionsDiffer {
        /// Results per shard.
        text: String,
    },
    /// Regions may differ, or may only not have converged yet.
    #[error(
        "{text}some ranges change faster than regions can be compared: try again when less is \
         written"
    )]
    Undecided {
        /// Results per shard.
        text: String,
    },
    /// Something needs an operator.
    #[error(
        "{count} of the findings above {} an operator",
        if *count == 1 { "needs" } else { "need" }
    )]
    NeedsAttention {
        /// Number of findings.
        count: usize,
    },
    /// The node is no longer being decommissioned.
    #[error("node {name} was recommissioned: it takes shards again")]
    Recommissioned {
        /// Name of the node.
        name: String,
    },
    /// The node that reported the progress doesn't respond any more.
    #[error(
        "node {name} is being decommissioned, but the node that reported the progress does not \
         respond any more: {source}. If it was that node itself, it has ended, as it does when it \
         is removed: `admin status` of another node shows the state"
    )]
    ProgressLost {
        /// Name of the decommissioned node.
        name: String,
        /// Error of the last call.
        source: Box<AdminCallError>,
    },
    /// The output can't be printed.
    #[error("print: {0}")]
    Print(std::io::Error),
    /// The node is not ready.
    #[error("{target} is not ready: it waits for {waiting_for}")]
    NotReady {
        /// The called node.
        target: AdminTarget,
        /// Components that the node waits for.
        waiting_for: String,
    },
}

/// Sends a GET request, and returns status and JSON of the response.
pub(super) async fn get(
    target: &AdminTarget,
    path: &str,
    token: Option<&Secret>,
) -> Result<(StatusCode, Value), AdminCallError> {
    let request = Request::get(path).body(Full::default())?;
    send(target, request, token, QUERY_TIMEOUT).await
}

/// Sends a change with a JSON body, and returns status and JSON of the response.
pub(super) async fn send_change(
    target: &AdminTarget,
    method: Method,
    path: &str,
    token: Option<&Secret>,
    body: &Value,
) -> Result<(StatusCode, Value), AdminCallError> {
    let request = Request::builder()
        .method(method)
        .uri(path)
        .header(header::CONTENT_TYPE, "application/json")
        .body(Full::from(body.to_string()))?;
    send(target, request, token, CHANGE_TIMEOUT).await
}

/// Sends a request that scans a shard, and returns status and JSON of the response.
pub(super) async fn send_scan(
    target: &AdminTarget,
    method: Method,
    path: &str,
    token: Option<&Secret>,
) -> Result<(StatusCode, Value), AdminCallError> {
    let request = Request::builder().method(method).uri(path);
    send(target, request.body(Full::default())?, token, SCAN_TIMEOUT).await
}

async fn send(
    target: &AdminTarget,
    mut request: Request<Full<Bytes>>,
    token: Option<&Secret>,
    within: Duration,
) -> Result<(StatusCode, Value), AdminCallError> {
    let headers = request.headers_mut();
    headers.insert(header::HOST, header_value(target.authority())?);
    if let Some(token) = token {
        let token = header_value(&format!("Bearer {}", token.expose()))?;
        headers.insert(header::AUTHORIZATION, token);
    }
    let response = tokio::time::timeout(within, exchange(target, request));
    let (status, body) = response.await.map_err(|_| AdminCallError::Timeout {
        target: target.clone(),
        within,
    })??;
    let json = serde_json::from_slice(&body).map_err(|source| AdminCallError::NotJson {
        target: target.clone(),
        source,
    })?;
    Ok((status, json))
}

fn header_value(text: &str) -> Result<HeaderValue, http::Error> {
    Ok(HeaderValue::from_str(text)?)
}

async fn exchange(
    target: &AdminTarget,
    request: Request<Full<Bytes>>,
) -> Result<(StatusCode, Bytes), AdminCallError> {
    let http_error = |source| AdminCallError::Http {
        target: target.clone(),
        source,
    };
    let stream = TcpStream::connect(target.authority())
        .await
        .map_err(|source| AdminCallError::Connect {
            target: target.clone(),
            source,
        })?;
    let (mut requests, connection) = http1::handshake(TokioIo::new(stream))
        .await
        .map_err(http_error)?;
    // Dropping the set aborts the connection's task. The request gets that task's errors, too.
    let mut task = JoinSet::new();
    task.spawn(connection);
    let response = requests.send_request(request).await.map_err(http_error)?;
    let status = response.status();
    let body = response
        .into_body()
        .collect()
        .await
        .map_err(http_error)?
        .to_bytes();
    Ok((status, body))
}
