//! What the operator's port answers.

use std::sync::Arc;

use axum::extract::{DefaultBodyLimit, State};
use axum::http::{StatusCode, header};
use axum::response::{IntoResponse, Response};
use axum::routing::{get, patch, post, put};
use axum::{Json, Router, middleware};
use serde_json::{Map, Value, json};

use super::guard::{self, Guard};
use super::nodes;
use super::operations::{self, Operations};
use crate::config::Secret;
use crate::telemetry::metrics::Exposition;

/// What the operator's port needs to know of the node.
pub trait AdminState: Send + Sync + 'static {
    /// The parts that must be ready before the node is, each with whether it is. Must not block.
    fn ready(&self) -> Vec<(String, bool)>;
    /// All metrics as [`Exposition`] text. May block for a short while.
    fn metrics(&self) -> String;
    /// The node's state for people and tools. May block for a short while.
    fn status(&self) -> Value;
}

/// The longest body of a change, in bytes.
const BODY_LIMIT: usize = 16 << 10;

/// The node as the operator's port sees it.
#[derive(Clone)]
pub struct Node {
    /// What it tells.
    pub state: Arc<dyn AdminState>,
    /// What it does.
    pub operations: Arc<dyn Operations>,
}

/// The routes. Health and readiness are free of the token: those who ask for them, such as
/// container runtimes, often can't send one, and they tell nothing that needs it.
pub(super) fn router(node: Node, token: Option<&Secret>) -> Router {
    let guarded = Router::new()
        .route("/metrics", get(metrics))
        .route("/status", get(status))
        .route("/plans", get(operations::list_plans))
        .route("/plans/{plan}", patch(operations::set_plan_limits))
        .route("/buckets/{bucket}/plan", put(operations::set_bucket_plan))
        .route("/nodes/{node}/{change}", post(nodes::change))
        .layer(DefaultBodyLimit::max(BODY_LIMIT))
        .route_layer(middleware::from_fn_with_state(
            Guard::new(token),
            guard::check,
        ));
    Router::new()
        .route("/healthz", get(healthz))
        .route("/readyz", get(readyz))
        .merge(guarded)
        .method_not_allowed_fallback(method_not_allowed)
        .fallback(no_such_route)
        .with_state(node)
}

/// An error as JSON, in the form that the public API has, too.
pub(super) fn refusal(status: StatusCode, error: &str, message: &str) -> Response {
    (status, Json(json!({ "error": error, "message": message }))).into_response()
}

async fn healthz() -> Json<Value> {
    Json(json!({ "status": "ok" }))
}

async fn readyz(State(node): State<Node>) -> Response {
    let parts = node.state.ready();
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

async fn metrics(State(node): State<Node>) -> Response {
    match tokio::task::spawn_blocking(move || node.state.metrics()).await {
        Ok(text) => ([(header::CONTENT_TYPE, Exposition::CONTENT_TYPE)], text).into_response(),
        Err(error) => internal(&error),
    }
}

async fn status(State(node): State<Node>) -> Response {
    match tokio::task::spawn_blocking(move || node.state.status()).await {
        Ok(status) => Json(status).into_response(),
        Err(error) => internal(&error),
    }
}

fn internal(error: &tokio::task::JoinError) -> Response {
    tracing::error!(%error, "answer operator");
    refusal(
        StatusCode::INTERNAL_SERVER_ERROR,
        "internal",
        "the node's log says why",
    )
}

async fn no_such_route() -> Response {
    refusal(
        StatusCode::NOT_FOUND,
        "no_such_route",
        "this port has /healthz, /readyz, /metrics, /status, /plans, /plans/{plan}, \
         /buckets/{bucket}/plan and /nodes/{node}/{change}",
    )
}

async fn method_not_allowed() -> Response {
    refusal(
        StatusCode::METHOD_NOT_ALLOWED,
        "method_not_allowed",
        "the header allow names the methods of this route",
    )
}
