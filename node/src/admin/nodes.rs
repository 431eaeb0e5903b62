//! What operators do with nodes.

use axum::Json;
use axum::extract::rejection::PathRejection;
use axum::extract::{Path, State};
use axum::http::StatusCode;
use axum::response::{IntoResponse, Response};
use serde_json::{Value, json};

use cloudkv_common::admin::refusal;

use super::routes::Node;
use crate::raft::NodeId;

/// What becomes of a node.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum NodeChange {
    /// Its shards move away, and then it may be stopped for good.
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

/// Why nothing becomes of it.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum NodeError {
    /// No such node.
    #[error("node {0} is unknown: `cloudkv-node admin status` lists those that are known")]
    Unknown(NodeId),
    /// It isn't lost.
    #[error(
        "node {0} lives, and only one that is lost can be replaced: use decommission, or stop it"
    )]
    Lives(NodeId),
    /// The metadata refuses it.
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
            Self::Lives(_) | Self::Refused(_) => (StatusCode::CONFLICT, "refused"),
            Self::Unavailable(_) => (StatusCode::SERVICE_UNAVAILABLE, "unavailable"),
        };
        refusal(status, code, &self.to_string())
    }
}

/// `POST /nodes/{node}/{change}`
pub(super) async fn change(
    State(node): State<Node>,
    path: Result<Path<(NodeId, String)>, PathRejection>,
) -> Result<Json<Value>, Response> {
    let bad = || {
        let message = "expected /nodes/{number}/ and decommission, recommission or replace";
        refusal(StatusCode::NOT_FOUND, "no_such_route", message)
    };
    let Ok(Path((id, name))) = path else {
        return Err(bad());
    };
    let change = NodeChange::ALL
        .into_iter()
        .find(|change| change.name() == name);
    let change = change.ok_or_else(bad)?;
    let changed = node.operations.change_node(id, change).await;
    changed.map_err(IntoResponse::into_response)?;
    tracing::info!(node = id, change = name, "operator changed a node");
    Ok(Json(json!({ "node": id, "change": name })))
}
