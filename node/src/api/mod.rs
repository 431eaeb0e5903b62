//! The public HTTP API.
//!
//! Users are strangers, so everything they send is bounded and checked here; behind this module
//! there are only names, limits and versions that make sense. The other way round, nothing behind
//! it knows HTTP: handlers extract, call [`crate::service`] once, and reply.
//!
//! ```text
//!            common/server            dispatch.rs
//!  socket ── accept, bound, drain ──► one request ──┬─ /kv/...  keys/     (ahead of axum, no boxes)
//!                                                   └─ the rest  buckets/  (axum routes)
//!                     http/: paths, queries, conditions, bodies, headers
//! ```
//!
//! Reading and writing keys is what the product is for, and a request for a key has a budget of
//! some microseconds. So those two go ahead of the router, their answers need no box, and what
//! all answers carry (see [`dispatch`]) is static or made once.

pub(crate) mod access;
mod buckets;
mod dispatch;
mod errors;
mod http;
mod keys;
mod metrics;
mod routes;
mod users;

use std::sync::Arc;

use arc_swap::ArcSwapOption;

use ::http::HeaderValue;
use ::http::header::InvalidHeaderValue;

pub use self::buckets::CreationSettings;
pub use self::errors::ApiError;
pub use self::metrics::{ApiMetrics, Class, RequestCount};
pub use cloudkv_common::server::{HttpSettings, serve};

use cloudkv_common::network::Network;

use self::buckets::{Creations, Management};
use self::http::receive::Intake;
use crate::service::Service;

/// The public API of one node: what its requests are answered from.
pub struct Api {
    service: Service,
    region: HeaderValue,
    lag: ArcSwapOption<HeaderValue>,
    intake: Arc<Intake>,
    router: axum::Router,
    trusted: Arc<[Network]>,
    metrics: Arc<ApiMetrics>,
}

impl Api {
    /// An API over a service. Fails if the region's name can't stand in a header.
    pub fn new(
        service: Service,
        region: &str,
        settings: &HttpSettings,
        creations: CreationSettings,
    ) -> Result<Self, InvalidHeaderValue> {
        let region = HeaderValue::from_str(region)?;
        let intake = Arc::new(Intake::new(settings));
        let router = routes::router(Management {
            directory: service.directory.clone(),
            intake: Arc::clone(&intake),
            creations: Arc::new(Creations::new(creations)),
            trusted: Arc::clone(&settings.trusted),
        });
        Ok(Self {
            service,
            region,
            lag: ArcSwapOption::empty(),
            intake,
            router,
            trusted: Arc::clone(&settings.trusted),
            metrics: Arc::default(),
        })
    }

    /// How long changes take from other regions, as answers tell; nothing while there are none.
    pub fn set_lag(&self, lag: &str) {
        let lag = HeaderValue::from_str(lag)
            .ok()
            .filter(|lag| !lag.is_empty());
        self.lag.store(lag.map(Arc::new));
    }

    /// What has been counted, for the exporter of metrics.
    pub fn metrics(&self) -> &Arc<ApiMetrics> {
        &self.metrics
    }
}
