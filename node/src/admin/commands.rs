//! The operator's commands: `cloudkv-node admin status`, `cloudkv-node admin health`.

use hyper::StatusCode;
use serde_json::Value;

use super::client::{CallError, get};
use super::render::render;
use crate::config::{Action, OperatorCall};

/// Carries out a command and returns what to print. An error means exit code 1.
pub async fn execute(call: &OperatorCall) -> Result<String, CallError> {
    match call.action {
        Action::Status { json } => status(call, json).await,
        Action::Health { ready: false } => ask(call, "/healthz").await.map(|_| "ok\n".to_owned()),
        Action::Health { ready: true } => ready(call).await,
    }
}

async fn status(call: &OperatorCall, json: bool) -> Result<String, CallError> {
    let status = ask(call, "/status").await?;
    Ok(if json {
        format!("{status:#}\n")
    } else {
        render(&status)
    })
}

async fn ready(call: &OperatorCall) -> Result<String, CallError> {
    let (status, body) = get(&call.target, "/readyz", None).await?;
    if status == StatusCode::OK {
        return Ok("ready\n".to_owned());
    }
    let names = body["waiting_for"]
        .as_array()
        .into_iter()
        .flatten()
        .filter_map(Value::as_str);
    let waiting_for = names.collect::<Vec<_>>().join(", ");
    Err(CallError::NotReady {
        target: call.target.clone(),
        waiting_for,
    })
}

/// The JSON of a good answer.
async fn ask(call: &OperatorCall, path: &str) -> Result<Value, CallError> {
    let (status, body) = get(&call.target, path, call.token.as_ref()).await?;
    if status.is_success() {
        return Ok(body);
    }
    let message = body["message"].as_str().unwrap_or("no message").to_owned();
    Err(CallError::Refused {
        target: call.target.clone(),
        status,
        message,
    })
}
