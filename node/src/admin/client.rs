//! Calls of a node's admin port: requests and responses are JSON.

use std::time::Duration;

use axum::body::Body;
use cloudkv_common::admin::{self, ClientError};
use http::{Method, Request, StatusCode, header, request};
use serde_json::Value;

use crate::backup::BackupError;
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
        "{0}. Does the node run, and is this its admin port (`admin`)? Give its address with \
         --admin, or the node's file with --config"
    )]
    Connect(#[source] ClientError),
    /// The response isn't HTTP, or was aborted.
    #[error("{0}. It may not be a node's admin port (`admin`): give that address with --admin")]
    Http(#[source] ClientError),
    /// The call failed for another reason.
    #[error(transparent)]
    Call(ClientError),
    /// The response isn't JSON.
    #[error("call {target}: the response isn't JSON. Is it a node's admin port?")]
    NotJson {
        /// The called node.
        target: AdminTarget,
        /// The cause.
        source: serde_json::Error,
    },
    /// The response is JSON of another form than this version reads.
    #[error("call {target}: the node answered JSON {misfit}; is it of another version?")]
    UnexpectedJson {
        /// The called node.
        target: AdminTarget,
        /// The field that is missing or unexpected, as in `without node`.
        misfit: String,
    },
    /// A router answered.
    #[error(
        "call {target}: this is a router's admin port; `admin {command}` reads a node's. Give that \
         with --admin, or the node's file with --config"
    )]
    Router {
        /// The called router.
        target: AdminTarget,
        /// Name of the command.
        command: &'static str,
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
    /// The node is starting, and has no status to show yet.
    #[error(
        "get the status of {target}: the node is starting{}",
        describe_wait(waiting_for)
    )]
    Starting {
        /// The called node.
        target: AdminTarget,
        /// The step that it waits for; empty if it names none.
        waiting_for: String,
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
    /// Some shards could not be compared.
    #[error(
        "{target} answered {} for shards that it could not compare:\n{shards}{}",
        StatusCode::SERVICE_UNAVAILABLE,
        if *do_others_differ {
            "\nand the regions differ: the shards and ranges that were printed are not the same \
             everywhere"
        } else {
            ""
        }
    )]
    NotCompared {
        /// The called node.
        target: AdminTarget,
        /// The shards, with the reasons and what to do, a line for each reason.
        shards: String,
        /// True if regions differ in shards that were compared.
        do_others_differ: bool,
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
         is removed: `cloudkv-node admin status` of another node shows the state"
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
    /// A backup was interrupted.
    #[error(
        "the backup is not complete: {message}; run the same command again{}: it goes on where it \
         stopped",
        if *is_new { " without --new" } else { "" }
    )]
    BackupInterrupted {
        /// The reason.
        message: String,
        /// True if the command was told to begin a new one.
        is_new: bool,
    },
    /// Backups can't be listed or read.
    #[error(transparent)]
    Backup(#[from] BackupError),
    /// Backups are damaged.
    #[error("damaged: {}", ids.join(", "))]
    BackupsDamaged {
        /// Their IDs.
        ids: Vec<String>,
    },
    /// Nothing can be recovered by force.
    #[error("nothing was changed: {reason}")]
    NotRecoverable {
        /// The reason.
        reason: String,
    },
    /// A recovery by force is to be confirmed.
    #[error("nothing was changed. To recover, run: {command} --confirm '{text}'")]
    NotConfirmed {
        /// The command.
        command: String,
        /// The text that confirms it.
        text: String,
    },
    /// The node is not ready.
    #[error("{target} is not ready:\n{reasons}")]
    NotReady {
        /// The called node.
        target: AdminTarget,
        /// Components that aren't ready, with their reasons, a line for each.
        reasons: String,
    },
}

/// Describes the step that a starting node waits for, after the words that it is starting.
fn describe_wait(waiting_for: &str) -> String {
    match waiting_for {
        "" => String::new(),
        step => format!(", and waits for {step}"),
    }
}

impl AdminCallError {
    /// Returns whether nobody reads the output any more, as after `| head`.
    pub(super) fn is_closed_pipe(&self) -> bool {
        matches!(self, Self::Print(error) if error.kind() == std::io::ErrorKind::BrokenPipe)
    }

    /// Describes the error without the advice that its text ends with.
    pub(super) fn without_advice(&self) -> String {
        match self {
            Self::Connect(error) | Self::Http(error) | Self::Call(error) => error.to_string(),
            other => other.to_string(),
        }
    }
}

impl From<ClientError> for AdminCallError {
    fn from(error: ClientError) -> Self {
        match error {
            ClientError::Connect { .. } => Self::Connect(error),
            ClientError::Http { .. } => Self::Http(error),
            ClientError::Timeout { .. } | ClientError::InvalidRequest(_) => Self::Call(error),
        }
    }
}

/// Sends a GET request, and returns status and JSON of the response.
pub(super) async fn get(
    target: &AdminTarget,
    path: &str,
    token: Option<&Secret>,
) -> Result<(StatusCode, Value), AdminCallError> {
    let request = Request::get(path);
    send(target, (request, Body::empty()), token, QUERY_TIMEOUT).await
}

/// Sends a GET request for which the node asks other nodes, some of which may be lost.
pub(super) async fn get_report(
    target: &AdminTarget,
    path: &str,
    token: Option<&Secret>,
) -> Result<(StatusCode, Value), AdminCallError> {
    let request = Request::get(path);
    send(target, (request, Body::empty()), token, CHANGE_TIMEOUT).await
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
        .header(header::CONTENT_TYPE, "application/json");
    let body = Body::from(body.to_string());
    send(target, (request, body), token, CHANGE_TIMEOUT).await
}

/// Sends a request that scans a shard, and returns status and JSON of the response.
pub(super) async fn send_scan(
    target: &AdminTarget,
    method: Method,
    path: &str,
    token: Option<&Secret>,
) -> Result<(StatusCode, Value), AdminCallError> {
    let request = Request::builder().method(method).uri(path);
    send(target, (request, Body::empty()), token, SCAN_TIMEOUT).await
}

async fn send(
    target: &AdminTarget,
    (request, body): (request::Builder, Body),
    token: Option<&Secret>,
    within: Duration,
) -> Result<(StatusCode, Value), AdminCallError> {
    let request = request.body(body).map_err(ClientError::from)?;
    let response = admin::call(target, request, token, within).await?;
    let json = serde_json::from_slice(response.body());
    let json = json.map_err(|source| AdminCallError::NotJson {
        target: target.clone(),
        source,
    })?;
    Ok((response.status(), json))
}
