//! Check of whether a running router is ready: for health checks of containers, whose images have
//! no other program for that.

use std::net::SocketAddr;
use std::time::Duration;

use axum::body::Body;
use bytes::Bytes;
use cloudkv_common::admin::{self, ClientError, Program};
use cloudkv_common::config::AdminTarget;
use http::{Request, Response, StatusCode};
use serde_json::Value;

/// Timeout of the call as a whole.
const CALL_TIMEOUT: Duration = Duration::from_millis(2500);
/// Path that is called.
const READY_PATH: &str = "/readyz";
/// Maximum number of characters that an error quotes of the response of another program.
const MAX_QUOTED_CHARS: usize = 200;
/// End of the errors of a port that may not be the router's admin port.
const ADDRESS_ADVICE: &str = "give the address of the router's admin port (`admin`) with --admin \
                              or CLOUDKV_ADMIN, or the router's file with --config";

/// Reason for which a router isn't known to be ready.
#[derive(Debug, thiserror::Error)]
pub enum HealthError {
    /// The admin port can't be called.
    #[error("GET {READY_PATH}: {0}. Does the router run? If it does, {ADDRESS_ADVICE}")]
    Call(#[from] ClientError),
    /// Another program than a router or a node answered, or another port of one of them.
    #[error(
        "GET {READY_PATH}: {target} answered {status} and {quote:?}, as no router's admin port \
         does: {ADDRESS_ADVICE}"
    )]
    NotRouter {
        /// The called port.
        target: AdminTarget,
        /// Status of the response.
        status: StatusCode,
        /// Message or beginning of the response.
        quote: String,
    },
    /// A node answered.
    #[error(
        "GET {READY_PATH}: {0} is a node's admin port, and not a router's: {ADDRESS_ADVICE}; \
         `cloudkv-node admin health` asks a node"
    )]
    Node(AdminTarget),
    /// The router waits for something.
    #[error("the router is not ready: {status} {body}")]
    NotReady {
        /// Status of the response.
        status: StatusCode,
        /// Body of the response, with the reasons.
        body: String,
    },
}

/// Calls the admin port at `admin`, or on the loopback interface if that is all interfaces.
///
/// # Errors
/// Fails if the router can't be reached, or isn't ready.
pub async fn check_ready(admin: SocketAddr) -> Result<(), HealthError> {
    let request = Request::get(READY_PATH).body(Body::empty());
    let request = request.map_err(ClientError::from)?;
    let target = AdminTarget::from(admin);
    let response = admin::call(&target, request, None, CALL_TIMEOUT).await?;
    check_response(target, &response)
}

/// Returns an error if a response isn't that of a router which is ready.
fn check_response(target: AdminTarget, response: &Response<Bytes>) -> Result<(), HealthError> {
    let status = response.status();
    let json: Value = serde_json::from_slice(response.body()).unwrap_or_default();
    let text = || String::from_utf8_lossy(response.body()).into_owned();
    match Program::of_response(&json) {
        Some(Program::Router) if status == StatusCode::OK => Ok(()),
        Some(Program::Router) => Err(HealthError::NotReady {
            status,
            body: text(),
        }),
        Some(Program::Node) => Err(HealthError::Node(target)),
        None => Err(HealthError::NotRouter {
            target,
            status,
            quote: shorten(json["message"].as_str().map_or_else(text, str::to_owned)),
        }),
    }
}

/// Shortens a text to what an error quotes of it.
fn shorten(text: String) -> String {
    match text.char_indices().nth(MAX_QUOTED_CHARS) {
        Some((end, _)) => format!("{}...", &text[..end]),
        None => text,
    }
}

#[cfg(test)]
mod tests {
    use tokio::net::TcpSocket;

    use super::*;

    /// Returns the outcome of a check that got this response, with the text of the error.
    fn outcome(status: u16, body: &str) -> Result<(), String> {
        let response = Response::builder().status(status);
        let response = response.body(Bytes::from(body.to_owned())).unwrap();
        let target = AdminTarget::parse("127.0.0.1:8000").unwrap();
        check_response(target, &response).map_err(|error| error.to_string())
    }

    #[test]
    fn only_a_router_that_is_ready_passes() {
        let ready = r#"{"program":"cloudkv-router","ready":true}"#;
        assert_eq!(outcome(200, ready), Ok(()));
        let waiting = r#"{"program":"cloudkv-router","waiting_for":["region"]}"#;
        let error = outcome(503, waiting).unwrap_err();
        assert!(error.starts_with("the router is not ready: 503"), "{error}");
        assert!(error.contains(waiting), "{error}");
        let node = r#"{"program":"cloudkv-node","ready":true}"#;
        let error = outcome(200, node).unwrap_err();
        assert!(error.contains("a node's admin port"), "{error}");
        for other in ["", "ok", "[]", r#"{"ready":true}"#, "<html></html>"] {
            let error = outcome(200, other).unwrap_err();
            assert!(error.contains("no router's admin port"), "{error}");
        }
    }

    #[test]
    fn the_response_of_another_port_is_told_with_what_to_do() {
        let json = r#"{"error":"no_such_route","message":"no such resource"}"#;
        let error = outcome(404, json).unwrap_err();
        let begin = "GET /readyz: http://127.0.0.1:8000 answered 404 Not Found and \
                     \"no such resource\", as no router's admin port does: ";
        assert!(error.starts_with(begin), "{error}");
        assert!(error.ends_with(ADDRESS_ADVICE), "{error}");
        // Of a long one only the beginning, and no line breaks.
        let page = format!("<html>\n{}", "é".repeat(10_000));
        let error = outcome(200, &page).unwrap_err();
        assert!(
            error.contains(r"<html>\né") && error.contains("é...\""),
            "{error}"
        );
        assert!(error.len() < 1000 && !error.contains('\n'), "{error}");
    }

    #[tokio::test]
    async fn a_port_that_refuses_is_told_with_what_to_do() {
        // Reserved, and not listening.
        let socket = TcpSocket::new_v4().unwrap();
        socket.bind("127.0.0.1:0".parse().unwrap()).unwrap();
        let admin = socket.local_addr().unwrap();
        let error = check_ready(admin).await.unwrap_err().to_string();
        let begin = format!("GET /readyz: connect to http://{admin}: ");
        assert!(error.starts_with(&begin), "{error}");
        assert!(error.contains("refused"), "{error}");
        assert!(error.ends_with(ADDRESS_ADVICE), "{error}");
    }
}
