//! A minimal HTTP/1.1 client for single requests: creating a bucket, asking for readiness,
//! looking at an answer's headers. Loads go through [`crate::engine`].

use anyhow::{Context, Result, ensure};
use http_body_util::{BodyExt, Full};
use hyper::body::Bytes;
use hyper_util::rt::TokioIo;
use std::net::SocketAddr;
use std::time::Duration;
use tokio::net::TcpStream;
use tokio::time::timeout;

/// How long one request may take.
const LIMIT: Duration = Duration::from_secs(10);

/// An answer, read to its end.
pub type Answer = http::Response<Bytes>;

/// Sends one request on a connection of its own.
pub async fn request(addr: SocketAddr, method: &str, path: &str, body: Vec<u8>) -> Result<Answer> {
    timeout(LIMIT, exchange(addr, method, path, body))
        .await
        .with_context(|| format!("{method} {addr}{path} took too long"))?
        .with_context(|| format!("{method} {addr}{path}"))
}

/// Like [`request`], but any status but 2xx is an error.
pub async fn expect(addr: SocketAddr, method: &str, path: &str, body: Vec<u8>) -> Result<Answer> {
    let answer = request(addr, method, path, body).await?;
    let text = String::from_utf8_lossy(answer.body());
    ensure!(
        answer.status().is_success(),
        "{method} {path}: {} {text}",
        answer.status()
    );
    Ok(answer)
}

async fn exchange(addr: SocketAddr, method: &str, path: &str, body: Vec<u8>) -> Result<Answer> {
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
    let body = body.collect().await.context("read answer")?.to_bytes();
    connection.abort();
    Ok(http::Response::from_parts(head, body))
}
