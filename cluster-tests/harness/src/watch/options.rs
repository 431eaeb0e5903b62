//! What a [`WatchClient`](super::WatchClient) is to do, and what it has seen.

use std::net::SocketAddr;
use std::time::Duration;

use super::bucket_copy::BucketCopy;
use crate::http::Bucket;

/// Options of a client.
#[derive(Clone, Debug)]
pub struct WatchOptions {
    /// Nodes or routers: each connection goes to the next one.
    pub addresses: Vec<SocketAddr>,
    /// The bucket.
    pub bucket: Bucket,
    /// Prefix of the watched keys.
    pub prefix: String,
    /// The only watched key, by a path of its own; `prefix` is ignored then.
    pub key: Option<String>,
    /// True if the request has `initial=true`: else the client lists the bucket itself.
    pub is_initial: bool,
    /// True if the request has `values=true`.
    pub has_values: bool,
    /// Position to start from, and the copy of the bucket that belongs to it, as of an export.
    pub since: Option<(String, BucketCopy)>,
    /// True for HTTP/2 from the first byte.
    pub is_http2: bool,
    /// Headers of each request, as `api-key` and `host`.
    pub headers: Vec<(String, String)>,
    /// Maximum time before the client reconnects, if its server names a longer one. Without this,
    /// most of a test's time would be spent waiting.
    pub max_retry: Duration,
    /// Pause after each event, for slow readers.
    pub read_pause: Duration,
    /// Statuses after which the client tries again. None, for an `EventSource`.
    pub retried_statuses: Vec<u16>,
}

impl WatchOptions {
    /// Returns the options of a client that watches all keys without their values, and lists the
    /// bucket itself.
    pub fn new(addresses: &[SocketAddr], bucket: &Bucket) -> Self {
        Self {
            addresses: addresses.to_vec(),
            bucket: bucket.clone(),
            prefix: String::new(),
            key: None,
            is_initial: false,
            has_values: false,
            since: None,
            is_http2: false,
            headers: vec![],
            max_retry: Duration::from_millis(100),
            read_pause: Duration::ZERO,
            retried_statuses: vec![],
        }
    }
}

/// Numbers of what a client has seen.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct WatchCounts {
    /// Streams that began.
    pub streams: u64,
    /// Streams that ended as their server wished.
    pub ends: u64,
    /// Streams that broke.
    pub breaks: u64,
    /// Requests without a response, or with one of [`WatchOptions::retried_statuses`].
    pub failed_requests: u64,
    /// `put` events.
    pub puts: u64,
    /// `delete` events.
    pub deletes: u64,
    /// `expire` events.
    pub expiries: u64,
    /// `ready` events.
    pub readies: u64,
    /// `reset` events.
    pub resets: u64,
    /// Lists of the bucket.
    pub lists: u64,
}
