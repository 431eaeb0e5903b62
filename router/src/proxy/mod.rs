//! One request on its way through the router.
//!
//! | file | what it does |
//! | --- | --- |
//! | `head` | what a request asks for, and its head as it goes to a node |
//! | `hops` | headers that concern one connection, or that only trusted proxies may set |
//! | `deliver` | to which node, and to which one after that |
//! | `budget` | how much may be sent again |
//! | `relay` | the answer's body on its way back |
//! | `refusal` | answers of the router's own |
//! | `metrics` | what is counted |

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

/// How requests are passed on.
#[derive(Clone, Debug)]
pub struct ProxySettings {
    /// The domain of the names that users ask for.
    pub domain: Domain,
    /// Whose word on whom a request comes from is believed.
    pub trusted: Vec<Network>,
    /// Time for a request, all tries together.
    pub request_timeout: Duration,
    /// Time for a node to answer what can be asked again.
    pub retry_after: Duration,
    /// Time for a body to come, beside that for the request.
    pub body_deadline: Duration,
    /// Bytes of a body that are kept to be sent again.
    pub keep: usize,
    /// Memory for all that is kept so.
    pub retry_memory: Arc<Memory>,
    /// Connections to one node.
    pub node_connections: usize,
    /// Requests that may be sent again, of 100.
    pub retry_percent: u32,
    /// The region that the router is in.
    pub home: HeaderValue,
}

/// Passes requests on: one for each thread that serves users.
pub struct Proxy {
    worker: usize,
    view: Arc<ArcSwapOption<View>>,
    settings: Arc<ProxySettings>,
    budget: Arc<Budget>,
    metrics: Arc<ProxyMetrics>,
    connections: Arc<ConnectionMetrics>,
}

/// What all threads that serve users share.
#[derive(Clone)]
pub struct Shared {
    /// Where everything is.
    pub view: Arc<ArcSwapOption<View>>,
    /// How requests are passed on.
    pub settings: Arc<ProxySettings>,
    /// What is counted.
    pub metrics: Arc<ProxyMetrics>,
    /// Connections of users.
    pub connections: Arc<ConnectionMetrics>,
}

impl Proxy {
    /// The proxy of one thread, and what it may send again.
    pub fn new(worker: usize, shared: Shared, budget: Arc<Budget>) -> Self {
        Self {
            worker,
            view: shared.view,
            settings: shared.settings,
            budget,
            metrics: shared.metrics,
            connections: shared.connections,
        }
    }

    /// Reads what a request asks for.
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

/// A request that can be passed on.
struct Readable {
    view: Arc<View>,
    head: Head,
    body: RequestBody,
}

impl Answer for Proxy {
    type Body = Body;

    // Futures are moved as a whole before they are polled. This one doesn't hold the request, since what
    // doesn't wait is done before it begins.
    fn answer(
        &self,
        request: Request<RequestBody>,
        origin: Origin,
    ) -> impl Future<Output = Response<Body>> + Send {
        let began = Instant::now();
        let id = request_id::of_client(request.headers())
            .unwrap_or_else(|| request_id::generate(origin.connection, origin.request));
        let bodiless = request.method() == Method::HEAD;
        let read = self.read(request, &id, &origin);
        async move {
            let answered = match read {
                Ok(Readable { view, head, body }) => {
                    self.deliver(&view, &head, body, &origin).await
                }
                Err(refusal) => Err(refusal),
            };
            let mut response = answered.unwrap_or_else(|refusal| {
                tracing::debug!(?id, code = refusal.code(), "refused");
                self.metrics.refusals.increment();
                refusal.answer(self.settings.home.clone(), bodiless)
            });
            if !response.headers().contains_key(&X_REQUEST_ID) {
                response.headers_mut().insert(&X_REQUEST_ID, id);
            }
            self.metrics.answered(response.status(), began.elapsed());
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
