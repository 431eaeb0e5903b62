//! The admin port of a starting node, and the switch to the routes of a started one.
//!
//! A start may take long, for example until another node admits this one, or until the log is read.
//! Probes must see that the process is alive, and operators what it waits for.

use std::sync::Arc;

use axum::extract::{Request, State};
use axum::http::StatusCode;
use axum::response::Response;
use axum::{Router, middleware};
use cloudkv_common::admin::{
    self, AdminAuth, AdminState, Component, Program, Readiness, error_response,
};
use cloudkv_common::telemetry::metrics::{Exposition, write_process};
use parking_lot::Mutex;
use serde_json::{Value, json};
use tower::ServiceExt;

use crate::config::Secret;

/// The step that a starting node waits for. Cheap to clone.
#[derive(Clone, Default)]
pub struct StartProgress(Arc<Mutex<String>>);

impl StartProgress {
    /// Sets the step that the node waits for from now on.
    pub fn set_waiting_for(&self, what: impl Into<String>) {
        *self.0.lock() = what.into();
    }

    fn waiting_for(&self) -> String {
        self.0.lock().clone()
    }
}

/// State of a starting node for the admin port.
#[derive(Clone)]
pub struct StartingNode {
    /// The step that the node waits for.
    pub progress: StartProgress,
    /// The configured region.
    pub region: String,
    /// The data directory.
    pub data_dir: String,
}

impl StartingNode {
    /// Describes why the node isn't ready.
    fn unready_reason(&self) -> String {
        match self.progress.waiting_for().as_str() {
            "" => "the node is starting".to_owned(),
            what => format!("the node is starting, and waits for {what}"),
        }
    }
}

impl AdminState for StartingNode {
    fn program(&self) -> Program {
        Program::Node
    }

    fn health(&self) -> Value {
        json!({ "status": "starting", "waiting_for": self.progress.waiting_for() })
    }

    fn readiness(&self) -> Readiness {
        Readiness {
            components: vec![Component::new("start", Some(self.unready_reason()))],
            ..Readiness::default()
        }
    }

    fn metrics(&self) -> String {
        let mut text = Exposition::new();
        let help = "1 if this node can answer for all shards of its region.";
        text.gauge("cloudkv_ready", help, &[], 0.0);
        write_process(&mut text);
        text.finish()
    }

    fn status(&self) -> Value {
        json!({
            "version": env!("CARGO_PKG_VERSION"),
            "region": self.region,
            "data_dir": self.data_dir,
            "ready": false,
            "starting": self.progress.waiting_for(),
        })
    }
}

/// Routes of the admin port, which are replaced when the node has started.
#[derive(Clone)]
pub struct AdminRouter(Arc<Mutex<Router>>);

impl AdminRouter {
    /// Creates the routes of a starting node.
    pub fn new(starting: StartingNode, token: Option<&Secret>) -> Self {
        Self(Arc::new(Mutex::new(router(starting, token))))
    }

    /// Replaces the routes.
    pub fn replace(&self, router: Router) {
        *self.0.lock() = router;
    }

    /// Router that dispatches to the current routes.
    pub fn router(&self) -> Router {
        Router::new().fallback(dispatch).with_state(self.clone())
    }
}

async fn dispatch(State(front): State<AdminRouter>, request: Request) -> Response {
    let router = front.0.lock().clone();
    let Ok(response) = router.oneshot(request).await;
    response
}

fn router(starting: StartingNode, token: Option<&Secret>) -> Router {
    let everything_else = Router::new()
        .fallback(starting_response)
        .layer(middleware::from_fn_with_state(
            AdminAuth::new(token),
            admin::authenticate,
        ))
        .with_state::<()>(starting.clone());
    admin::router(Arc::new(starting), token, Router::new()).merge(everything_else)
}

async fn starting_response(State(starting): State<StartingNode>) -> Response {
    let reason = starting.unready_reason();
    let message =
        format!("{reason}: this works once it has started, and /status says for what it waits");
    error_response(StatusCode::SERVICE_UNAVAILABLE, "starting", &message)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn readiness_says_in_words_that_the_node_starts_and_for_what_it_waits() {
        let starting = StartingNode {
            progress: StartProgress::default(),
            region: "local".to_owned(),
            data_dir: "data".to_owned(),
        };
        let reason = || starting.readiness().components[0].waiting_for.clone();
        assert_eq!(reason().as_deref(), Some("the node is starting"));
        starting
            .progress
            .set_waiting_for("its Raft groups to start");
        assert_eq!(
            reason().as_deref(),
            Some("the node is starting, and waits for its Raft groups to start")
        );
    }
}
