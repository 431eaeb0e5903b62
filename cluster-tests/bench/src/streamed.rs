//! HTTP/1.1 exchanges with bodies of any length, which are never in memory as a whole.

use anyhow::{Context, Result};
use http::header::{HOST, HeaderValue};
use http_body_util::BodyExt;
use hyper::body::{Body, Bytes, Incoming};
use hyper_util::rt::TokioIo;
use std::error::Error;
use std::net::SocketAddr;
use tokio::net::TcpStream;
use tokio::task::JoinSet;

/// A response that is being received, on a connection of its own; closed when dropped.
#[derive(Debug)]
pub(crate) struct StreamedResponse {
    /// Status code.
    pub status: http::StatusCode,
    body: Incoming,
    /// The connection's only task, which ends with this.
    _connection: JoinSet<hyper::Result<()>>,
}

impl StreamedResponse {
    /// Sends a request, and returns its response once the head is there; the request's body may
    /// still be under way then.
    pub(crate) async fn open<B>(addr: SocketAddr, mut request: http::Request<B>) -> Result<Self>
    where
        B: Body + Send + 'static,
        B::Data: Send,
        B::Error: Into<Box<dyn Error + Send + Sync>>,
    {
        let host = HeaderValue::from_str(&addr.to_string()).context("host")?;
        request.headers_mut().insert(HOST, host);
        let stream = TcpStream::connect(addr).await.context("connect")?;
        stream.set_nodelay(true).context("set TCP_NODELAY")?;
        let (mut sender, connection) = hyper::client::conn::http1::handshake(TokioIo::new(stream))
            .await
            .context("handshake")?;
        let mut tasks = JoinSet::new();
        tasks.spawn(connection);
        let response = sender.send_request(request).await.context("send request")?;
        let (head, body) = response.into_parts();
        Ok(Self {
            status: head.status,
            body,
            _connection: tasks,
        })
    }

    /// Returns the next bytes of the body; `None` at its end. Cancel safe.
    pub(crate) async fn next_chunk(&mut self) -> Result<Option<Bytes>> {
        while let Some(frame) = self.body.frame().await {
            if let Ok(data) = frame.context("read response")?.into_data() {
                return Ok(Some(data));
            }
        }
        Ok(None)
    }
}
