//! Interface between the HTTP server and the program that it serves.

use std::error::Error;
use std::future::Future;
use std::net::SocketAddr;
use std::sync::Arc;

use bytes::Bytes;
use http::{HeaderValue, Request, Response};

use super::conn::body::RequestBody;
use super::metrics::ConnectionMetrics;

/// Identity of a request, and its sender.
#[derive(Clone, Copy, Debug)]
pub struct RequestOrigin {
    /// Number of the connection.
    pub connection: u32,
    /// Number of the request on its connection.
    pub request: u32,
    /// Address of the other end.
    pub peer: SocketAddr,
    /// True if it came over TLS.
    pub is_encrypted: bool,
    /// True if it came from a router of the cluster, whose forwarding headers are trusted.
    pub is_router: bool,
}

/// Handler of a port's requests.
pub trait RequestHandler: Send + Sync + 'static {
    /// Body of its responses.
    type Body: http_body::Body<Data = Bytes, Error: Into<Box<dyn Error + Send + Sync>>>
        + Send
        + Unpin
        + 'static;

    /// Answers a request.
    fn handle(
        &self,
        request: Request<RequestBody>,
        origin: RequestOrigin,
    ) -> impl Future<Output = Response<Self::Body>> + Send;

    /// Builds the response to a request, of this ID, that is rejected since too many requests or
    /// responses are pending. Nothing was done. A client that asked for an event stream never comes
    /// back after any other status than 200: see [`crate::event_stream`].
    fn overloaded(&self, id: HeaderValue, is_event_stream: bool) -> Response<Self::Body>;

    /// Returns the counters of connections. All ports that share it share the limit of connections.
    fn connections(&self) -> &Arc<ConnectionMetrics>;
}

/// Extension of a response that any other node would give, too: it isn't retried.
#[derive(Clone, Copy, Debug)]
pub struct Authoritative;
