//! Requests of the commands to the admin port: any status but success is an error.

use std::time::{Duration, Instant};

use hyper::{Method, StatusCode};
use serde_json::Value;

use super::client::{self, AdminCallError, get};
use crate::config::AdminCall;

/// Time for a node that has just started to answer with its status.
const START_TIMEOUT: Duration = Duration::from_secs(30);
/// Interval between retries of a starting node.
const RETRY_INTERVAL: Duration = Duration::from_millis(200);

/// Sends a GET request, and returns the JSON of a successful response.
pub(super) async fn fetch(call: &AdminCall, path: &str) -> Result<Value, AdminCallError> {
    success_body(call, get(&call.target, path, call.token.as_ref()).await?)
}

/// Gets the status of a node that has started. Returns an error before that, since the node has no
/// status yet.
pub(super) async fn fetch_status(call: &AdminCall) -> Result<Value, AdminCallError> {
    let status = fetch(call, "/status").await?;
    match status["starting"].as_str() {
        None => Ok(status),
        Some(waiting_for) => Err(AdminCallError::Refused {
            target: call.target.clone(),
            status: StatusCode::SERVICE_UNAVAILABLE,
            message: format!("the node is starting, and waits for {waiting_for}"),
        }),
    }
}

/// Gets the status, and retries for a while if the node has none yet.
pub(super) async fn fetch_status_with_retries(call: &AdminCall) -> Result<Value, AdminCallError> {
    let deadline = Instant::now() + START_TIMEOUT;
    loop {
        match fetch_status(call).await {
            Err(AdminCallError::Refused { status, .. })
                if status == StatusCode::SERVICE_UNAVAILABLE && Instant::now() < deadline =>
            {
                tokio::time::sleep(RETRY_INTERVAL).await;
            }
            outcome => return outcome,
        }
    }
}

/// Sends a change, and returns the JSON of a successful response.
pub(super) async fn submit_change(
    call: &AdminCall,
    method: Method,
    path: &str,
    body: &Value,
) -> Result<Value, AdminCallError> {
    let token = call.token.as_ref();
    success_body(
        call,
        client::send_change(&call.target, method, path, token, body).await?,
    )
}

/// Returns the JSON of a successful response.
pub(super) fn success_body(
    call: &AdminCall,
    (status, body): (StatusCode, Value),
) -> Result<Value, AdminCallError> {
    if status.is_success() {
        return Ok(body);
    }
    let message = body["message"].as_str().unwrap_or("no message").to_owned();
    Err(AdminCallError::Refused {
        target: call.target.clone(),
        status,
        message,
    })
}
