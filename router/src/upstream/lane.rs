//! The stream of calls to a node, for requests of keys that are in memory as a whole.
//!
//! Requests of many users go together in one message each way, which costs a fraction of what a
//! connection for each would, on both sides. What doesn't fit, and what comes while there is no
//! stream, goes by HTTP.
//!
//! Invariant (unknown fate): a request that comes to nothing here, so that it may go by HTTP, never
//! left the router, or the node said that it doesn't know such calls.

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

/// Bounds of a stream: requests that wait for an answer, which are fewer than a node works on before
/// it reads no further, bytes that wait to be sent, bytes of a message, which are more than the largest
/// value takes.
const BOUNDS: LinkSettings = LinkSettings {
    calls: 16_000,
    queue_bytes: 32 << 20,
    message_bytes: 32 << 20,
};

/// Headers that an answer gets on its way: those of its request's ID and length among them.
const MORE_HEADERS: usize = 4;

/// Largest body of an answer that stays in the memory of the message that it came with.
const SHARED_BODY_BYTES: usize = 16 << 10;

/// Streams to one node, for each thread its own.
#[derive(Debug)]
pub struct Lanes {
    workers: Box<[OnceLock<Link>]>,
    greeting: Greeting,
    dialer: Dialer,
    address: watch::Sender<String>,
}

/// How nodes are reached.
#[derive(Clone, Debug, Default)]
pub struct Reach {
    /// Threads that send requests, each over connections of its own.
    pub workers: usize,
    /// Connects to their `rpc`.
    pub dialer: Dialer,
}

/// A request in memory.
#[derive(Clone, Copy, Debug)]
pub struct Whole<'a> {
    /// Its method.
    pub method: &'a Method,
    /// Its path and query.
    pub uri: &'a Uri,
    /// Its headers.
    pub headers: &'a HeaderMap,
    /// Its body.
    pub body: &'a Bytes,
}

impl Lanes {
    /// Streams to a node of a cluster that is reached at `rpc`.
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

    /// This thread's stream, which begins with its first use.
    fn of(&self, worker: usize) -> &Link {
        self.workers[worker % self.workers.len()].get_or_init(|| {
            let (greeting, address) = (self.greeting.clone(), self.address.subscribe());
            let (runtime, dialer) = (Handle::current(), self.dialer.clone());
            let room = Room::of(&BOUNDS);
            let lane = Lane::Users;
            Link::start(&runtime, dialer, greeting, lane, address, BOUNDS, room)
        })
    }

    /// Sends a request; `None`: it wasn't, and may go another way.
    pub async fn send(
        &self,
        worker: usize,
        request: Whole<'_>,
        within: Duration,
    ) -> Option<Result<Response<Bytes>, Fate>> {
        let link = self.of(worker);
        if !link.is_connected() {
            return None;
        }
        let pending = match link.call(call::Body::User(encode(request)), within) {
            Ok(pending) => pending,
            Err(error) => return fate(error).map(Err),
        };
        match pending.wait().await {
            Ok(reply::Body::User(reply)) => {
                let unreadable = || Fate::Lost("an answer that can't be read".to_owned());
                Some(decode(&reply).ok_or_else(unreadable))
            }
            Ok(reply::Body::Refused(_)) => None,
            Ok(_) => Some(Err(Fate::Lost("an answer to another call".to_owned()))),
            Err(error) => fate(error).map(Err),
        }
    }
}

/// What became of a call without a reply; `None`: it was never sent.
fn fate(error: CallError) -> Option<Fate> {
    match error {
        CallError::Unsent => None,
        CallError::Busy => Some(Fate::Busy),
        CallError::Lost => Some(Fate::Lost(error.to_string())),
    }
}

fn encode(request: Whole<'_>) -> pb::UserRequest {
    // Both would say again what the message says by itself.
    let skip = |name: &HeaderName| *name == header::HOST || *name == header::CONTENT_LENGTH;
    let target = request.uri.path_and_query();
    pb::UserRequest {
        method: request.method.as_str().to_owned(),
        target: target.map_or("/", |target| target.as_str()).to_owned(),
        headers: write_headers(request.headers, skip),
        body: request.body.clone(),
    }
}

/// A body that keeps no other one in memory. All replies of a message share its memory; a large one may
/// wait for a client that doesn't take it, and must not hold the others' as well.
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
    // HTTP/2 keeps values of headers for as long as a connection lasts, to compress later ones: they must
    // not keep the message that they came with.
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
    fn requests_travel_without_what_frames_them() {
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
    fn answers_that_make_no_sense_are_none() {
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
        let settled = decode(&reply(503, good.clone())).unwrap();
        assert!(settled.extensions().get::<Settled>().is_some());
        assert!(decode(&reply(99, good.clone())).is_none());
        assert!(decode(&reply(70_000, good)).is_none());
        assert!(decode(&reply(200, Bytes::from_static(b"no headers"))).is_none());
    }
}
