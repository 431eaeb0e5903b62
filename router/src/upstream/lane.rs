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
use cloudkv_common::rpc::headers::{read_headers, write_headers};
use cloudkv_common::rpc::{CallError, Greeting, Lane, Link, LinkSettings, Room};
use cloudkv_common::server::Settled;
use cloudkv_proto::tls::Dialer;
use cloudkv_proto::v1::{self as pb, call, reply};
use http::{HeaderMap, HeaderName, Method, Response, StatusCode, Uri, header};
use tokio::runtime::Handle;
use tokio::sync::watch;

use super::send::Fate;

/// Limits of a stream. The maximum of pending calls is below the number at which a node stops
/// reading; the maximum size of a message is above that of the largest value.
const BOUNDS: LinkSettings = LinkSettings {
    calls: 16_000,
    queue_bytes: 32 << 20,
    message_bytes: 32 << 20,
};

/// Capacity for headers that are added to a response, such as request ID and length.
const MORE_HEADERS: usize = 4;

/// Maximum size of a response body that may share the memory of its message.
const SHARED_BODY_BYTES: usize = 16 << 10;

/// Streams to one node, one per thread.
#[derive(Debug)]
pub struct Lanes {
    workers: Box<[OnceLock<Link>]>,
    greeting: Greeting,
    dialer: Dialer,
    address: watch::Sender<String>,
}

/// Parameters of connections to nodes.
#[derive(Clone, Debug, Default)]
pub struct Reach {
    /// Number of threads that send requests, each over its own connections.
    pub workers: usize,
    /// Dialer to the nodes' rpc ports.
    pub dialer: Dialer,
}

/// A request that is completely in memory.
#[derive(Clone, Copy, Debug)]
pub struct Whole<'a> {
    /// Method.
    pub method: &'a Method,
    /// Path and query.
    pub uri: &'a Uri,
    /// Headers.
    pub headers: &'a HeaderMap,
    /// Body.
    pub body: &'a Bytes,
}

impl Lanes {
    /// Creates the streams to a node with the rpc address `rpc`. Each is opened at its first use.
    pub fn new(cluster_id: &str, node: u64, rpc: &str, reach: &Reach) -> Self {
        let (address, _) = watch::channel(rpc.to_owned());
        Self {
            workers: (0..reach.workers.max(1)).map(|_| OnceLock::new()).collect(),
            greeting: Greeting {
                cluster_id: cluster_id.to_owned(),
                from: 0,
                to: node,
            },
            dialer: reach.dialer.clone(),
            address,
        }
    }

    /// Returns a thread's stream, which is opened at its first use.
    fn of(&self, worker: usize) -> &Link {
        self.workers[worker % self.workers.len()].get_or_init(|| {
            let (greeting, address) = (self.greeting.clone(), self.address.subscribe());
            let (runtime, dialer) = (Handle::current(), self.dialer.clone());
            let budget = Room::of(&BOUNDS);
            let kind = Lane::Users;
            Link::start(&runtime, dialer, greeting, kind, address, BOUNDS, budget)
        })
    }

    /// Sends a request; `None` if it wasn't sent, and may be sent by HTTP.
    pub async fn send(
        &self,
        worker: usize,
        request: Whole<'_>,
        within: Duration,
    ) -> Option<Result<Response<Bytes>, Fate>> {
        let client = self.of(worker);
        if !client.is_connected() {
            return None;
        }
        let pending = match client.call(call::Body::User(encode(request)), within) {
            Ok(pending) => pending,
            Err(error) => return fate(error).map(Err),
        };
        match pending.wait().await {
            Ok(reply::Body::User(reply)) => {
                let invalid = || Fate::Lost("the reply is invalid".to_owned());
                Some(decode(&reply).ok_or_else(invalid))
            }
            Ok(reply::Body::Refused(_)) => None,
            Ok(_) => Some(Err(Fate::Lost("the reply is for another call".to_owned()))),
            Err(error) => fate(error).map(Err),
        }
    }
}

/// Classifies a call without a reply; `None` if it was never sent.
fn fate(error: CallError) -> Option<Fate> {
    match error {
        CallError::Unsent => None,
        CallError::Busy => Some(Fate::Busy),
        CallError::Lost => Some(Fate::Lost(error.to_string())),
    }
}

fn encode(request: Whole<'_>) -> pb::UserRequest {
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
fn alone(body: &Bytes) -> Bytes {
    if body.len() > SHARED_BODY_BYTES {
        Bytes::copy_from_slice(body)
    } else {
        body.clone()
    }
}

fn decode(reply: &pb::UserReply) -> Option<Response<Bytes>> {
    let mut response = Response::new(alone(&reply.body));
    let status = u16::try_from(reply.status).ok()?;
    *response.status_mut() = StatusCode::from_u16(status).ok()?;
    // HTTP/2 keeps header values for the lifetime of a connection, to compress later ones: they
    // must not retain the message that they came with.
    let headers = Bytes::copy_from_slice(&reply.headers);
    *response.headers_mut() = read_headers(&headers, MORE_HEADERS).ok()?;
    if reply.settled {
        response.extensions_mut().insert(Settled);
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
        let encoded = encode(Whole {
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
            settled: status == 503,
        };
        let mut headers = HeaderMap::new();
        headers.insert("a", HeaderValue::from_static("b"));
        let good = write_headers(&headers, |_| false);
        let decoded = decode(&reply(204, good.clone()));
        let decoded = decoded.unwrap();
        assert_eq!(decoded.headers(), &headers);
        assert!(decoded.extensions().get::<Settled>().is_none());
        let authoritative = decode(&reply(503, good.clone())).unwrap();
        assert!(authoritative.extensions().get::<Settled>().is_some());
        assert!(decode(&reply(99, good.clone())).is_none());
        assert!(decode(&reply(70_000, good)).is_none());
        assert!(decode(&reply(200, Bytes::from_static(b"no headers"))).is_none());
    }
}
