//! Routes that remove and compare regions.

use axum::Json;
use axum::extract::rejection::PathRejection;
use axum::extract::{Path, State};
use axum::http::StatusCode;
use axum::response::{IntoResponse, Response};
use cloudkv_common::admin::error_response;
use serde_json::{Value, json};

use super::context::AdminContext;
use super::counts::format_count;
use crate::geo::{ComparisonVerdict, RegionComparison, VerifyError};

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
        Err(VerifyError::NoLeader(region)) => {
            let reason = format!("no leader in region {region} is known to this node");
            Err(not_compared(shard, &region, &reason))
        }
        Err(VerifyError::NoAnswer { region, reason }) => {
            let reason = format!("the leader in region {region} gave no digests ({reason})");
            Err(not_compared(shard, &region, &reason))
        }
    }
}

/// Builds the response if a region gives no digests of a shard.
fn not_compared(shard: u16, region: &str, reason: &str) -> Response {
    let message = format!(
        "shard-{shard} can't be compared: {reason}; `cloudkv-node admin status` shows which nodes \
         of the region are unreachable, and what to do"
    );
    let body = json!({
        "error": "unavailable",
        "message": message,
        "shard": shard,
        "region": region,
        "reason": reason,
    });
    (StatusCode::SERVICE_UNAVAILABLE, Json(body)).into_response()
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
                json!(format!(
                    "{digest:016x} of {}",
                    format_count(*records, "record")
                )),
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
