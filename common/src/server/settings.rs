//! The bounds of the public port.

use std::sync::Arc;
use std::time::Duration;

use http::HeaderValue;

use crate::network::Network;
use crate::server::addresses::Address;
use crate::server::memory::Memory;

/// Limits and times of the public port. The defaults suit a node of a few gigabytes.
#[derive(Clone, Debug)]
pub struct HttpSettings {
    /// Open connections; beyond it, new ones are answered 503 and closed.
    pub max_connections: usize,
    /// Open connections of one address, an IPv6 address with all that share its first 64 bits; never more
    /// than half of `max_connections`.
    pub address_connections: usize,
    /// Requests of one address that are under way.
    pub address_requests: usize,
    /// Proxies that are believed for whom they ask: they aren't limited as addresses are.
    pub trusted: Arc<[Network]>,
    /// What routers of the cluster on this machine carry in `X-CloudKV-Router`, where they have no
    /// certificates.
    pub router_token: Option<HeaderValue>,
    /// How long a request's head may take from its first byte on.
    pub header_timeout: Duration,
    /// How long a connection may stay open without a request.
    pub idle_timeout: Duration,
    /// How long an answer may wait for a client that takes no byte of it.
    pub write_timeout: Duration,
    /// Memory for answers that wait, over HTTP/1.1 of those of more than 16 KiB. All clones share it.
    pub answer_memory: Arc<Memory>,
    /// Bytes of answers that may wait on one HTTP/2 connection before it begins no more reads.
    pub connection_answers: usize,
    /// How long a request's body may make no progress.
    pub body_timeout: Duration,
    /// How long a request's body may take in all.
    pub body_deadline: Duration,
    /// Bytes a second that a request's body brings at least, once `body_timeout` has passed; 0: any.
    pub body_rate: usize,
    /// Memory for bodies of more than 16 KiB that are being read, in bytes.
    pub body_memory: usize,
    /// How long, at shutdown, connections are still accepted, with answers that ask clients to
    /// close them: time for routers and load balancers to turn elsewhere.
    pub lame_duck: Duration,
    /// How long requests may go on after that, before their connections are cut.
    pub drain_timeout: Duration,
    /// Longest request line and headers of HTTP/1.1, in bytes. At least 8192.
    pub max_head_bytes: usize,
    /// Concurrent requests on one HTTP/2 connection.
    pub max_streams: u32,
    /// Longest headers of an HTTP/2 request, in bytes.
    pub max_header_list: u32,
    /// How often an HTTP/2 connection is asked whether it is alive, and how long it may take.
    pub keep_alive: Duration,
}

impl Default for HttpSettings {
    fn default() -> Self {
        Self {
            max_connections: 10_000,
            address_connections: 1000,
            address_requests: 4000,
            trusted: Arc::default(),
            router_token: None,
            header_timeout: Duration::from_secs(10),
            idle_timeout: Duration::from_secs(60),
            write_timeout: Duration::from_secs(30),
            answer_memory: Arc::new(Memory::new(64 << 20)),
            connection_answers: 1 << 20,
            body_timeout: Duration::from_secs(10),
            body_deadline: Duration::from_secs(120),
            body_rate: 1024,
            body_memory: 64 << 20,
            lame_duck: Duration::from_millis(500),
            drain_timeout: Duration::from_secs(20),
            max_head_bytes: 32 << 10,
            max_streams: 256,
            max_header_list: 32 << 10,
            keep_alive: Duration::from_secs(20),
        }
    }
}

impl HttpSettings {
    /// Connections that an address may have.
    pub(crate) fn connections_of(&self, address: &Address) -> usize {
        let half = (self.max_connections / 2).max(1);
        if address.hosts_router() {
            half
        } else {
            self.address_connections.min(half)
        }
    }
}
