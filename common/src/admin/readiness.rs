//! Readiness of a program, and the response that tells it.

use axum::Json;
use axum::http::StatusCode;
use axum::response::{IntoResponse, Response};
use serde_json::{Map, Value, json};

use super::program::Program;

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

/// Builds the response to `/readyz`: whether all components are ready, which aren't, and why.
pub(super) fn readiness_response(program: Program, readiness: &Readiness) -> Response {
    let code = if readiness.is_ready() {
        StatusCode::OK
    } else {
        StatusCode::SERVICE_UNAVAILABLE
    };
    let body = program.add_to(readiness_body(readiness));
    (code, Json(body)).into_response()
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
