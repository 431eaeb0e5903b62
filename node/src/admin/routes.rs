//! Routes of the admin port.

use axum::Router;
use axum::extract::DefaultBodyLimit;
use axum::http::StatusCode;
use axum::response::Response;
use axum::routing::{delete, get, patch, post, put};
use cloudkv_common::admin::{self, error_response};

use super::context::AdminContext;
use super::{backups, nodes, plans, recovery, regions};
use crate::config::Secret;

/// Maximum size of a change's body, in bytes.
const MAX_BODY_BYTES: usize = 16 << 10;

/// Builds the routes.
pub fn router(node: AdminContext, token: Option<&Secret>) -> Router {
    let state = node.state.clone();
    let operations = Router::new()
        .route("/plans", get(plans::list_plans))
        .route("/plans/{plan}", patch(plans::set_plan_limits))
        .route("/buckets/{bucket}/plan", put(plans::set_bucket_plan))
        .route(
            "/nodes/{node}/{change}",
            get(nodes::decommission_report).post(nodes::change),
        )
        .route("/regions/{region}", delete(regions::remove))
        .route("/shards/{shard}/verify", post(regions::verify))
        .route("/backups", post(backups::make))
        .route(
            "/recovery/{scope}",
            get(recovery::report).post(recovery::confirm),
        )
        .layer(DefaultBodyLimit::max(MAX_BODY_BYTES))
        .with_state(node);
    admin::router(state, token, operations).fallback(no_such_route)
}

async fn no_such_route() -> Response {
    error_response(
        StatusCode::NOT_FOUND,
        "no_such_route",
        "this port has /healthz, /readyz, /metrics, /status, /plans, /plans/{plan}, \
         /buckets/{bucket}/plan, /nodes/{node}/{change}, /regions/{region}, \
         /shards/{shard}/verify, /backups and /recovery/{scope}",
    )
}
