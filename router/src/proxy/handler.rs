//! Handles users' requests: parses, forwards and counts each.

use std::sync::Arc;
use std::time::Instant;

use arc_swap::ArcSwapOption;
use cloudkv_common::event_stream;
use cloudkv_common::server::request_id::{self, X_REQUEST_ID};
use cloudkv_common::server::{
    ConnectionMetrics, RequestBody, RequestHandler, RequestOrigin, check_head,
};
use http::header::CONTENT_TYPE;
use http::{HeaderValue, Method, Request, Response, StatusCode};

use super::event_streams::EventStreams;
use super::forward::Forwarder;
use super::metrics::ProxyMetrics;
use super::refusal::Refusal;
use super::relay::ResponseBody;
use super::request_head::RequestHead;
use super::request_kind::RequestKind;
use super::retry_budget::RetryBudget;
use super::settings::ProxySettings;
use crate::topology::TopologyView;

/// Forwards requests; there is one per thread that serves users.
pub(crate) struct Proxy {
    view: Arc<ArcSwapOption<TopologyView>>,
    settings: Arc<ProxySettings>,
    metrics: Arc<ProxyMetrics>,
    connections: Arc<ConnectionMetrics>,
    event_streams: EventStreams,
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
    /// Event streams that are relayed.
    pub event_streams: EventStreams,
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
            event_streams: shared.event_streams,
            forwarder,
        }
    }

    /// Validates a request of this kind and determines its destination.
    fn parse(
        &self,
        request: Request<RequestBody>,
        kind: RequestKind,
        id: &HeaderValue,
        origin: &RequestOrigin,
    ) -> Result<ParsedRequest, Refusal> {
        check_head(&request).map_err(Refusal::invalid_head)?;
        let view = self.view.load_full().ok_or_else(Refusal::no_topology)?;
        let (parts, body) = request.into_parts();
        let head = RequestHead::new(parts, kind, id, origin, &self.settings, &view)?;
        Ok(ParsedRequest { view, head, body })
    }

    /// Forwards the request for an event stream. A node that can't serve it now may say 503; any
    /// other response that is no event stream is relayed as it is.
    async fn forward_event_stream(
        &self,
        request: ParsedRequest,
        origin: &RequestOrigin,
    ) -> Result<Response<ResponseBody>, Refusal> {
        let stream = self.event_streams.begin()?;
        let ParsedRequest { view, head, body } = request;
        let forwarder = &self.forwarder;
        let response = forwarder.forward(&view, &head, body, origin).await?;
        if response.status() == StatusCode::SERVICE_UNAVAILABLE {
            return Err(Refusal::unavailable_node());
        }
        let media_type = response.headers().get(CONTENT_TYPE);
        let is_event_stream = media_type.is_some_and(|it| *it == event_stream::CONTENT_TYPE);
        Ok(if is_event_stream {
            response.map(|body| body.into_event_stream(stream))
        } else {
            response
        })
    }

    /// Builds the response to a refused request.
    fn refuse(
        &self,
        refusal: Refusal,
        kind: RequestKind,
        is_bodiless: bool,
    ) -> Response<ResponseBody> {
        self.metrics.refusals.increment();
        let region = self.settings.home_region.clone();
        if kind == RequestKind::EventStream {
            refusal.into_event_stream_response(region)
        } else {
            refusal.into_response(region, is_bodiless)
        }
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
        let kind = RequestKind::of(request.method(), request.uri().path(), request.headers());
        let parsed = self.parse(request, kind, &id, &origin);
        async move {
            let outcome = match parsed {
                Ok(request) if kind == RequestKind::EventStream => {
                    Box::pin(self.forward_event_stream(request, &origin)).await
                }
                Ok(ParsedRequest { view, head, body }) => {
                    self.forwarder.forward(&view, &head, body, &origin).await
                }
                Err(refusal) => Err(refusal),
            };
            let mut response = outcome.unwrap_or_else(|refusal| {
                tracing::debug!(?id, code = refusal.code(), "request refused");
                self.refuse(refusal, kind, is_bodiless)
            });
            if !response.headers().contains_key(&X_REQUEST_ID) {
                response.headers_mut().insert(&X_REQUEST_ID, id);
            }
            self.metrics
                .record_response(response.status(), started.elapsed());
            response
        }
    }

    fn overloaded(&self, id: HeaderValue, is_event_stream: bool) -> Response<ResponseBody> {
        let kind = if is_event_stream {
            RequestKind::EventStream
        } else {
            RequestKind::Plain
        };
        let mut response = self.refuse(Refusal::overloaded(), kind, false);
        response.headers_mut().insert(&X_REQUEST_ID, id);
        response
    }

    fn connections(&self) -> &Arc<ConnectionMetrics> {
        &self.connections
    }
}
