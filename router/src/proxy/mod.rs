//! Forwarding of a request to a node.
//!
//! | file | contents |
//! | --- | --- |
//! | `request_head` | region and shard of a request, and its head for a node |
//! | `forwarding_headers` | headers of one connection, or that only trusted proxies may set |
//! | `forward` | chooses the node, and the next one if that fails |
//! | `retry_budget` | bounds retries |
//! | `relay` | the response body on its way to the client |
//! | `refusal` | the router's own error responses |
//! | `metrics` | counters and histograms |

mod budget;
mod deliver;
mod head;
mod hops;
mod metrics;
mod refusal;
mod relay;

use std::sync::Arc;
use std::time::{Duration, Instant};

use arc_swap::ArcSwapOption;
use cloudkv_common::network::Network;
use cloudkv_common::server::request_id::{self, X_REQUEST_ID};
use cloudkv_common::server::{Answer, ConnectionMetrics, Memory, Origin, RequestBody, check_head};
use http::{HeaderValue, Method, Request, Response};

pub use budget::Budget;
pub use metrics::ProxyMetrics;
pub use relay::{Body, RelayError};

use crate::config::Domain;
use crate::topology::View;
use head::Head;
use refusal::Refusal;

/// Settings of forwarding.
#[derive(Clone, Debug)]
pub struct ProxySettings {
    /// Domain of the public names.
    pub domain: Domain,
    /// Proxies whose forwarding headers are trusted.
    pub trusted: Vec<Network>,
    /// Time for a request, over all attempts.
    pub request_timeout: Duration,
    /// Time for one attempt of a request that can be repeated.
    pub retry_after: Duration,
    /// Time for a body to arrive, in addition to that for the request.
    pub body_deadline: Duration,
    /// Maximum bytes of a body that are buffered for retries.
    pub keep: usize,
    /// Memory for all bodies that are buffered for retries.
    pub retry_memory: Arc<Memory>,
    /// Maximum number of connections to one node.
    pub node_connections: usize,
    /// Maximum share of requests that are retried, in percent.
    pub retry_percent: u32,
    /// Region of the router.
    pub home: HeaderValue,
}

/// Forwards requests; there is one per thread that serves users.
pub struct Proxy {
    worker: usize,
    view: Arc<ArcSwapOption<View>>,
    settings: Arc<ProxySettings>,
    budget: Arc<Budget>,
    metrics: Arc<ProxyMetrics>,
    connections: Arc<ConnectionMetrics>,
}

/// State shared by all threads that serve users.
#[derive(Clone)]
pub struct Shared {
    /// Current topology.
    pub view: Arc<ArcSwapOption<View>>,
    /// Settings of forwarding.
    pub settings: Arc<ProxySettings>,
    /// Metrics of requests.
    pub metrics: Arc<ProxyMetrics>,
    /// Metrics of users' connections.
    pub connections: Arc<ConnectionMetrics>,
}

impl Proxy {
    /// Creates the proxy of one thread, with its retry budget.
    pub fn new(worker: usize, shared: Shared, retry_budget: Arc<Budget>) -> Self {
        Self {
            worker,
            view: shared.view,
            settings: shared.settings,
            budget: retry_budget,
            metrics: shared.metrics,
            connections: shared.connections,
        }
    }

    /// Validates a request and determines its destination.
    fn read(
        &self,
        request: Request<RequestBody>,
        id: &HeaderValue,
        origin: &Origin,
    ) -> Result<Readable, Refusal> {
        check_head(&request).map_err(Refusal::head)?;
        let view = self.view.load_full().ok_or_else(Refusal::no_topology)?;
        let (parts, body) = request.into_parts();
        let head = Head::new(parts, id, origin, &self.settings, &view)?;
        Ok(Readable { view, head, body })
    }
}

/// A request that can be forwarded.
struct Readable {
    view: Arc<View>,
    head: Head,
    body: RequestBody,
}

impl Answer for Proxy {
    type Body = Body;

    // Futures are moved as a whole before they are polled. This one doesn't hold the request, since
    // everything that doesn't wait is done before the future is created.
    fn answer(
        &self,
        request: Request<RequestBody>,
        origin: Origin,
    ) -> impl Future<Output = Response<Body>> + Send {
        let started = Instant::now();
        let id = request_id::of_client(request.headers())
            .unwrap_or_else(|| request_id::generate(origin.connection, origin.request));
        let is_bodiless = request.method() == Method::HEAD;
        let parsed = self.read(request, &id, &origin);
        async move {
            let outcome = match parsed {
                Ok(Readable { view, head, body }) => {
                    self.deliver(&view, &head, body, &origin).await
                }
                Err(refusal) => Err(refusal),
            };
            let mut response = outcome.unwrap_or_else(|refusal| {
                tracing::debug!(?id, code = refusal.code(), "request refused");
                self.metrics.refusals.increment();
                refusal.answer(self.settings.home.clone(), is_bodiless)
            });
            if !response.headers().contains_key(&X_REQUEST_ID) {
                response.headers_mut().insert(&X_REQUEST_ID, id);
            }
            self.metrics.answered(response.status(), started.elapsed());
            response
        }
    }

    fn overloaded(&self, id: HeaderValue) -> Response<Body> {
        let refusal = Refusal::overloaded();
        self.metrics.refusals.increment();
        let mut response = refusal.answer(self.settings.home.clone(), false);
        response.headers_mut().insert(&X_REQUEST_ID, id);
        response
    }

    fn connections(&self) -> &Arc<ConnectionMetrics> {
        &self.connections
    }
}
