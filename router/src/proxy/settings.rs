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
    /// Time for a request, over all attempts.
    pub request_timeout: Duration,
    /// Time for one attempt of a request that can be repeated.
    pub attempt_timeout: Duration,
    /// Time for a body to arrive, in addition to that for the request.
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
