//! State of the handlers of buckets.

use std::sync::Arc;

use ipnet::IpNet;

use crate::api::buckets::creation_limiter::CreationLimiter;
use crate::api::buckets::transfer_permits::TransferPermits;
use crate::api::http::receive::BodyReader;
use crate::api::metrics::ApiMetrics;
use crate::service::{Directory, Service};

/// State of the handlers of buckets.
#[derive(Clone)]
pub(crate) struct BucketsState {
    pub(crate) service: Service,
    pub(crate) directory: Directory,
    pub(crate) body_reader: Arc<BodyReader>,
    pub(crate) creation_limiter: Arc<CreationLimiter>,
    /// Proxies that are trusted to name the client of a request.
    pub(crate) trusted_proxies: Arc<[IpNet]>,
    /// A permit for each export that may run.
    pub(crate) export_permits: TransferPermits,
    /// A permit for each import that may run.
    pub(crate) import_permits: TransferPermits,
    pub(crate) metrics: Arc<ApiMetrics>,
}
