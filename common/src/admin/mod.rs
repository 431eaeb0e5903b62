//! The operator's port: serving it, letting operators in, and the answers that all programs give.
//!
//! It is apart from the public port, so that health checks, metrics and operations can be kept off
//! the network that users are on, and go on when the public port is full.

mod guard;
mod server;

pub use guard::{Guard, check};
pub use server::serve;

use std::future::{Ready, ready};

use axum::Json;
use axum::http::{StatusCode, header};
use axum::response::{IntoResponse, Response};
use serde_json::{Map, Value, json};

use crate::telemetry::metrics::Exposition;

/// An error as JSON, in the form that the public API has, too.
pub fn refusal(status: StatusCode, error: &str, message: &str) -> Response {
    (status, Json(json!({ "error": error, "message": message }))).into_response()
}

/// `/healthz`: the process answers.
pub fn healthz() -> Ready<Json<Value>> {
    ready(Json(json!({ "status": "ok" })))
}

/// `/readyz`: whether all parts are ready, and which aren't.
pub fn readyz(parts: &[(String, bool)]) -> Response {
    let waiting_for: Vec<&String> = parts
        .iter()
        .filter(|(_, ready)| !ready)
        .map(|(name, _)| name)
        .collect();
    let ready = waiting_for.is_empty();
    let code = if ready {
        StatusCode::OK
    } else {
        StatusCode::SERVICE_UNAVAILABLE
    };
    let components: Map<String, Value> = parts
        .iter()
        .map(|(name, ready)| (name.clone(), Value::Bool(*ready)))
        .collect();
    let body = json!({ "ready": ready, "waiting_for": waiting_for, "components": components });
    (code, Json(body)).into_response()
}

/// `/metrics`: what `write` says, which may block for a short while.
pub async fn metrics(write: impl FnOnce() -> String + Send + 'static) -> Response {
    match tokio::task::spawn_blocking(write).await {
        Ok(text) => ([(header::CONTENT_TYPE, Exposition::CONTENT_TYPE)], text).into_response(),
        Err(error) => internal(&error),
    }
}

/// An answer could not be made.
pub fn internal(error: &tokio::task::JoinError) -> Response {
    tracing::error!(%error, "answer operator");
    refusal(
        StatusCode::INTERNAL_SERVER_ERROR,
        "internal",
        "the log says why",
    )
}

/// A method that a route doesn't have.
pub fn method_not_allowed() -> Ready<Response> {
    ready(refusal(
        StatusCode::METHOD_NOT_ALLOWED,
        "method_not_allowed",
        "the header allow names the methods of this route",
    ))
}
