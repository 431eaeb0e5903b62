//! Error responses of the admin port.

use std::future::{Ready, ready};

use axum::Json;
use axum::http::StatusCode;
use axum::response::{IntoResponse, Response};
use serde_json::json;

/// Builds an error as JSON, in the same form as the public API.
pub fn error_response(status: StatusCode, error: &str, message: &str) -> Response {
    (status, Json(json!({ "error": error, "message": message }))).into_response()
}

/// Builds the response when a task for it has failed, and logs the error.
pub(super) fn internal_error(error: &tokio::task::JoinError) -> Response {
    tracing::error!(%error, "admin request failed");
    error_response(
        StatusCode::INTERNAL_SERVER_ERROR,
        "internal",
        "the log says why",
    )
}

/// Builds the response to a method that a route doesn't have.
pub(super) fn method_not_allowed() -> Ready<Response> {
    ready(error_response(
        StatusCode::METHOD_NOT_ALLOWED,
        "method_not_allowed",
        "the header allow names the methods of this route",
    ))
}
