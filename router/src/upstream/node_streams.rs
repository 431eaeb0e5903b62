//! Streams of calls to a node, for requests for keys that are completely in memory.
//!
//! Requests of many users share one message in each direction, which costs a fraction of one
//! connection for each, on both sides. Requests that don't fit, or arrive while there is no stream,
//! are sent by HTTP.
//!
//! Invariant (unknown outcome): a request that isn't sent here, so that it may be sent by HTTP,
//! never left the router, or the node replied that it doesn't know such calls.

use std::sync::OnceLock;
use std::time::Duration;

use bytes::Bytes;
use cloudkv_common::byte_budget::ByteBudget;
use cloudkv_common::node_id::NodeId;
use cloudkv_common::server::Authoritative;
use cloudkv_common::transport::headers::{read_headers, write_headers};
use cloudkv_common::transport::tls::Dialer;
use cloudkv_common::transport::{
    CallError, Greeting, RpcClient, RpcClientSettings, StreamProtocol,
};
use cloudkv_proto::v1::{self as pb, call, reply};
use http::{HeaderMap, HeaderName, Method, Response, StatusCode, Uri, header};
use tokio::runtime::Handle;
use tokio::sync::watch;

use super::send_error::SendError;

/// Limits of a stream. The maximum of pending calls is below the number at which a node stops
/// reading; the maximum size of a message is above that of the largest value.
const STREAM_LIMITS: RpcClientSettings = RpcClientSettings {
    max_calls: 16_000,
    max_queue_bytes: 32 << 20,
    max_message_bytes: 32 << 20,
};

/// Capacity for headers that are added to a response, such as request ID and length.
const EXTRA_HEADERS: usize = 4;

/// Maximum size of a response body that may share the memory of its message.
const MAX_SHARED_BODY_BYTES: usize = 16 << 10;

/// Streams to one node, one per thread.
#[derive(Debug)]
pub(crate) struct NodeStreams {
    workers: Box<[OnceLock<RpcClient>]>,
    greeting: Greeting,
    dialer: Dialer,
    address: watch::Sender<String>,
}

/// Parameters of connections to nodes.
#[derive(Clone, Debug, Default)]
pub(crate) struct ConnectSettings {
    /// Number of threads that send requests, each over its own connections.
    pub workers: usize,
    /// Dialer to the nodes' rpc ports.
    pub dialer: Dialer,
}

/// A request that is completely in memory.
#[derive(Clone, Copy, Debug)]
pub(crate) struct BufferedRequest<'a> {
    /// Method.
    pub method: &'a Method,
    /// Path and query.
    pub uri: &'a Uri,
    /// Headers.
    pub headers: &'a HeaderMap,
    /// Body.
    pub body: &'a Bytes,
}

impl NodeStreams {
    /// Creates the streams to a node with the rpc address `rpc`. Each is opened at its first use.
    pub(crate) fn new(cluster_id: &str, node: NodeId, rpc: &str, reach: &ConnectSettings) -> Self {
        let (address, _) = watch::channel(rpc.to_owned());
        Self {
            workers: (0..reach.workers.max(1)).map(|_| OnceLock::new()).collect(),
            greeting: Greeting {
                cluster_id: cluster_id.to_owned(),
                from: NodeId::default(),
                to: node,
            },
            dialer: reach.dialer.clone(),
            address,
        }
    }

    /// Returns a thread's stream, which is opened at its first use.
    fn stream(&self, worker: usize) -> &RpcClient {
        self.workers[worker % self.workers.len()].get_or_init(|| {
            let (greeting, address) = (self.greeting.clone(), self.address.subscribe());
            let (runtime, dialer) = (Handle::current(), self.dialer.clone());
            let budget = ByteBudget::new(STREAM_LIMITS.max_queue_bytes);
            RpcClient::start(
                &runtime,
                dialer,
                greeting,
                StreamProtocol::UserFrames,
                address,
                STREAM_LIMITS,
                budget,
            )
        })
    }

    /// Sends a request; `None` if it wasn't sent, and may be sent by HTTP.
    pub(crate) async fn send(
        &self,
        worker: usize,
        request: BufferedRequest<'_>,
        within: Duration,
    ) -> Option<Result<Response<Bytes>, SendError>> {
        let client = self.stream(worker);
        if !client.is_connected() {
            return None;
        }
        let pending = match client.call(call::Body::User(encode(request)), within) {
            Ok(pending) => pending,
            Err(error) => return send_error(error).map(Err),
        };
        match pending.wait().await {
            Ok(reply::Body::User(reply)) => {
                let invalid = || SendError::Lost("the reply is invalid".to_owned());
                Some(decode(&reply).ok_or_else(invalid))
            }
            Ok(reply::Body::Refused(_)) => None,
            Ok(_) => Some(Err(SendError::Lost(
                "the reply is for another call".to_owned(),
            ))),
            Err(error) => send_error(error).map(Err),
        }
    }
}

/// Classifies a call without a reply; `None` if it was never sent.
fn send_error(error: CallError) -> Option<SendError> {
    match error {
        CallError::Unsent => None,
        CallError::Busy => Some(SendError::Busy),
        CallError::Lost => Some(SendError::Lost(error.to_string())),
    }
}

fn encode(request: BufferedRequest<'_>) -> pb::UserRequest {
    // The message holds the same information in fields of its own.
    let skip = |name: &HeaderName| *name == header::HOST || *name == header::CONTENT_LENGTH;
    let target = request.uri.path_and_query();
    pb::UserRequest {
        method: request.method.as_str().to_owned(),
        target: target.map_or("/", |target| target.as_str()).to_owned(),
        headers: write_headers(request.headers, skip),
        body: request.body.clone(),
    }
}

/// Returns a body that keeps no others in memory. All replies of a message share its memory; a
/// large one may wait for a client that doesn't read, and must not retain the others' as well.
fn detached_body(body: &Bytes) -> Bytes {
    if body.len() > MAX_SHARED_BODY_BYTES {
        Bytes::copy_from_slice(body)
    } else {
        body.clone()
    }
}

fn decode(reply: &pb::UserReply) -> Option<Response<Bytes>> {
    let mut response = Response::new(detached_body(&reply.body));
    let status = u16::try_from(reply.status).ok()?;
    *response.status_mut() = StatusCode::from_u16(status).ok()?;
    // HTTP/2 keeps header values for the lifetime of a connection, to compress later ones: they
    // must not retain the message that they came with.
    let headers = Bytes::copy_from_slice(&reply.headers);
    *response.headers_mut() = read_headers(&headers, EXTRA_HEADERS).ok()?;
    if reply.authoritative {
        response.extensions_mut().insert(Authoritative);
    }
    Some(response)
}

#[cfg(test)]
mod tests {
    use http::HeaderValue;

    use super::*;

    #[test]
    fn requests_are_encoded_without_host_and_content_length() {
        let mut headers = HeaderMap::new();
        headers.insert(header::HOST, HeaderValue::from_static("x"));
        headers.insert(header::CONTENT_LENGTH, HeaderValue::from_static("5"));
        headers.insert("api-key", HeaderValue::from_static("k"));
        let encoded = encode(BufferedRequest {
            method: &Method::PUT,
            uri: &"/kv/b/k?ttl=5".parse().unwrap(),
            headers: &headers,
            body: &Bytes::from_static(b"value"),
        });
        assert_eq!(
            (encoded.method.as_str(), encoded.target.as_str()),
            ("PUT", "/kv/b/k?ttl=5")
        );
        let sent = read_headers(&encoded.headers, 0).unwrap();
        assert_eq!((sent.len(), &sent["api-key"]), (1, &headers["api-key"]));
        assert_eq!(encoded.body, "value");
    }

    #[test]
    fn invalid_replies_are_refused() {
        let reply = |status, headers| pb::UserReply {
            status,
            headers,
            body: Bytes::new(),
            authoritative: status == 503,
        };
        let mut headers = HeaderMap::new();
        headers.insert("a", HeaderValue::from_static("b"));
        let good = write_headers(&headers, |_| false);
        let decoded = decode(&reply(204, good.clone()));
        let decoded = decoded.unwrap();
        assert_eq!(decoded.headers(), &headers);
        assert!(decoded.extensions().get::<Authoritative>().is_none());
        let authoritative = decode(&reply(503, good.clone())).unwrap();
        assert!(authoritative.extensions().get::<Authoritative>().is_some());
        assert!(decode(&reply(99, good.clone())).is_none());
        assert!(decode(&reply(70_000, good)).is_none());
        assert!(decode(&reply(200, Bytes::from_static(b"no headers"))).is_none());
    }
}
