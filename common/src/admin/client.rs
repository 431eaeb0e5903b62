//! Client of an admin port: one connection and one request per call.

use std::error::Error;
use std::io;
use std::time::Duration;

use axum::body::{Body, to_bytes};
use bytes::Bytes;
use http::header::{self, HeaderValue};
use http::{Request, Response};
use hyper::body::Incoming;
use hyper::client::conn::http1;
use hyper_util::rt::TokioIo;
use tokio::net::TcpStream;
use tokio::task::JoinSet;

use crate::config::{AdminTarget, Secret};

/// Maximum size of a response's body.
const MAX_BODY_BYTES: usize = 64 << 20;

/// Reason for which a call of an admin port failed.
#[derive(Debug, thiserror::Error)]
pub enum ClientError {
    /// Nothing listens at the address, or it is unreachable.
    #[error("connect to {target}: {source}")]
    Connect {
        /// The called port.
        target: AdminTarget,
        /// The cause.
        source: io::Error,
    },
    /// The response took too long.
    #[error("call {target}: no response within {} s", within.as_secs_f64())]
    Timeout {
        /// The called port.
        target: AdminTarget,
        /// The timeout.
        within: Duration,
    },
    /// The response isn't HTTP, is too large, or was aborted.
    #[error("call {target}: {source}")]
    Http {
        /// The called port.
        target: AdminTarget,
        /// The cause.
        source: Box<dyn Error + Send + Sync>,
    },
    /// The token or the address can't be sent in a request.
    #[error("build the request: the token or the address has invalid characters")]
    InvalidRequest(#[from] http::Error),
}

/// Sends a request, with the admin token if there is one, and returns the whole response.
///
/// Dropping the future closes the connection; the request may be carried out nevertheless.
///
/// # Errors
/// Fails if no complete response arrives within this time. Any status is a response.
pub async fn call(
    target: &AdminTarget,
    mut request: Request<Body>,
    token: Option<&Secret>,
    within: Duration,
) -> Result<Response<Bytes>, ClientError> {
    add_headers(target, &mut request, token)?;
    let response = tokio::time::timeout(within, exchange(target, request));
    response.await.map_err(|_| ClientError::Timeout {
        target: target.clone(),
        within,
    })?
}

/// Adds the host, and the token if there is one.
pub(super) fn add_headers(
    target: &AdminTarget,
    request: &mut Request<Body>,
    token: Option<&Secret>,
) -> Result<(), http::Error> {
    let headers = request.headers_mut();
    headers.insert(header::HOST, header_value(target.authority())?);
    if let Some(token) = token {
        let token = header_value(&format!("Bearer {}", token.expose()))?;
        headers.insert(header::AUTHORIZATION, token);
    }
    Ok(())
}

fn header_value(text: &str) -> Result<HeaderValue, http::Error> {
    Ok(HeaderValue::from_str(text)?)
}

async fn exchange(
    target: &AdminTarget,
    request: Request<Body>,
) -> Result<Response<Bytes>, ClientError> {
    let (response, _connection) = send(target, request).await?;
    let (head, body) = response.into_parts();
    let body = to_bytes(Body::new(body), MAX_BODY_BYTES).await;
    let body = body.map_err(|error| http_error(target, error))?;
    Ok(Response::from_parts(head, body))
}

/// Sends a request. Returns the response, whose body arrives as long as the second part is kept.
pub(super) async fn send(
    target: &AdminTarget,
    request: Request<Body>,
) -> Result<(Response<Incoming>, JoinSet<hyper::Result<()>>), ClientError> {
    let stream = TcpStream::connect(target.authority())
        .await
        .map_err(|source| ClientError::Connect {
            target: target.clone(),
            source,
        })?;
    let (mut requests, connection) = http1::handshake(TokioIo::new(stream))
        .await
        .map_err(|error| http_error(target, error))?;
    // Dropping the set aborts the connection's task. The request gets that task's errors, too.
    let mut task = JoinSet::new();
    task.spawn(connection);
    let response = requests.send_request(request).await;
    let response = response.map_err(|error| http_error(target, error))?;
    Ok((response, task))
}

pub(super) fn http_error(
    target: &AdminTarget,
    source: impl Into<Box<dyn Error + Send + Sync>>,
) -> ClientError {
    ClientError::Http {
        target: target.clone(),
        source: source.into(),
    }
}

#[cfg(test)]
mod tests {
    use axum::Router;
    use axum::http::HeaderMap;
    use axum::routing::get;
    use tokio::net::TcpListener;
    use tokio_util::sync::CancellationToken;

    use super::*;
    use crate::admin::serve;

    const TIMEOUT: Duration = Duration::from_secs(10);

    #[tokio::test]
    async fn a_response_arrives_with_its_body_and_the_request_with_its_token() {
        let token_of = |headers: HeaderMap| async move {
            let token = headers[header::AUTHORIZATION].to_str().unwrap();
            token.to_owned()
        };
        let router = Router::new().route("/token", get(token_of));
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let target = AdminTarget::from(listener.local_addr().unwrap());
        let stop = CancellationToken::new();
        let server = tokio::spawn(serve(listener, router, stop.clone()));
        let token = Secret::new("0123456789abcdef".to_owned());
        let request = Request::get("/token").body(Body::empty()).unwrap();
        let response = call(&target, request, Some(&token), TIMEOUT).await.unwrap();
        assert_eq!(response.status(), 200);
        assert_eq!(&response.body()[..], b"Bearer 0123456789abcdef");
        stop.cancel();
        server.await.unwrap();
    }

    #[test]
    fn a_timeout_is_told_with_its_fraction() {
        let target = AdminTarget::parse("127.0.0.1:9090").unwrap();
        let text = |within| {
            let target = target.clone();
            ClientError::Timeout { target, within }.to_string()
        };
        let begin = "call http://127.0.0.1:9090: no response within";
        assert_eq!(text(Duration::from_millis(2500)), format!("{begin} 2.5 s"));
        assert_eq!(text(Duration::from_secs(5)), format!("{begin} 5 s"));
    }

    #[tokio::test]
    async fn a_port_without_a_listener_is_an_error_of_the_connection() {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let target = AdminTarget::from(listener.local_addr().unwrap());
        drop(listener);
        let request = Request::get("/").body(Body::empty()).unwrap();
        let error = call(&target, request, None, TIMEOUT).await.unwrap_err();
        let text = error.to_string();
        assert!(
            text.starts_with(&format!("connect to {target}: ")),
            "{text}"
        );
    }
}
