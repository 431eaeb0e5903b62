//! Routes that report on a recovery by force, and confirm it.

use axum::Json;
use axum::body::Bytes;
use axum::extract::rejection::{BytesRejection, PathRejection};
use axum::extract::{Path, State};
use axum::http::StatusCode;
use axum::response::{IntoResponse, Response};
use cloudkv_common::admin::error_response;
use serde::{Deserialize, Serialize};

use super::context::AdminContext;
use super::recovery_report::{RecoveryReport, RecoveryScope};

/// Body of `POST /recovery/{scope}`.
#[derive(Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct ConfirmationBody {
    /// The confirmation of the report, word by word.
    pub confirm: String,
}

/// `GET /recovery/{scope}`
pub(super) async fn report(
    State(node): State<AdminContext>,
    path: Result<Path<String>, PathRejection>,
) -> Result<Json<RecoveryReport>, Response> {
    let scope = parse_scope(path).ok_or_else(no_such_scope)?;
    Ok(Json(node.operations.recovery_report(scope).await))
}

/// `POST /recovery/{scope}`: the node stops after the response, and its next start carries the
/// recovery out.
pub(super) async fn confirm(
    State(node): State<AdminContext>,
    path: Result<Path<String>, PathRejection>,
    body: Result<Bytes, BytesRejection>,
) -> Result<(StatusCode, Json<RecoveryReport>), Response> {
    let scope = parse_scope(path).ok_or_else(no_such_scope)?;
    let body = body.map_err(IntoResponse::into_response)?;
    let body: ConfirmationBody =
        serde_json::from_slice(&body).map_err(|error| invalid_body(&error))?;
    let confirmed = node.operations.recover(scope, body.confirm).await;
    let report = confirmed.map_err(IntoResponse::into_response)?;
    let confirmation = report.confirmation.as_str();
    tracing::warn!(confirmation, "operator confirmed a recovery by force");
    Ok((StatusCode::ACCEPTED, Json(report)))
}

fn parse_scope(path: Result<Path<String>, PathRejection>) -> Option<RecoveryScope> {
    let Path(name) = path.ok()?;
    let mut all = RecoveryScope::ALL.into_iter();
    all.find(|scope| scope.name() == name)
}

fn no_such_scope() -> Response {
    let message = "expected /recovery/metadata or /recovery/shards";
    error_response(StatusCode::NOT_FOUND, "no_such_route", message)
}

fn invalid_body(error: &serde_json::Error) -> Response {
    let message = format!("the body must be a JSON object with confirm: {error}");
    error_response(StatusCode::BAD_REQUEST, "invalid_body", &message)
}
