//! Routes of the admin port.

use axum::extract::{DefaultBodyLimit, State};
use axum::http::StatusCode;
use axum::response::{IntoResponse, Response};
use axum::routing::{delete, get, patch, post, put};
use axum::{Json, Router, middleware};
use cloudkv_common::admin::{
    self, AdminAuth, error_response, healthz, internal_error, method_not_allowed,
};

use super::context::AdminContext;
use super::{nodes, plans, regions};
use crate::config::Secret;

/// Maximum size of a change's body, in bytes.
const MAX_BODY_BYTES: usize = 16 << 10;

/// Builds the routes. Health and readiness need no token: their callers, such as container
/// runtimes, often can't send one, and they reveal nothing that needs protection.
pub fn router(node: AdminContext, token: Option<&Secret>) -> Router {
    let guarded = Router::new()
        .route("/metrics", get(metrics))
        .route("/status", get(status))
        .route("/plans", get(plans::list_plans))
        .route("/plans/{plan}", patch(plans::set_plan_limits))
        .route("/buckets/{bucket}/plan", put(plans::set_bucket_plan))
        .route(
            "/nodes/{node}/{change}",
            get(nodes::decommission_report).post(nodes::change),
        )
        .route("/regions/{region}", delete(regions::remove))
        .route("/shards/{shard}/verify", post(regions::verify))
        .layer(DefaultBodyLimit::max(MAX_BODY_BYTES))
        .route_layer(middleware::from_fn_with_state(
            AdminAuth::new(token),
            admin::authenticate,
        ));
    Router::new()
        .route("/healthz", get(healthz))
        .route("/readyz", get(readyz))
        .merge(guarded)
        .method_not_allowed_fallback(method_not_allowed)
        .fallback(no_such_route)
        .with_state(node)
}

async fn readyz(State(node): State<AdminContext>) -> Response {
    admin::readyz(&node.state.readiness())
}

async fn metrics(State(node): State<AdminContext>) -> Response {
    admin::metrics(move || node.state.metrics()).await
}

async fn status(State(node): State<AdminContext>) -> Response {
    match tokio::task::spawn_blocking(move || node.state.status()).await {
        Ok(status) => Json(status).into_response(),
        Err(error) => internal_error(&error),
    }
}

async fn no_such_route() -> Response {
    error_response(
        StatusCode::NOT_FOUND,
        "no_such_route",
        "this port has /healthz, /readyz, /metrics, /status, /plans, /plans/{plan}, \
         /buckets/{bucket}/plan, /nodes/{node}/{change}, /regions/{region} and \
         /shards/{shard}/verify",
    )
}
