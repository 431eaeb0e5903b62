//! Responses of the routes that all programs have, but for the readiness.

use std::future::{Ready, ready};

use axum::Json;
use axum::http::header;
use axum::response::{IntoResponse, Response};
use serde_json::{Value, json};

use super::errors::internal_error;
use crate::telemetry::metrics::Exposition;

/// Answers `/healthz`: the process is alive.
pub fn healthz() -> Ready<Json<Value>> {
    ready(Json(json!({ "status": "ok" })))
}

/// Answers `/metrics` with the text that `write` returns, which may block for a short time.
pub async fn metrics(write: impl FnOnce() -> String + Send + 'static) -> Response {
    match tokio::task::spawn_blocking(write).await {
        Ok(text) => ([(header::CONTENT_TYPE, Exposition::CONTENT_TYPE)], text).into_response(),
        Err(error) => internal_error(&error),
    }
}
