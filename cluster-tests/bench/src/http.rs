//! A minimal HTTP/1.1 client for single requests: creating a bucket, checking readiness, reading a
//! response's headers. Loads use [`crate::engine`].

use anyhow::{Context, Result, ensure};
use http_body_util::{BodyExt, Full};
use hyper::body::Bytes;
use hyper_util::rt::TokioIo;
use std::net::SocketAddr;
use std::time::Duration;
use tokio::net::TcpStream;
use tokio::time::timeout;

/// Timeout of one request.
const REQUEST_TIMEOUT: Duration = Duration::from_secs(10);

/// A response with its whole body.
pub(crate) type FullResponse = http::Response<Bytes>;

/// Sends one request on a connection of its own.
pub(crate) async fn request(
    addr: SocketAddr,
    method: &str,
    path: &str,
    body: Vec<u8>,
) -> Result<FullResponse> {
    timeout(REQUEST_TIMEOUT, exchange(addr, method, path, body))
        .await
        .with_context(|| format!("{method} {addr}{path} timed out"))?
        .with_context(|| format!("{method} {addr}{path}"))
}

/// Sends a request like [`request`], but any status but 2xx is an error.
pub(crate) async fn expect_success(
    addr: SocketAddr,
    method: &str,
    path: &str,
    body: Vec<u8>,
) -> Result<FullResponse> {
    let response = request(addr, method, path, body).await?;
    let text = String::from_utf8_lossy(response.body());
    ensure!(
        response.status().is_success(),
        "{method} {path}: {} {text}",
        response.status()
    );
    Ok(response)
}

async fn exchange(
    addr: SocketAddr,
    method: &str,
    path: &str,
    body: Vec<u8>,
) -> Result<FullResponse> {
    let stream = TcpStream::connect(addr).await.context("connect")?;
    stream.set_nodelay(true).context("set TCP_NODELAY")?;
    let (mut sender, connection) = hyper::client::conn::http1::handshake(TokioIo::new(stream))
        .await
        .context("handshake")?;
    let connection = tokio::spawn(connection);
    let request = http::Request::builder()
        .method(method)
        .uri(path)
        .header(http::header::HOST, addr.to_string())
        .body(Full::new(Bytes::from(body)))
        .context("build request")?;
    let (head, body) = sender
        .send_request(request)
        .await
        .context("send request")?
        .into_parts();
    let body = body.collect().await.context("read response")?.to_bytes();
    connection.abort();
    Ok(http::Response::from_parts(head, body))
}
