//! Handles users' requests: parses, forwards and counts each.

use std::sync::Arc;
use std::time::Instant;

use arc_swap::ArcSwapOption;
use cloudkv_common::server::request_id::{self, X_REQUEST_ID};
use cloudkv_common::server::{
    ConnectionMetrics, RequestBody, RequestHandler, RequestOrigin, check_head,
};
use http::{HeaderValue, Method, Request, Response};

use super::forward::Forwarder;
use super::metrics::ProxyMetrics;
use super::refusal::Refusal;
use super::relay::ResponseBody;
use super::request_head::RequestHead;
use super::retry_budget::RetryBudget;
use super::settings::ProxySettings;
use crate::topology::TopologyView;

/// Forwards requests; there is one per thread that serves users.
pub(crate) struct Proxy {
    view: Arc<ArcSwapOption<TopologyView>>,
    settings: Arc<ProxySettings>,
    metrics: Arc<ProxyMetrics>,
    connections: Arc<ConnectionMetrics>,
    forwarder: Forwarder,
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
        let forwarder = Forwarder {
            worker,
            settings: shared.settings.clone(),
            retry_budget,
            metrics: shared.metrics.clone(),
        };
        Self {
            view: shared.view,
            settings: shared.settings,
            metrics: shared.metrics,
            connections: shared.connections,
            forwarder,
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
                    self.forwarder.forward(&view, &head, body, &origin).await
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
