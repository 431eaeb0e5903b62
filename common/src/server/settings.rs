//! Bounds of the public port.

use std::sync::Arc;
use std::time::Duration;

use http::HeaderValue;

use crate::server::client_addresses::ClientAddress;
use crate::server::memory_budget::MemoryBudget;
use ipnet::IpNet;

/// Limits and timeouts of the public port. The defaults suit a node of a few gigabytes.
#[derive(Clone, Debug)]
pub struct HttpSettings {
    /// Maximum number of open connections; beyond it, new ones are answered 503 and closed.
    pub max_connections: usize,
    /// Maximum number of open connections of one address, where IPv6 addresses that share their
    /// first 64 bits count as one; never more than half of `max_connections`.
    pub max_address_connections: usize,
    /// Maximum number of requests of one address that are under way.
    pub max_address_requests: usize,
    /// Proxies whose forwarding headers are trusted: they aren't limited as addresses are.
    pub trusted_proxies: Arc<[IpNet]>,
    /// Value of `X-CloudKV-Router` by which routers of the cluster on this machine are recognized,
    /// where they have no certificates.
    pub router_token: Option<HeaderValue>,
    /// Maximum time to receive a request's head, from its first byte on.
    pub header_timeout: Duration,
    /// Maximum time that a connection stays open without a request.
    pub idle_timeout: Duration,
    /// Maximum time that a response waits for a client that takes no byte of it.
    pub write_timeout: Duration,
    /// Memory for pending responses, over HTTP/1.1 for those of more than 16 KiB. All clones share
    /// it.
    pub response_memory: Arc<MemoryBudget>,
    /// Maximum bytes of pending responses on one HTTP/2 connection, beyond which it begins no more
    /// reads.
    pub max_connection_response_bytes: usize,
    /// Maximum time that a request's body makes no progress.
    pub body_timeout: Duration,
    /// Maximum time to receive a request's body.
    pub body_deadline: Duration,
    /// Minimum bytes per second of a request's body, once `body_timeout` has passed; 0: no minimum.
    pub min_body_rate: usize,
    /// Memory for bodies of more than 16 KiB that are being received, in bytes.
    pub body_memory_bytes: usize,
    /// Time at shutdown during which connections are still accepted, with responses that ask
    /// clients to close them: so routers and load balancers can switch to other nodes.
    pub lame_duck: Duration,
    /// Set if connections are accepted during that time, too; else they wait for the next server
    /// of the listener.
    pub accepts_in_lame_duck: bool,
    /// Maximum time for requests under way after that, before their connections are cut.
    pub drain_timeout: Duration,
    /// Maximum length of request line and headers of HTTP/1.1, in bytes. At least 8192.
    pub max_head_bytes: usize,
    /// Maximum number of concurrent requests on one HTTP/2 connection.
    pub max_streams: u32,
    /// Maximum length of the headers of an HTTP/2 request, in bytes.
    pub max_header_list_bytes: u32,
    /// Interval of pings on an HTTP/2 connection, and the maximum wait for each response to one.
    pub keep_alive_interval: Duration,
}

impl Default for HttpSettings {
    fn default() -> Self {
        Self {
            max_connections: 10_000,
            max_address_connections: 1000,
            max_address_requests: 4000,
            trusted_proxies: Arc::default(),
            router_token: None,
            header_timeout: Duration::from_secs(10),
            idle_timeout: Duration::from_secs(60),
            write_timeout: Duration::from_secs(30),
            response_memory: Arc::new(MemoryBudget::new(64 << 20)),
            max_connection_response_bytes: 1 << 20,
            body_timeout: Duration::from_secs(10),
            body_deadline: Duration::from_secs(120),
            min_body_rate: 1024,
            body_memory_bytes: 64 << 20,
            lame_duck: Duration::from_millis(500),
            accepts_in_lame_duck: true,
            drain_timeout: Duration::from_secs(20),
            max_head_bytes: 32 << 10,
            max_streams: 256,
            max_header_list_bytes: 32 << 10,
            keep_alive_interval: Duration::from_secs(20),
        }
    }
}

impl HttpSettings {
    /// Returns the number of connections that an address may have.
    pub(crate) fn connection_limit_of(&self, address: &ClientAddress) -> usize {
        let half = (self.max_connections / 2).max(1);
        if address.has_router() {
            half
        } else {
            self.max_address_connections.min(half)
        }
    }
}
