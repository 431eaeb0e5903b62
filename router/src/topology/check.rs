//! Asks a node whether it serves, again and again, and measures how far away it is.
//!
//! `GET /ping` on its public port: what users would meet, not only a process that lives.

use std::sync::Arc;
use std::time::{Duration, Instant};

use bytes::Bytes;
use cloudkv_common::server::forwarded::X_CLOUDKV_ROUTER;
use cloudkv_proto::tls::DialError;
use http::{Request, StatusCode, header};
use http_body_util::{BodyExt, Empty};
use hyper::client::conn::http1::{SendRequest, handshake};
use hyper_util::rt::TokioIo;

use super::node::Node;

/// Time for the answer.
const ANSWER_WITHIN: Duration = Duration::from_secs(1);
/// The shortest pause between two checks, also where there is doubt.
const PAUSE: Duration = Duration::from_millis(20);

type Connection = SendRequest<Empty<Bytes>>;

/// Why a check failed.
#[derive(Debug, thiserror::Error)]
enum CheckError {
    #[error(transparent)]
    Connect(#[from] DialError),
    #[error("ask: {0}")]
    Ask(#[from] hyper::Error),
    #[error("make a request: {0}")]
    Make(#[from] http::Error),
    #[error("it answers {0}")]
    Status(StatusCode),
    #[error("no answer came within {ANSWER_WITHIN:?}")]
    Timeout,
}

/// Checks a node for ever.
pub(super) async fn check(node: Arc<Node>, every: Duration) {
    let mut kept = None;
    loop {
        let reused = kept.is_some();
        let mut outcome = try_check(&node, &mut kept).await;
        let silent = matches!(outcome, Err(CheckError::Timeout));
        if outcome.is_err() && reused && !silent {
            // The connection was old: the node may have closed it for no reason that matters. From
            // one that says nothing no more is to be heard on another one.
            kept = None;
            outcome = try_check(&node, &mut kept).await;
        }
        match outcome {
            Ok(after) => node.answered(after),
            Err(error) => {
                kept = None;
                node.failed(&error);
            }
        }
        tokio::time::sleep(PAUSE).await;
        if node.is_up() {
            let _ = tokio::time::timeout(every, node.doubted()).await;
        } else {
            tokio::time::sleep(every.saturating_sub(PAUSE)).await;
        }
    }
}

async fn try_check(node: &Node, kept: &mut Option<Connection>) -> Result<Duration, CheckError> {
    let ping = async {
        let mut connection = match kept.take() {
            Some(connection) => connection,
            None => connect(node).await?,
        };
        let began = Instant::now();
        ping(node, &mut connection).await?;
        *kept = Some(connection);
        Ok(began.elapsed())
    };
    let answered = tokio::time::timeout(ANSWER_WITHIN, ping).await;
    answered.unwrap_or(Err(CheckError::Timeout))
}

async fn connect(node: &Node) -> Result<Connection, CheckError> {
    let stream = node.connect().await?;
    let (sender, connection) = handshake(TokioIo::new(stream)).await?;
    tokio::spawn(async move {
        // Its end shows at the sender.
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
