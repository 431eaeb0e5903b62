//! What a server asks of the program whose port it is.

use std::error::Error;
use std::future::Future;
use std::net::SocketAddr;
use std::sync::Arc;

use bytes::Bytes;
use http::{Request, Response};

use super::conn::body::RequestBody;
use super::metrics::ConnectionMetrics;

/// Which request of which connection this is, and who sent it.
#[derive(Clone, Copy, Debug)]
pub struct Origin {
    /// The connection's number.
    pub connection: u32,
    /// The request's number on it.
    pub request: u32,
    /// Where it came from.
    pub peer: SocketAddr,
    /// Whether it came over TLS.
    pub encrypted: bool,
}

/// Answers the requests of a port.
pub trait Answer: Send + Sync + 'static {
    /// The body of its answers.
    type Body: http_body::Body<Data = Bytes, Error: Into<Box<dyn Error + Send + Sync>>>
        + Send
        + 'static;

    /// Answers one request.
    fn answer(
        &self,
        request: Request<RequestBody>,
        origin: Origin,
    ) -> impl Future<Output = Response<Self::Body>> + Send;

    /// Where connections are counted. All ports that share it share the limit of connections.
    fn connections(&self) -> &Arc<ConnectionMetrics>;
}

/// Put among an answer's extensions: another node would answer the same.
#[derive(Clone, Copy, Debug)]
pub struct Settled;
