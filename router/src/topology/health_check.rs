//! Checks periodically whether a node serves, and measures its round trip.
//!
//! `GET /ping` on the public port checks the path that users take, not only that the process runs.

use std::sync::Arc;
use std::time::{Duration, Instant};

use bytes::Bytes;
use cloudkv_common::server::forwarded::X_CLOUDKV_ROUTER;
use cloudkv_common::transport::tls::DialError;
use http::{Request, StatusCode, header};
use http_body_util::{BodyExt, Empty};
use hyper::client::conn::http1::{SendRequest, handshake};
use hyper_util::rt::TokioIo;

use crate::upstream::Node;

/// Time for a check.
const CHECK_TIMEOUT: Duration = Duration::from_secs(1);
/// Minimum interval between two checks, also if one is requested.
const MIN_CHECK_INTERVAL: Duration = Duration::from_millis(20);

type Connection = SendRequest<Empty<Bytes>>;

/// Reason for which a check failed.
#[derive(Debug, thiserror::Error)]
enum CheckError {
    #[error(transparent)]
    Connect(#[from] DialError),
    #[error("send a ping: {}", exchange_failure(.0))]
    Send(#[from] hyper::Error),
    #[error("build the ping: {0}")]
    Build(#[from] http::Error),
    #[error("the node responded {0}")]
    Status(StatusCode),
    #[error("no response within {CHECK_TIMEOUT:?}")]
    Timeout,
}

/// Returns why a connection has ended without a response.
fn exchange_failure(error: &hyper::Error) -> String {
    if error.is_parse() {
        return "the program there answers, but not as a node's http port does".to_owned();
    }
    let cause = std::error::Error::source(error);
    match cause.and_then(|cause| cause.downcast_ref::<std::io::Error>()) {
        Some(io) => format!("the connection was lost: {io}"),
        None if error.is_canceled() || error.is_closed() || error.is_incomplete_message() => {
            "the connection was lost".to_owned()
        }
        None => error.to_string(),
    }
}

/// Checks a node for ever, at `interval`, and at once if a check is requested.
pub(super) async fn run_health_checks(node: Arc<Node>, interval: Duration) {
    let mut idle = None;
    loop {
        let is_reused = idle.is_some();
        let mut outcome = check_once(&node, &mut idle).await;
        let is_timeout = matches!(outcome, Err(CheckError::Timeout));
        if outcome.is_err() && is_reused && !is_timeout {
            // The connection was reused, and the node may just have closed it. After a timeout, a
            // new connection would not help.
            idle = None;
            outcome = check_once(&node, &mut idle).await;
        }
        match outcome {
            Ok(round_trip) => node.record_success(round_trip),
            Err(error) => {
                idle = None;
                node.record_failed_check(&error);
            }
        }
        tokio::time::sleep(MIN_CHECK_INTERVAL).await;
        if node.is_up() {
            let _ = tokio::time::timeout(interval, node.check_requested()).await;
        } else {
            tokio::time::sleep(interval.saturating_sub(MIN_CHECK_INTERVAL)).await;
        }
    }
}

async fn check_once(node: &Node, idle: &mut Option<Connection>) -> Result<Duration, CheckError> {
    let ping = async {
        let mut connection = match idle.take() {
            Some(connection) => connection,
            None => connect(node).await?,
        };
        let started = Instant::now();
        ping(node, &mut connection).await?;
        *idle = Some(connection);
        Ok(started.elapsed())
    };
    let outcome = tokio::time::timeout(CHECK_TIMEOUT, ping).await;
    outcome.unwrap_or(Err(CheckError::Timeout))
}

async fn connect(node: &Node) -> Result<Connection, CheckError> {
    let stream = node.connect().await?;
    let (sender, connection) = handshake(TokioIo::new(stream)).await?;
    tokio::spawn(async move {
        // The sender gets the connection's errors, too.
        let _ = connection.await;
    });
    Ok(sender)
}

async fn ping(node: &Node, connection: &mut Connection) -> Result<(), CheckError> {
    connection.ready().await?;
    let mut request = Request::get("/ping").header(header::HOST, &node.http);
    if let Some(token) = &node.token {
        request = request.header(&X_CLOUDKV_ROUTER, token);
    }
    let response = connection.send_request(request.body(Empty::new())?).await?;
    let status = response.status();
    response.into_body().collect().await?;
    if status == StatusCode::OK {
        Ok(())
    } else {
        Err(CheckError::Status(status))
    }
}

#[cfg(test)]
mod tests {
    use tokio::io::{AsyncReadExt, AsyncWriteExt};

    use super::*;

    /// Sends a ping to a program that reads its begin, answers `response`, and closes.
    async fn failure(response: &'static [u8]) -> String {
        let (near, mut far) = tokio::io::duplex(1 << 10);
        let (mut sender, connection) = handshake::<_, Empty<Bytes>>(TokioIo::new(near))
            .await
            .unwrap();
        tokio::spawn(async move {
            let _ = connection.await;
        });
        tokio::spawn(async move {
            far.read_u8().await.unwrap();
            far.write_all(response).await.unwrap();
        });
        sender.ready().await.unwrap();
        let sent = sender.send_request(Request::new(Empty::<Bytes>::new()));
        CheckError::from(sent.await.unwrap_err()).to_string()
    }

    #[tokio::test]
    async fn a_lost_connection_and_another_program_are_told_in_words() {
        let lost = failure(b"").await;
        assert!(
            lost.starts_with("send a ping: the connection was lost"),
            "{lost}"
        );
        let other = failure(b"SSH-2.0-OpenSSH_9.6\r\n").await;
        assert!(
            other.ends_with("answers, but not as a node's http port does"),
            "{other}"
        );
    }
}
