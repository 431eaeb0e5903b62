//! Routes that change nodes.

use axum::Json;
use axum::body::Bytes;
use axum::extract::rejection::{BytesRejection, PathRejection};
use axum::extract::{Path, State};
use axum::http::StatusCode;
use axum::response::{IntoResponse, Response};
use cloudkv_common::admin::error_response;
use serde_json::{Value, json};

use super::context::AdminContext;
use super::node_change::{ChangeBody, DecommissionReport, NamedNode, NodeChange};

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
    let NamedNode {
        node,
        name,
        is_changed,
        successor,
    } = changed;
    let change = change.name();
    if is_changed {
        let number = u64::from(node);
        tracing::info!(node = number, name, change, "operator changed a node");
    }
    Ok(Json(json!({
        "node": node,
        "name": name,
        "change": change,
        "changed": is_changed,
        "successor": successor,
    })))
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
