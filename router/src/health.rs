//! Check of whether a running router is ready: for health checks of containers, whose images have
//! no other program for that.

use std::net::SocketAddr;
use std::time::Duration;

use axum::body::Body;
use cloudkv_common::admin::{self, ClientError, Program};
use cloudkv_common::config::AdminTarget;
use http::{Request, StatusCode};
use serde_json::Value;

/// Timeout of the call as a whole.
const CALL_TIMEOUT: Duration = Duration::from_millis(2500);

/// Reason for which a router isn't known to be ready.
#[derive(Debug, thiserror::Error)]
pub enum HealthError {
    /// The admin port can't be called.
    #[error(transparent)]
    Call(#[from] ClientError),
    /// A node answered.
    #[error(
        "{0} is a node's admin port, and not a router's: give the router's with --admin; \
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
    let request = Request::get("/readyz").body(Body::empty());
    let request = request.map_err(ClientError::from)?;
    let target = AdminTarget::from(admin);
    let response = admin::call(&target, request, None, CALL_TIMEOUT).await?;
    let body: Value = serde_json::from_slice(response.body()).unwrap_or_default();
    if Program::of_response(&body) == Some(Program::Node) {
        return Err(HealthError::Node(target));
    }
    if response.status() == StatusCode::OK {
        return Ok(());
    }
    Err(HealthError::NotReady {
        status: response.status(),
        body: String::from_utf8_lossy(response.body()).into_owned(),
    })
}
