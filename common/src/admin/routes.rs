//! Routes that all programs have.

use std::sync::Arc;

use axum::extract::State;
use axum::http::header;
use axum::response::{IntoResponse, Response};
use axum::routing::get;
use axum::{Json, Router, middleware};
use serde_json::{Value, json};

use super::auth::{AdminAuth, authenticate};
use super::errors::{internal_error, method_not_allowed};
use super::program::Program;
use super::readiness::{Readiness, readiness_response};
use crate::config::Secret;
use crate::telemetry::metrics::Exposition;

/// State that the admin port needs of a program.
pub trait AdminState: Send + Sync + 'static {
    /// The program, which responses name.
    fn program(&self) -> Program;
    /// Response to `/healthz`: the process is alive. Must not block.
    fn health(&self) -> Value {
        json!({ "status": "ok" })
    }
    /// Readiness of the components that the program needs. Must not block.
    fn readiness(&self) -> Readiness;
    /// All metrics as Prometheus text. May block for a short while.
    fn metrics(&self) -> String;
    /// The program's status as JSON. May block for a short while.
    fn status(&self) -> Value;
}

/// Builds the routes of a program, with its own ones in `others`. Health and readiness need no
/// token: their callers, such as container runtimes, often can't send one, and they reveal nothing
/// that needs protection.
pub fn router(state: Arc<dyn AdminState>, token: Option<&Secret>, others: Router) -> Router {
    let guarded = Router::new()
        .route("/metrics", get(metrics))
        .route("/status", get(status))
        .with_state::<()>(state.clone())
        .merge(others)
        .route_layer(middleware::from_fn_with_state(
            AdminAuth::new(token),
            authenticate,
        ));
    Router::new()
        .route("/healthz", get(healthz))
        .route("/readyz", get(readyz))
        .with_state::<()>(state)
        .merge(guarded)
        .method_not_allowed_fallback(method_not_allowed)
}

async fn healthz(State(program): State<Arc<dyn AdminState>>) -> Json<Value> {
    Json(program.program().add_to(program.health()))
}

async fn readyz(State(program): State<Arc<dyn AdminState>>) -> Response {
    readiness_response(program.program(), &program.readiness())
}

async fn metrics(State(program): State<Arc<dyn AdminState>>) -> Response {
    match tokio::task::spawn_blocking(move || program.metrics()).await {
        Ok(text) => ([(header::CONTENT_TYPE, Exposition::CONTENT_TYPE)], text).into_response(),
        Err(error) => internal_error(&error),
    }
}

async fn status(State(program): State<Arc<dyn AdminState>>) -> Response {
    let name = program.program();
    match tokio::task::spawn_blocking(move || program.status()).await {
        Ok(status) => Json(name.add_to(status)).into_response(),
        Err(error) => internal_error(&error),
    }
}
