//! Routes that remove and compare regions.

use axum::Json;
use axum::extract::rejection::PathRejection;
use axum::extract::{Path, State};
use axum::http::StatusCode;
use axum::response::{IntoResponse, Response};
use serde_json::{Value, json};

use cloudkv_common::admin::error_response;

use super::routes::AdminContext;
use crate::geo::{ComparisonVerdict, RegionComparison, VerifyError};
use crate::raft::NodeId;

/// Reason for which a region isn't removed.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum RegionError {
    /// No region has that name.
    #[error(
        "no region has the name {0:?}: it was removed already, or never existed; `cloudkv-node \
         admin status` lists the known ones"
    )]
    Unknown(String),
    /// A node of the region isn't lost.
    #[error(
        "node {node} of region {region} is alive, and only a region without reachable nodes can be \
         removed: stop its nodes for good. Writes that it hasn't sent by then are lost: see \
         `behind` in the status of its nodes first"
    )]
    StillAlive {
        /// The region.
        region: String,
        /// Number of the node.
        node: NodeId,
    },
    /// Some nodes run a version that is too old.
    #[error(
        "nodes {0:?} are of a version that can't remove regions: upgrade them, and `admin replace` \
         those that are lost"
    )]
    OldNodes(Vec<NodeId>),
    /// The metadata refused the removal.
    #[error("{0}")]
    Refused(String),
    /// The outcome can't be determined now.
    #[error("{0}")]
    Unavailable(String),
}

impl IntoResponse for RegionError {
    fn into_response(self) -> Response {
        let (status, code) = match self {
            Self::Unknown(_) => (StatusCode::NOT_FOUND, "no_such_region"),
            Self::StillAlive { .. } | Self::OldNodes(_) | Self::Refused(_) => {
                (StatusCode::CONFLICT, "refused")
            }
            Self::Unavailable(_) => (StatusCode::SERVICE_UNAVAILABLE, "unavailable"),
        };
        error_response(status, code, &self.to_string())
    }
}

/// `DELETE /regions/{region}`
pub(super) async fn remove(
    State(node): State<AdminContext>,
    path: Result<Path<String>, PathRejection>,
) -> Result<Json<Value>, Response> {
    let name = path.map(|Path(name)| name).unwrap_or_default();
    let removed = node.operations.remove_region(name.clone()).await;
    removed.map_err(IntoResponse::into_response)?;
    tracing::info!(region = name, "operator started the removal of a region");
    Ok(Json(json!({ "region": name, "leaving": true })))
}

/// `POST /shards/{shard}/verify`
pub(super) async fn verify(
    State(node): State<AdminContext>,
    path: Result<Path<u16>, PathRejection>,
) -> Result<Json<Value>, Response> {
    let shard = path.map(|Path(shard)| shard);
    let shard = shard.map_err(|_| unknown_shard(&VerifyError::UnknownShard))?;
    match node.operations.verify(shard).await {
        Ok(comparison) => Ok(Json(comparison_json(&comparison))),
        Err(error @ VerifyError::UnknownShard) => Err(unknown_shard(&error)),
        Err(error @ (VerifyError::NoLeader(_) | VerifyError::NoAnswer { .. })) => {
            Err(error_response(
                StatusCode::SERVICE_UNAVAILABLE,
                "unavailable",
                &error.to_string(),
            ))
        }
    }
}

fn unknown_shard(error: &VerifyError) -> Response {
    error_response(StatusCode::NOT_FOUND, "no_such_shard", &error.to_string())
}

fn comparison_json(comparison: &RegionComparison) -> Value {
    let verdict = match comparison.verdict {
        ComparisonVerdict::Equal => "equal",
        ComparisonVerdict::Different => "different",
        ComparisonVerdict::Undecided => "undecided",
    };
    let sums = |sums: &[(u64, u64)]| {
        let regions = comparison.regions.iter().zip(sums);
        let entry = |(name, (digest, records)): (&String, &(u64, u64))| {
            (
                name.clone(),
                json!(format!("{digest:016x} of {records} records")),
            )
        };
        regions
            .map(entry)
            .collect::<serde_json::Map<String, Value>>()
    };
    let differences: Vec<Value> = comparison
        .differences
        .iter()
        .map(|difference| {
            let mut fields = sums(&difference.sums);
            fields.insert("range".to_owned(), json!(difference.range));
            Value::Object(fields)
        })
        .collect();
    json!({
        "shard": comparison.shard,
        "regions": comparison.regions,
        "records": comparison.records,
        "ranges": comparison.ranges,
        "verdict": verdict,
        "differences": differences,
    })
}
