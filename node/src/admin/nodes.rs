//! Routes that change nodes.

use axum::Json;
use axum::body::Bytes;
use axum::extract::rejection::{BytesRejection, PathRejection};
use axum::extract::{Path, State};
use axum::http::StatusCode;
use axum::response::{IntoResponse, Response};
use serde::{Deserialize, Serialize};
use serde_json::{Value, json};

use cloudkv_common::admin::error_response;

use super::routes::AdminContext;
use crate::raft::NodeId;

/// A change of a node's membership.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum NodeChange {
    /// Moves the node's shards away, and then removes it.
    Decommission,
    /// Lets the node take shards again.
    Recommission,
    /// Removes a lost node: others replace it, and it can't come back.
    Replace,
}

impl NodeChange {
    const ALL: [Self; 3] = [Self::Decommission, Self::Recommission, Self::Replace];

    /// Name in paths and commands.
    pub fn name(self) -> &'static str {
        match self {
            Self::Decommission => "decommission",
            Self::Recommission => "recommission",
            Self::Replace => "replace",
        }
    }
}

/// A node's number and name.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct NamedNode {
    /// Number of the node.
    pub node: NodeId,
    /// Display name.
    pub name: String,
}

/// Consequences of decommissioning a node, and its progress.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct DecommissionReport {
    /// Number of the node.
    pub node: NodeId,
    /// Display name.
    pub name: String,
    /// Name of the node's region.
    pub region: String,
    /// `active`, `decommissioning` or `removed`.
    pub state: String,
    /// Losses that the region survives with the node; empty if it can't be decommissioned, or was
    /// removed.
    pub survives_now: String,
    /// Losses that the region survives without the node; empty as above.
    pub survives_without: String,
    /// Number of the metadata's voters with the node.
    pub metadata_voters_now: usize,
    /// Number of the metadata's voters without the node.
    pub metadata_voters_without: usize,
    /// True if the region survives less without the node.
    pub worse: bool,
    /// Reason for which the node can't be decommissioned now.
    pub obstacle: Option<String>,
    /// Groups that still need the node.
    pub groups: Vec<String>,
}

/// Reason for which a node isn't changed.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum NodeError {
    /// No node has that number, name or address.
    #[error("node {0} is unknown: `cloudkv-node admin status` lists those that are known")]
    Unknown(String),
    /// Several nodes have the name.
    #[error(
        "{name} may be any of these: {}; name one by its rpc address or its number",
        nodes.join(", ")
    )]
    Ambiguous {
        /// The requested name.
        name: String,
        /// The matching nodes, with addresses and numbers.
        nodes: Vec<String>,
    },
    /// The node to be replaced isn't lost.
    #[error(
        "node {0} is alive, and only a lost node can be replaced: use decommission, or stop it"
    )]
    StillAlive(String),
    /// The region would survive less without the node, and that wasn't confirmed.
    #[error(
        "without node {name}, region {region} survives {without}; with it: {now}. If that is \
         intended, confirm it (--yes); else let another node join first"
    )]
    Unconfirmed {
        /// The node.
        name: String,
        /// The region of the node.
        region: String,
        /// Losses that the region survives with the node.
        now: String,
        /// Losses that the region survives without the node.
        without: String,
    },
    /// The change isn't possible in the current state.
    #[error("{0}")]
    Refused(String),
    /// The outcome can't be determined now.
    #[error("{0}")]
    Unavailable(String),
}

impl IntoResponse for NodeError {
    fn into_response(self) -> Response {
        let (status, code) = match self {
            Self::Unknown(_) => (StatusCode::NOT_FOUND, "no_such_node"),
            Self::Ambiguous { .. } => (StatusCode::CONFLICT, "ambiguous_node"),
            Self::Unconfirmed { .. } => (StatusCode::CONFLICT, "confirm_required"),
            Self::StillAlive(_) | Self::Refused(_) => (StatusCode::CONFLICT, "refused"),
            Self::Unavailable(_) => (StatusCode::SERVICE_UNAVAILABLE, "unavailable"),
        };
        error_response(status, code, &self.to_string())
    }
}

/// Body of `POST /nodes/{node}/{change}`; it may be left out.
#[derive(Default, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct ChangeBody {
    /// Allows that the region survives less afterwards.
    #[serde(default)]
    pub confirm: bool,
}

/// `POST /nodes/{node}/{change}`
pub(super) async fn change(
    State(node): State<AdminContext>,
    path: Result<Path<(String, String)>, PathRejection>,
    body: Result<Bytes, BytesRejection>,
) -> Result<Json<Value>, Response> {
    let (name, change) = parse_path(path).ok_or_else(no_such_change)?;
    let body = body.map_err(IntoResponse::into_response)?;
    let body = parse_body(&body).map_err(|error| invalid_body(&error))?;
    let changed = node
        .operations
        .change_node(name, change, body.confirm)
        .await;
    let changed = changed.map_err(IntoResponse::into_response)?;
    let NamedNode { node, name } = changed;
    tracing::info!(
        node,
        name,
        change = change.name(),
        "operator changed a node"
    );
    Ok(Json(
        json!({ "node": node, "name": name, "change": change.name() }),
    ))
}

/// `GET /nodes/{node}/decommission`
pub(super) async fn decommission_report(
    State(node): State<AdminContext>,
    path: Result<Path<(String, String)>, PathRejection>,
) -> Result<Json<DecommissionReport>, Response> {
    let (name, change) = parse_path(path).ok_or_else(no_such_change)?;
    if change != NodeChange::Decommission {
        return Err(no_such_change());
    }
    let report = node.operations.decommission_report(name).await;
    report.map(Json).map_err(IntoResponse::into_response)
}

fn parse_path(path: Result<Path<(String, String)>, PathRejection>) -> Option<(String, NodeChange)> {
    let Path((node, name)) = path.ok()?;
    let mut all = NodeChange::ALL.into_iter();
    let change = all.find(|change| change.name() == name)?;
    Some((node, change))
}

fn no_such_change() -> Response {
    let message = "expected /nodes/{node}/ and decommission, recommission or replace";
    error_response(StatusCode::NOT_FOUND, "no_such_route", message)
}

fn parse_body(body: &Bytes) -> serde_json::Result<ChangeBody> {
    if body.is_empty() {
        return Ok(ChangeBody::default());
    }
    serde_json::from_slice(body)
}

fn invalid_body(error: &serde_json::Error) -> Response {
    let message = format!("the body must be a JSON object with confirm: {error}");
    error_response(StatusCode::BAD_REQUEST, "invalid_body", &message)
}
