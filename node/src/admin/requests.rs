//! Requests of the commands to the admin port: any status but success is an error.

use std::time::{Duration, Instant};

use cloudkv_common::admin::Program;
use http::{Method, StatusCode};
use serde::de::DeserializeOwned;
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

/// Gets the status of a node, which may be starting.
pub(super) async fn fetch_any_status(call: &AdminCall) -> Result<Value, AdminCallError> {
    let status = fetch(call, "/status").await?;
    check_program(call, "status", &status)?;
    Ok(status)
}

/// Gets the status of a node that has started. Returns an error before that, since the node has no
/// status yet.
pub(super) async fn fetch_status(call: &AdminCall) -> Result<Value, AdminCallError> {
    let status = fetch_any_status(call).await?;
    check_started(call, &status)?;
    Ok(status)
}

/// Returns an error if a status is that of a starting node.
fn check_started(call: &AdminCall, status: &Value) -> Result<(), AdminCallError> {
    match status["starting"].as_str() {
        None => Ok(()),
        Some(waiting_for) => Err(AdminCallError::Starting {
            target: call.target.clone(),
            waiting_for: waiting_for.to_owned(),
        }),
    }
}

/// Gets the status, and retries for a while if the node has none yet.
pub(super) async fn fetch_status_with_retries(call: &AdminCall) -> Result<Value, AdminCallError> {
    let deadline = Instant::now() + START_TIMEOUT;
    loop {
        let outcome = fetch_status(call).await;
        let has_no_status = match &outcome {
            Err(AdminCallError::Starting { .. }) => true,
            Err(AdminCallError::Refused { status, .. }) => {
                *status == StatusCode::SERVICE_UNAVAILABLE
            }
            Ok(_) | Err(_) => false,
        };
        if !has_no_status || Instant::now() >= deadline {
            return outcome;
        }
        tokio::time::sleep(RETRY_INTERVAL).await;
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
    Err(refusal(call, status, &body))
}

/// Converts an error response, with advice where the flags of the command are the cause.
pub(super) fn refusal(call: &AdminCall, status: StatusCode, body: &Value) -> AdminCallError {
    let message = body["message"].as_str().unwrap_or("no message");
    let advice = match status {
        StatusCode::UNAUTHORIZED => {
            ". Give the `admin_token` of the node with --token or CLOUDKV_ADMIN_TOKEN, or its file \
             with --config"
        }
        StatusCode::NOT_FOUND if body["error"] == "no_such_route" => {
            ". Is it the node's admin port (`admin`)? Give that address with --admin"
        }
        _ => "",
    };
    AdminCallError::Refused {
        target: call.target.clone(),
        status,
        message: format!("{message}{advice}"),
    }
}

/// Returns an error if a router gave the response to a command.
pub(super) fn check_program(
    call: &AdminCall,
    command: &'static str,
    body: &Value,
) -> Result<(), AdminCallError> {
    match Program::of_response(body) {
        Some(Program::Router) => Err(AdminCallError::Router {
            target: call.target.clone(),
            command,
        }),
        // One that names none is of another version.
        Some(Program::Node) | None => Ok(()),
    }
}

/// Reads the JSON of a response.
pub(super) fn parse_body<T: DeserializeOwned>(
    call: &AdminCall,
    body: Value,
) -> Result<T, AdminCallError> {
    serde_path_to_error::deserialize(body).map_err(|error| AdminCallError::UnexpectedJson {
        target: call.target.clone(),
        misfit: describe_misfit(&error.path().to_string(), &error.inner().to_string()),
    })
}

/// Describes the field at `path` that has another form than expected, or lacks a field.
fn describe_misfit(path: &str, reason: &str) -> String {
    let missing = reason.strip_prefix("missing field `");
    match missing.and_then(|rest| rest.strip_suffix('`')) {
        Some(field) if path == "." => format!("without {field}"),
        Some(field) => format!("without {path}.{field}"),
        None => format!("with an unexpected {path} ({reason})"),
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;
    use crate::admin::DecommissionReport;
    use crate::config::{AdminAction, AdminTarget};

    fn any_call() -> AdminCall {
        AdminCall {
            target: AdminTarget::parse("localhost:9090").unwrap(),
            token: None,
            action: AdminAction::Health { ready: false },
        }
    }

    fn misfit_of(body: Value) -> String {
        let parsed: Result<Vec<DecommissionReport>, _> = parse_body(&any_call(), body);
        let error = parsed.unwrap_err().to_string();
        assert!(error.ends_with("; is it of another version?"), "{error}");
        error
    }

    #[test]
    fn a_starting_node_is_reported_with_what_it_waits_for_and_as_no_refusal() {
        let error_of = |status: Value| {
            let checked = check_started(&any_call(), &status);
            checked.map_err(|error| error.to_string())
        };
        assert_eq!(error_of(json!({ "node": 7 })), Ok(()));
        let error = error_of(json!({ "starting": "another node to admit it" })).unwrap_err();
        assert!(
            error.ends_with(": the node is starting, and waits for another node to admit it"),
            "{error}"
        );
        assert!(!error.contains("503"), "{error}");
        let error = error_of(json!({ "starting": "" })).unwrap_err();
        assert!(error.ends_with(": the node is starting"), "{error}");
    }

    #[test]
    fn json_of_another_form_is_reported_with_its_field() {
        let lacking = misfit_of(json!([{ "node": 7 }]));
        assert!(
            lacking.contains("answered JSON without [0].name;"),
            "{lacking}"
        );
        let other = misfit_of(json!([{ "node": null }]));
        assert!(
            other.contains("answered JSON with an unexpected [0].node (invalid type: null"),
            "{other}"
        );
        assert_eq!(describe_misfit(".", "missing field `node`"), "without node");
    }
}
