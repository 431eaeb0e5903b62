//! State of the handlers of buckets.

use std::sync::Arc;

use ipnet::IpNet;

use crate::api::buckets::creation_limiter::CreationLimiter;
use crate::api::http::receive::BodyReader;
use crate::service::Directory;

/// State of the handlers of buckets.
#[derive(Clone)]
pub(crate) struct BucketsState {
    pub(crate) directory: Directory,
    pub(crate) body_reader: Arc<BodyReader>,
    pub(crate) creation_limiter: Arc<CreationLimiter>,
    /// Proxies that are trusted to name the client of a request.
    pub(crate) trusted_proxies: Arc<[IpNet]>,
}
