//! Calls the operator's port of a node: one connection, one request.

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

use crate::config::{Secret, Target};

/// Time for a question as a whole.
const TIMEOUT: Duration = Duration::from_secs(5);
/// Time for a change: a bucket's keys may have to be walked.
const CHANGE_TIMEOUT: Duration = Duration::from_secs(60);
/// Time for what walks over a shard, several times.
const WALK_TIMEOUT: Duration = Duration::from_secs(3600);

/// Why a node's operator's port gave no good answer.
#[derive(Debug, thiserror::Error)]
pub enum CallError {
    /// Nothing listens there, or it can't be reached.
    #[error(
        "connect to {target}: {source}. Does the node run, and is this its operator's port \
         (`admin`)? Name it with --admin, or the node's file with --config"
    )]
    Connect {
        /// Whom we called.
        target: Target,
        /// Why.
        source: std::io::Error,
    },
    /// The answer took too long.
    #[error("{target} gave no answer within {} s", within.as_secs())]
    Timeout {
        /// Whom we called.
        target: Target,
        /// How long we waited.
        within: Duration,
    },
    /// What came back isn't HTTP, or broke off.
    #[error(
        "call {target}: {source}. It may not be a node's operator's port (`admin`): name that with \
         --admin"
    )]
    Http {
        /// Whom we called.
        target: Target,
        /// Why.
        source: hyper::Error,
    },
    /// The token or the address can't stand in a request.
    #[error("the token or the address can't stand in a request")]
    Request(#[from] http::Error),
    /// The answer isn't JSON.
    #[error("{target} answered something else than JSON: is it a node's operator's port?")]
    NotJson {
        /// Whom we called.
        target: Target,
        /// Why.
        source: serde_json::Error,
    },
    /// The node said no.
    #[error("{target} answered {status}: {message}")]
    Refused {
        /// Whom we called.
        target: Target,
        /// The status.
        status: StatusCode,
        /// What the node says.
        message: String,
    },
    /// Regions hold different things.
    #[error("{text}the regions differ: the shards and ranges above are not the same everywhere")]
    Differ {
        /// What was found, shard by shard.
        text: String,
    },
    /// Regions may hold different things, or only not yet the same.
    #[error(
        "{text}some ranges change faster than regions can be compared: try again when less is written"
    )]
    Undecided {
        /// What was found, shard by shard.
        text: String,
    },
    /// Something needs a person.
    #[error("{count} of the things above {} a person", if *count == 1 { "needs" } else { "need" })]
    Attention {
        /// How many.
        count: usize,
    },
    /// A node is no longer being decommissioned.
    #[error("node {name} was recommissioned: it takes shards again")]
    Recommissioned {
        /// The node.
        name: String,
    },
    /// The node that was asked how far it is gives no answer any more.
    #[error(
        "node {name} is being decommissioned, but who was asked for the progress gives no answer \
         any more: {source}. If it was that node itself, it ended, as it does when it is removed: \
         `admin status` of another node tells"
    )]
    NoMoreProgress {
        /// The node that leaves.
        name: String,
        /// Why there is no answer.
        source: Box<CallError>,
    },
    /// What there is to tell can't be printed.
    #[error("print: {0}")]
    Print(std::io::Error),
    /// The node isn't ready.
    #[error("{target} is not ready: it waits for {waiting_for}")]
    NotReady {
        /// Whom we called.
        target: Target,
        /// What it waits for.
        waiting_for: String,
    },
}

/// The answer to a GET: its status and its JSON.
pub(super) async fn get(
    target: &Target,
    path: &str,
    token: Option<&Secret>,
) -> Result<(StatusCode, Value), CallError> {
    let request = Request::get(path).body(Full::default())?;
    call(target, request, token, TIMEOUT).await
}

/// The answer to a change with a JSON body: its status and its JSON.
pub(super) async fn change(
    target: &Target,
    method: Method,
    path: &str,
    token: Option<&Secret>,
    body: &Value,
) -> Result<(StatusCode, Value), CallError> {
    let request = Request::builder()
        .method(method)
        .uri(path)
        .header(header::CONTENT_TYPE, "application/json")
        .body(Full::from(body.to_string()))?;
    call(target, request, token, CHANGE_TIMEOUT).await
}

/// The answer to what walks over a shard: its status and its JSON.
pub(super) async fn walk(
    target: &Target,
    method: Method,
    path: &str,
    token: Option<&Secret>,
) -> Result<(StatusCode, Value), CallError> {
    let request = Request::builder().method(method).uri(path);
    call(target, request.body(Full::default())?, token, WALK_TIMEOUT).await
}

async fn call(
    target: &Target,
    mut request: Request<Full<Bytes>>,
    token: Option<&Secret>,
    within: Duration,
) -> Result<(StatusCode, Value), CallError> {
    let headers = request.headers_mut();
    headers.insert(header::HOST, value(target.authority())?);
    if let Some(token) = token {
        let token = value(&format!("Bearer {}", token.expose()))?;
        headers.insert(header::AUTHORIZATION, token);
    }
    let answer = tokio::time::timeout(within, exchange(target, request));
    let (status, body) = answer.await.map_err(|_| CallError::Timeout {
        target: target.clone(),
        within,
    })??;
    let json = serde_json::from_slice(&body).map_err(|source| CallError::NotJson {
        target: target.clone(),
        source,
    })?;
    Ok((status, json))
}

fn value(text: &str) -> Result<HeaderValue, http::Error> {
    Ok(HeaderValue::from_str(text)?)
}

async fn exchange(
    target: &Target,
    request: Request<Full<Bytes>>,
) -> Result<(StatusCode, Bytes), CallError> {
    let broken = |source| CallError::Http {
        target: target.clone(),
        source,
    };
    let stream = TcpStream::connect(target.authority())
        .await
        .map_err(|source| CallError::Connect {
            target: target.clone(),
            source,
        })?;
    let (mut requests, connection) = http1::handshake(TokioIo::new(stream))
        .await
        .map_err(broken)?;
    // Dropping the set ends the connection's task. Its errors reach the request as well.
    let mut task = JoinSet::new();
    task.spawn(connection);
    let answer = requests.send_request(request).await.map_err(broken)?;
    let status = answer.status();
    let body = answer
        .into_body()
        .collect()
        .await
        .map_err(broken)?
        .to_bytes();
    Ok((status, body))
}
