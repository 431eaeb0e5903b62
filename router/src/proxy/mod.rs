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

mod forward;
mod forwarding_headers;
mod metrics;
mod refusal;
mod relay;
mod request_head;
mod retry_budget;

use std::sync::Arc;
use std::time::{Duration, Instant};

use arc_swap::ArcSwapOption;
use cloudkv_common::network::Network;
use cloudkv_common::server::request_id::{self, X_REQUEST_ID};
use cloudkv_common::server::{
    ConnectionMetrics, MemoryBudget, RequestBody, RequestHandler, RequestOrigin, check_head,
};
use http::{HeaderValue, Method, Request, Response};

pub(crate) use metrics::ProxyMetrics;
pub(crate) use relay::ResponseBody;
pub(crate) use retry_budget::RetryBudget;

use crate::config::Domain;
use crate::topology::TopologyView;
use refusal::Refusal;
use request_head::RequestHead;

/// Settings of forwarding.
#[derive(Clone, Debug)]
pub(crate) struct ProxySettings {
    /// Domain of the public names.
    pub domain: Domain,
    /// Proxies whose forwarding headers are trusted.
    pub trusted_proxies: Vec<Network>,
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

/// Forwards requests; there is one per thread that serves users.
pub(crate) struct Proxy {
    worker: usize,
    view: Arc<ArcSwapOption<TopologyView>>,
    settings: Arc<ProxySettings>,
    retry_budget: Arc<RetryBudget>,
    metrics: Arc<ProxyMetrics>,
    connections: Arc<ConnectionMetrics>,
}

/// State shared by all threads that serve users.
#[derive(Clone)]
pub(crate) struct SharedState {
    /// Current topology.
    pub view: Arc<ArcSwapOption<TopologyView>>,
    /// Settings of forwarding.
    pub settings: Arc<ProxySettings>,
    /// Metrics of requests.
    pub metrics: Arc<ProxyMetrics>,
    /// Metrics of users' connections.
    pub connections: Arc<ConnectionMetrics>,
}

impl Proxy {
    /// Creates the proxy of one thread, with its retry budget.
    pub(crate) fn new(worker: usize, shared: SharedState, retry_budget: Arc<RetryBudget>) -> Self {
        Self {
            worker,
            view: shared.view,
            settings: shared.settings,
            retry_budget,
            metrics: shared.metrics,
            connections: shared.connections,
        }
    }

    /// Validates a request and determines its destination.
    fn parse(
        &self,
        request: Request<RequestBody>,
        id: &HeaderValue,
        origin: &RequestOrigin,
    ) -> Result<ParsedRequest, Refusal> {
        check_head(&request).map_err(Refusal::invalid_head)?;
        let view = self.view.load_full().ok_or_else(Refusal::no_topology)?;
        let (parts, body) = request.into_parts();
        let head = RequestHead::new(parts, id, origin, &self.settings, &view)?;
        Ok(ParsedRequest { view, head, body })
    }
}

/// A request that can be forwarded.
struct ParsedRequest {
    view: Arc<TopologyView>,
    head: RequestHead,
    body: RequestBody,
}

impl RequestHandler for Proxy {
    type Body = ResponseBody;

    // Futures are moved as a whole before they are polled. This one doesn't hold the request, since
    // everything that doesn't wait is done before the future is created.
    fn handle(
        &self,
        request: Request<RequestBody>,
        origin: RequestOrigin,
    ) -> impl Future<Output = Response<ResponseBody>> + Send {
        let started = Instant::now();
        let id = request_id::from_client(request.headers())
            .unwrap_or_else(|| request_id::generate(origin.connection, origin.request));
        let is_bodiless = request.method() == Method::HEAD;
        let parsed = self.parse(request, &id, &origin);
        async move {
            let outcome = match parsed {
                Ok(ParsedRequest { view, head, body }) => {
                    self.forward(&view, &head, body, &origin).await
                }
                Err(refusal) => Err(refusal),
            };
            let mut response = outcome.unwrap_or_else(|refusal| {
                tracing::debug!(?id, code = refusal.code(), "request refused");
                self.metrics.refusals.increment();
                refusal.into_response(self.settings.home_region.clone(), is_bodiless)
            });
            if !response.headers().contains_key(&X_REQUEST_ID) {
                response.headers_mut().insert(&X_REQUEST_ID, id);
            }
            self.metrics
                .record_response(response.status(), started.elapsed());
            response
        }
    }

    fn overloaded(&self, id: HeaderValue) -> Response<ResponseBody> {
        let refusal = Refusal::overloaded();
        self.metrics.refusals.increment();
        let mut response = refusal.into_response(self.settings.home_region.clone(), false);
        response.headers_mut().insert(&X_REQUEST_ID, id);
        response
    }

    fn connections(&self) -> &Arc<ConnectionMetrics> {
        &self.connections
    }
}
