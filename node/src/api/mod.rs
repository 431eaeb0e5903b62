//! The public HTTP API.
//!
//! Users are not trusted, so everything that they send is bounded and checked here; behind this
//! module there are only valid names, limits and versions. Conversely, nothing behind it knows
//! HTTP: handlers extract, call [`crate::service`] once, and reply.
//!
//! ```text
//!            common/server            dispatch.rs
//!  socket ── accept, bound, drain ──► one request ──┬─ /kv/...  keys/     (ahead of axum, no box)
//!                                                   └─ the rest  buckets/, openapi/  (axum routes)
//!                     http/: paths, queries, conditions, bodies, headers
//! ```
//!
//! Reading and writing keys is the purpose of the product, and a request for a key has a budget of
//! a few microseconds. So these requests are dispatched ahead of the axum router, their responses
//! need no box, and the headers of all responses (see [`dispatch`]) are static or built once.

pub(crate) mod access;
mod batch_limits;
mod buckets;
mod dispatch;
mod error_code;
mod errors;
#[cfg(any(test, feature = "fuzzing"))]
pub(crate) mod fuzzing;
mod http;
mod keys;
mod metrics;
mod metrics_export;
mod openapi;
mod router_requests;
mod routes;
mod starting;

use std::sync::Arc;

use arc_swap::ArcSwapOption;

use ::http::HeaderValue;
use ::http::header::InvalidHeaderValue;

pub(crate) use self::batch_limits::{BatchLimits, ConcurrencyLimits};
pub(crate) use self::buckets::CreationSettings;
pub(crate) use self::buckets::{FileImport, FileImportError, FileImportReport, KnownLines};
pub(crate) use self::buckets::{
    write_deletion as write_deletion_line, write_key as write_key_line,
};
pub(crate) use self::starting::StartingApi;
pub(crate) use cloudkv_common::server::HttpSettings;

use cloudkv_common::server::MemoryBudget;
use ipnet::IpNet;

use self::buckets::{BucketsState, CreationLimiter, TransferPermits};
use self::http::receive::BodyReader;
use self::metrics::ApiMetrics;
use crate::service::Service;

/// The public API of one node.
pub(crate) struct Api {
    service: Service,
    region: HeaderValue,
    replication_lag: ArcSwapOption<HeaderValue>,
    body_reader: Arc<BodyReader>,
    router: axum::Router,
    trusted_proxies: Arc<[IpNet]>,
    /// Memory for answers that clients haven't read yet.
    answer_memory: Arc<MemoryBudget>,
    batch_limits: BatchLimits,
    export_permits: TransferPermits,
    import_permits: TransferPermits,
    metrics: Arc<ApiMetrics>,
}

impl Api {
    /// Creates an API over a service. Fails if the region's name is no valid header value.
    pub(crate) fn new(
        service: Service,
        region: &str,
        settings: &HttpSettings,
        creations: CreationSettings,
        batch_limits: BatchLimits,
        concurrency_limits: ConcurrencyLimits,
    ) -> Result<Self, InvalidHeaderValue> {
        let region = HeaderValue::from_str(region)?;
        let intake = Arc::new(BodyReader::new(settings));
        let export_permits = TransferPermits::new(concurrency_limits.exports);
        let import_permits = TransferPermits::new(concurrency_limits.imports);
        let metrics: Arc<ApiMetrics> = Arc::default();
        let router = routes::router(BucketsState {
            service: service.clone(),
            directory: service.directory.clone(),
            body_reader: Arc::clone(&intake),
            creation_limiter: Arc::new(CreationLimiter::new(creations)),
            trusted_proxies: Arc::clone(&settings.trusted_proxies),
            export_permits: export_permits.clone(),
            import_permits: import_permits.clone(),
            metrics: Arc::clone(&metrics),
        });
        Ok(Self {
            service,
            region,
            replication_lag: ArcSwapOption::empty(),
            body_reader: intake,
            router,
            trusted_proxies: Arc::clone(&settings.trusted_proxies),
            answer_memory: Arc::clone(&settings.response_memory),
            batch_limits,
            export_permits,
            import_permits,
            metrics,
        })
    }

    /// Sets the replication lag from other regions, as responses report it; empty: no header.
    pub(crate) fn set_replication_lag(&self, lag: &str) {
        let lag = HeaderValue::from_str(lag)
            .ok()
            .filter(|lag| !lag.is_empty());
        self.replication_lag.store(lag.map(Arc::new));
    }
}
