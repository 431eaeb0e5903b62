//! Admin port: its server, its authentication, and the routes that all programs have.
//!
//! It is separate from the public port, so that health checks, metrics and operations can be kept
//! off the users' network, and keep working when the public port is full.

mod auth;
mod server;

pub use auth::{AdminAuth, authenticate};
pub use server::serve;

use std::future::{Ready, ready};

use axum::Json;
use axum::http::{StatusCode, header};
use axum::response::{IntoResponse, Response};
use serde_json::{Map, Value, json};

use crate::telemetry::metrics::Exposition;

/// Builds an error as JSON, in the same form as the public API.
pub fn error_response(status: StatusCode, error: &str, message: &str) -> Response {
    (status, Json(json!({ "error": error, "message": message }))).into_response()
}

/// Answers `/healthz`: the process is alive.
pub fn healthz() -> Ready<Json<Value>> {
    ready(Json(json!({ "status": "ok" })))
}

/// Component of a program that must be ready before the program is.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Component {
    /// Name of the component.
    pub name: String,
    /// Reason why it isn't ready; `None`: it is.
    pub waiting_for: Option<String>,
}

impl Component {
    /// Creates a component that is ready, or waits for something.
    pub fn new(name: impl Into<String>, waiting_for: Option<String>) -> Self {
        let name = name.into();
        Self { name, waiting_for }
    }

    /// Returns whether it is ready.
    pub fn is_ready(&self) -> bool {
        self.waiting_for.is_none()
    }
}

/// Readiness of a program.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Readiness {
    /// Components that must be ready.
    pub components: Vec<Component>,
    /// Further information by name, which doesn't affect the readiness.
    pub notes: Vec<(&'static str, String)>,
}

impl Readiness {
    /// Returns whether all components are ready.
    pub fn is_ready(&self) -> bool {
        self.components.iter().all(Component::is_ready)
    }
}

/// Answers `/readyz`: whether all components are ready, which aren't, and why.
pub fn readyz(readiness: &Readiness) -> Response {
    let code = if readiness.is_ready() {
        StatusCode::OK
    } else {
        StatusCode::SERVICE_UNAVAILABLE
    };
    (code, Json(readiness_body(readiness))).into_response()
}

fn readiness_body(readiness: &Readiness) -> Value {
    let (mut waiting_for, mut components, mut reasons) = (Vec::new(), Map::new(), Map::new());
    for Component {
        name,
        waiting_for: missing,
    } in &readiness.components
    {
        components.insert(name.clone(), Value::Bool(missing.is_none()));
        if let Some(reason) = missing {
            waiting_for.push(name);
            reasons.insert(name.clone(), Value::String(reason.clone()));
        }
    }
    let mut body = json!({
        "ready": readiness.is_ready(),
        "waiting_for": waiting_for,
        "reasons": reasons,
        "components": components,
    });
    for (name, note) in &readiness.notes {
        body[*name] = Value::String(note.clone());
    }
    body
}

/// Answers `/metrics` with the text that `write` returns, which may block for a short time.
pub async fn metrics(write: impl FnOnce() -> String + Send + 'static) -> Response {
    match tokio::task::spawn_blocking(write).await {
        Ok(text) => ([(header::CONTENT_TYPE, Exposition::CONTENT_TYPE)], text).into_response(),
        Err(error) => internal_error(&error),
    }
}

/// Builds the response when a task for it has failed, and logs the error.
pub fn internal_error(error: &tokio::task::JoinError) -> Response {
    tracing::error!(%error, "admin request failed");
    error_response(
        StatusCode::INTERNAL_SERVER_ERROR,
        "internal",
        "the log says why",
    )
}

/// Builds the response to a method that a route doesn't have.
pub fn method_not_allowed() -> Ready<Response> {
    ready(error_response(
        StatusCode::METHOD_NOT_ALLOWED,
        "method_not_allowed",
        "the header allow names the methods of this route",
    ))
}
