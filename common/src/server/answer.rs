//! What a server asks of the program whose port it is.

use std::error::Error;
use std::future::Future;
use std::net::SocketAddr;
use std::sync::Arc;

use bytes::Bytes;
use http::{HeaderValue, Request, Response};

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
    /// Whether it came from a router of the cluster, whose word on its clients is believed.
    pub is_router: bool,
}

/// Answers the requests of a port.
pub trait Answer: Send + Sync + 'static {
    /// The body of its answers.
    type Body: http_body::Body<Data = Bytes, Error: Into<Box<dyn Error + Send + Sync>>>
        + Send
        + Unpin
        + 'static;

    /// Answers one request.
    fn answer(
        &self,
        request: Request<RequestBody>,
        origin: Origin,
    ) -> impl Future<Output = Response<Self::Body>> + Send;

    /// Says in answer to the request with this ID that more requests or answers wait than may, and that
    /// nothing was done.
    fn overloaded(&self, id: HeaderValue) -> Response<Self::Body>;

    /// Where connections are counted. All ports that share it share the limit of connections.
    fn connections(&self) -> &Arc<ConnectionMetrics>;
}

/// Put among an answer's extensions: another node would answer the same.
#[derive(Clone, Copy, Debug)]
pub struct Settled;
