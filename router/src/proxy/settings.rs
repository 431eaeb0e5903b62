//! Settings of forwarding.

use std::sync::Arc;
use std::time::Duration;

use cloudkv_common::server::MemoryBudget;
use http::HeaderValue;
use ipnet::IpNet;

use crate::config::Domain;

/// Settings of forwarding.
#[derive(Clone, Debug)]
pub(crate) struct ProxySettings {
    /// Domain of the public names.
    pub domain: Domain,
    /// Proxies whose forwarding headers are trusted.
    pub trusted_proxies: Vec<IpNet>,
    /// Time until a response begins, over all attempts.
    pub request_timeout: Duration,
    /// Time for one attempt of a request that can be repeated.
    pub attempt_timeout: Duration,
    /// Time for a body to arrive before the response begins, in addition to that for the request.
    pub body_deadline: Duration,
    /// Maximum bytes of a body that are buffered for retries.
    pub retry_buffer_bytes: usize,
    /// Memory for all bodies that are buffered for retries.
    pub retry_memory: Arc<MemoryBudget>,
    /// Maximum number of connections to one node.
    pub max_node_connections: usize,
    /// Region of the router.
    pub home_region: HeaderValue,
}

#[cfg(test)]
impl ProxySettings {
    /// Creates settings for tests of single requests.
    pub(super) fn for_tests() -> Self {
        Self {
            domain: Domain::parse("cloudkv.io").unwrap(),
            trusted_proxies: vec![],
            request_timeout: Duration::from_secs(15),
            attempt_timeout: Duration::from_secs(3),
            body_deadline: Duration::from_secs(120),
            retry_buffer_bytes: 64 << 10,
            retry_memory: Arc::new(MemoryBudget::new(1 << 20)),
            max_node_connections: 10,
            home_region: HeaderValue::from_static("eu"),
        }
    }
}
