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

/// A part of a program that must be ready before the program is.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Part {
    /// Its name.
    pub name: String,
    /// Why it isn't ready; `None`: it is.
    pub missing: Option<String>,
}

impl Part {
    /// A part that is ready, or waits for something.
    pub fn new(name: impl Into<String>, missing: Option<String>) -> Self {
        let name = name.into();
        Self { name, missing }
    }

    /// Whether it is ready.
    pub fn is_ready(&self) -> bool {
        self.missing.is_none()
    }
}

/// What a program says of its readiness.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Readiness {
    /// Its parts.
    pub parts: Vec<Part>,
    /// What else is worth knowing, by name: it doesn't keep the program from being ready.
    pub remarks: Vec<(&'static str, String)>,
}

impl Readiness {
    /// Whether all parts are ready.
    pub fn is_ready(&self) -> bool {
        self.parts.iter().all(Part::is_ready)
    }
}

/// `/readyz`: whether all parts are ready, which aren't, and why.
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
    for Part { name, missing } in &readiness.parts {
        components.insert(name.clone(), Value::Bool(missing.is_none()));
        if let Some(why) = missing {
            waiting_for.push(name);
            reasons.insert(name.clone(), Value::String(why.clone()));
        }
    }
    let mut body = json!({
        "ready": readiness.is_ready(),
        "waiting_for": waiting_for,
        "reasons": reasons,
        "components": components,
    });
    for (name, remark) in &readiness.remarks {
        body[*name] = Value::String(remark.clone());
    }
    body
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
