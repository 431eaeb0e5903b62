//! What operators do with nodes.

use axum::Json;
use axum::body::Bytes;
use axum::extract::rejection::{BytesRejection, PathRejection};
use axum::extract::{Path, State};
use axum::http::StatusCode;
use axum::response::{IntoResponse, Response};
use serde::{Deserialize, Serialize};
use serde_json::{Value, json};

use cloudkv_common::admin::refusal;

use super::routes::Node;
use crate::raft::NodeId;

/// What becomes of a node.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum NodeChange {
    /// Its shards move away, and then it is removed.
    Decommission,
    /// It takes shards again.
    Recommission,
    /// It is lost: others take its place, and it can't come back.
    Replace,
}

impl NodeChange {
    const ALL: [Self; 3] = [Self::Decommission, Self::Recommission, Self::Replace];

    /// Its name in paths and commands.
    pub fn name(self) -> &'static str {
        match self {
            Self::Decommission => "decommission",
            Self::Recommission => "recommission",
            Self::Replace => "replace",
        }
    }
}

/// A node, as an operator may name it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct NamedNode {
    /// Its number.
    pub node: NodeId,
    /// What people call it.
    pub name: String,
}

/// What comes of taking a node out of its region, or how far that is.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Departure {
    /// Its number.
    pub node: NodeId,
    /// What people call it.
    pub name: String,
    /// Its region.
    pub region: String,
    /// `active`, `leaving` or `removed`.
    pub state: String,
    /// What the region survives with it; empty if it can't be decommissioned, or was removed.
    pub survives_now: String,
    /// What the region survives without it; empty as above.
    pub survives_without: String,
    /// Voters of the metadata with it.
    pub metadata_voters_now: usize,
    /// Voters of the metadata without it.
    pub metadata_voters_without: usize,
    /// Whether less is survived without it.
    pub worse: bool,
    /// Why it can't be decommissioned now.
    pub obstacle: Option<String>,
    /// The groups that it is still needed for.
    pub groups: Vec<String>,
}

/// Why nothing becomes of it.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum NodeError {
    /// No such node.
    #[error("node {0} is unknown: `cloudkv-node admin status` lists those that are known")]
    Unknown(String),
    /// Several nodes have the name.
    #[error("{name} may be any of these: {}; name one by its rpc address or its number", nodes.join(", "))]
    Ambiguous {
        /// What was asked for.
        name: String,
        /// The nodes, with addresses and numbers.
        nodes: Vec<String>,
    },
    /// It isn't lost.
    #[error(
        "node {0} lives, and only one that is lost can be replaced: use decommission, or stop it"
    )]
    Lives(String),
    /// The region would survive less, and that wasn't confirmed.
    #[error(
        "without node {name}, region {region} survives {without}; with it: {now}. If that is \
         meant, confirm it (--yes); else let another node join first"
    )]
    Unconfirmed {
        /// The node.
        name: String,
        /// Its region.
        region: String,
        /// What that survives with it.
        now: String,
        /// What that survives without it.
        without: String,
    },
    /// It can't be done as things are.
    #[error("{0}")]
    Refused(String),
    /// It can't be said now.
    #[error("{0}")]
    Unavailable(String),
}

impl IntoResponse for NodeError {
    fn into_response(self) -> Response {
        let (status, code) = match self {
            Self::Unknown(_) => (StatusCode::NOT_FOUND, "no_such_node"),
            Self::Ambiguous { .. } => (StatusCode::CONFLICT, "ambiguous_node"),
            Self::Unconfirmed { .. } => (StatusCode::CONFLICT, "confirm_required"),
            Self::Lives(_) | Self::Refused(_) => (StatusCode::CONFLICT, "refused"),
            Self::Unavailable(_) => (StatusCode::SERVICE_UNAVAILABLE, "unavailable"),
        };
        refusal(status, code, &self.to_string())
    }
}

/// Body of `POST /nodes/{node}/{change}`; none is as good as an empty object.
#[derive(Default, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct ChangeBody {
    /// The region may survive less afterwards.
    #[serde(default)]
    pub confirm: bool,
}

/// `POST /nodes/{node}/{change}`
pub(super) async fn change(
    State(node): State<Node>,
    path: Result<Path<(String, String)>, PathRejection>,
    body: Result<Bytes, BytesRejection>,
) -> Result<Json<Value>, Response> {
    let (name, change) = named(path).ok_or_else(no_such_change)?;
    let body = body.map_err(IntoResponse::into_response)?;
    let body = read(&body).map_err(|error| wrong_body(&error))?;
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
pub(super) async fn departure(
    State(node): State<Node>,
    path: Result<Path<(String, String)>, PathRejection>,
) -> Result<Json<Departure>, Response> {
    let (name, change) = named(path).ok_or_else(no_such_change)?;
    if change != NodeChange::Decommission {
        return Err(no_such_change());
    }
    let told = node.operations.departure(name).await;
    told.map(Json).map_err(IntoResponse::into_response)
}

fn named(path: Result<Path<(String, String)>, PathRejection>) -> Option<(String, NodeChange)> {
    let Path((node, name)) = path.ok()?;
    let mut all = NodeChange::ALL.into_iter();
    let change = all.find(|change| change.name() == name)?;
    Some((node, change))
}

fn no_such_change() -> Response {
    let message = "expected /nodes/{node}/ and decommission, recommission or replace";
    refusal(StatusCode::NOT_FOUND, "no_such_route", message)
}

fn read(body: &Bytes) -> serde_json::Result<ChangeBody> {
    if body.is_empty() {
        return Ok(ChangeBody::default());
    }
    serde_json::from_slice(body)
}

fn wrong_body(error: &serde_json::Error) -> Response {
    let message = format!("the body must be a JSON object with confirm: {error}");
    refusal(StatusCode::BAD_REQUEST, "invalid_body", &message)
}
