//! Calls of an admin port whose responses come line by line while something is being done.

use std::time::Duration;

use axum::body::Body;
use bytes::BytesMut;
use futures_util::StreamExt;
use http::{Request, StatusCode};
use tokio::task::JoinSet;

use super::client::{ClientError, add_headers, http_error, send};
use crate::config::{AdminTarget, Secret};

/// Maximum size of a line.
const MAX_LINE_BYTES: usize = 1 << 20;

/// A response that comes line by line. The connection is closed when it is dropped.
#[derive(Debug)]
pub struct LineResponse {
    /// Status of the response.
    pub status: StatusCode,
    target: AdminTarget,
    body: axum::body::BodyDataStream,
    received: BytesMut,
    _connection: JoinSet<hyper::Result<()>>,
}

/// Sends a request, with the admin token if there is one, and returns the response once it has
/// begun.
///
/// # Errors
/// Fails if the response doesn't begin within this time. Any status is a response.
pub async fn call_lines(
    target: &AdminTarget,
    mut request: Request<Body>,
    token: Option<&Secret>,
    within: Duration,
) -> Result<LineResponse, ClientError> {
    add_headers(target, &mut request, token)?;
    let begun = tokio::time::timeout(within, send(target, request)).await;
    let (response, connection) = begun.map_err(|_| ClientError::Timeout {
        target: target.clone(),
        within,
    })??;
    let (head, body) = response.into_parts();
    Ok(LineResponse {
        status: head.status,
        target: target.clone(),
        body: Body::new(body).into_data_stream(),
        received: BytesMut::new(),
        _connection: connection,
    })
}

impl LineResponse {
    /// Returns the next line, without its newline; what follows the last newline counts as one.
    /// `None` at the end.
    ///
    /// # Errors
    /// Fails if the response breaks off, or if a line is too long.
    pub async fn next_line(&mut self) -> Result<Option<String>, ClientError> {
        loop {
            if let Some(end) = self.received.iter().position(|byte| *byte == b'\n') {
                let line = self.received.split_to(end + 1);
                return Ok(Some(String::from_utf8_lossy(&line[..end]).into_owned()));
            }
            if self.received.len() > MAX_LINE_BYTES {
                return Err(http_error(
                    &self.target,
                    "a line of the response is too long",
                ));
            }
            match self.body.next().await {
                Some(Ok(bytes)) => self.received.extend_from_slice(&bytes),
                Some(Err(error)) => return Err(http_error(&self.target, error)),
                None if self.received.is_empty() => return Ok(None),
                None => {
                    let line = self.received.split();
                    return Ok(Some(String::from_utf8_lossy(&line).into_owned()));
                }
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use axum::Router;
    use axum::routing::get;
    use bytes::Bytes;
    use futures_util::stream::iter;
    use tokio::net::TcpListener;
    use tokio_util::sync::CancellationToken;

    use super::*;
    use crate::admin::serve;

    const TIMEOUT: Duration = Duration::from_secs(10);

    #[tokio::test]
    async fn lines_are_told_apart_however_they_arrive() {
        let lines = || async {
            let parts = ["one\ntw", "o\n\n", "rest"];
            let parts =
                parts.map(|part| Ok::<_, std::io::Error>(Bytes::from_static(part.as_bytes())));
            Body::from_stream(iter(parts))
        };
        let router = Router::new().route("/lines", get(lines));
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let target = AdminTarget::from(listener.local_addr().unwrap());
        let stop = CancellationToken::new();
        let server = tokio::spawn(serve(listener, router, stop.clone()));
        let request = Request::get("/lines").body(Body::empty()).unwrap();
        let mut response = call_lines(&target, request, None, TIMEOUT).await.unwrap();
        assert_eq!(response.status, 200);
        let mut lines = Vec::new();
        while let Some(line) = response.next_line().await.unwrap() {
            lines.push(line);
        }
        assert_eq!(lines, ["one", "two", "", "rest"]);
        drop(response);
        stop.cancel();
        server.await.unwrap();
    }
}
