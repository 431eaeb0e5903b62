//! The requests of one connection, as hyper hands them over.

use std::convert::Infallible;
use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use http::header::{CONNECTION, CONTENT_TYPE, EXPECT};
use http::{HeaderValue, Method, Request, Response, Version};
use http_body::Body as _;
use hyper::body::Incoming;
use parking_lot::Mutex;

use crate::event_stream;
use crate::server::client_addresses::{ClientAddress, ConnectionSlot, RequestPermit};
use crate::server::conn::body::{RequestBody, UnreadBody};
use crate::server::conn::h2_streams;
use crate::server::conn::response_body::ResponseBody;
use crate::server::conn::response_budget::{ResponseBudget, UNCOUNTED_BYTES};
use crate::server::conn::state::ConnectionState;
use crate::server::forwarded::{X_CLOUDKV_ROUTER, client_address};
use crate::server::handler::{RequestHandler, RequestOrigin};
use crate::server::request_id::{self, X_REQUEST_ID};
use crate::server::settings::HttpSettings;

/// State that the requests of one connection share.
pub(crate) struct HttpSession<A> {
    pub(crate) handler: Arc<A>,
    pub(crate) settings: Arc<HttpSettings>,
    pub(crate) connection: u32,
    pub(crate) peer: SocketAddr,
    pub(crate) is_encrypted: bool,
    pub(crate) state: Arc<ConnectionState>,
    pub(crate) unread: Arc<UnreadBody>,
    /// Set while the server shuts down.
    pub(crate) is_closing: Arc<AtomicBool>,
    /// Budget of the pending responses.
    pub(crate) response_budget: Arc<ResponseBudget>,
    /// Client for which the connection counts.
    pub(crate) owner: ConnectionOwner,
}

/// Client for which a connection counts.
pub(crate) struct ConnectionOwner {
    /// Address for which it counts; none for a trusted proxy.
    address: Option<Arc<ClientAddress>>,
    slot: Mutex<Option<ConnectionSlot>>,
    /// Set if it is a router of the cluster, which limits its clients itself.
    is_router: AtomicBool,
}

impl ConnectionOwner {
    /// Creates the owner of an address's connection, with its slot.
    pub(crate) fn for_address(address: Arc<ClientAddress>, slot: ConnectionSlot) -> Self {
        Self {
            address: Some(address),
            slot: Mutex::new(Some(slot)),
            is_router: AtomicBool::new(false),
        }
    }

    /// Creates the owner of a connection of a trusted proxy, which forwards its clients' addresses.
    pub(crate) fn for_proxy() -> Self {
        Self {
            address: None,
            slot: Mutex::default(),
            is_router: AtomicBool::new(false),
        }
    }

    /// Returns whether it counts for an address.
    pub(crate) fn is_address(&self) -> bool {
        self.address.is_some()
    }

    /// Records that it is a router, whose connections don't count for its address.
    pub(crate) fn set_router(&self) {
        self.is_router.store(true, Ordering::Relaxed);
        if let Some(address) = &self.address {
            address.set_has_router();
        }
        *self.slot.lock() = None;
    }

    fn is_router(&self) -> bool {
        self.is_router.load(Ordering::Relaxed)
    }
}

impl<A: RequestHandler> HttpSession<A> {
    /// Answers one request, and announces it if the connection ends with the response.
    pub(crate) fn serve(
        self: Arc<Self>,
        request: Request<Incoming>,
    ) -> impl Future<Output = Result<Response<ResponseBody<A::Body>>, Infallible>> + Send {
        let http1 = request.version() < Version::HTTP_2;
        let expects_continue = http1 && request.headers().contains_key(EXPECT);
        let request = request.map(|body| {
            if http1 {
                RequestBody::http1(body, &self.unread)
            } else {
                RequestBody::http2(body)
            }
        });
        // A block stores its captures once, an `async fn` stores its arguments twice; and hyper
        // moves the future around.
        async move {
            let (_running, number) = self.state.begin_request();
            if number == 0 {
                self.detect_router(&request);
            }
            let Ok(permit) = self.count_request(&request, http1) else {
                return Ok(self.reject_request(request, number, expects_continue).await);
            };
            let is_read = matches!(*request.method(), Method::GET | Method::HEAD);
            let reservation = if http1 || !is_read {
                None
            } else {
                match self.response_budget.try_reserve() {
                    Some(reservation) => Some(reservation),
                    None => Some(Box::pin(self.response_budget.reserve()).await),
                }
            };
            if reservation.is_some() && !self.response_budget.may_fit_budget() {
                return Ok(self.reject_request(request, number, expects_continue).await);
            }
            let origin = RequestOrigin {
                connection: self.connection,
                request: number,
                peer: self.peer,
                is_encrypted: self.is_encrypted,
                is_router: self.owner.is_router(),
            };
            let mut response = self.handler.handle(request, origin).await;
            if http1 {
                self.set_connection_close(&mut response, expects_continue)
                    .await;
            } else {
                h2_streams::set_has_response();
            }
            let response = self.count_response(response, permit, http1, is_read);
            drop(reservation);
            Ok(response)
        }
    }

    /// Detects a router without certificates by its first request.
    fn detect_router(&self, request: &Request<RequestBody>) {
        let Some(token) = &self.settings.router_token else {
            return;
        };
        let local = self.peer.ip().to_canonical().is_loopback();
        if local && request.headers().get(&X_CLOUDKV_ROUTER) == Some(token) {
            self.owner.set_router();
        }
    }

    /// Counts a request for its client's address. Over HTTP/1.1 the connection's slot counts for
    /// its one request, too.
    fn count_request(
        &self,
        request: &Request<RequestBody>,
        http1: bool,
    ) -> Result<Option<RequestPermit>, ()> {
        let counted = match &self.owner.address {
            _ if self.owner.is_router() => return Ok(None),
            Some(_) if http1 => return Ok(None),
            Some(address) => address.begin_request(self.settings.max_address_requests),
            None => {
                let trusted = &self.settings.trusted_proxies;
                let peer = self.peer.ip();
                let client = client_address(peer, false, request.headers(), trusted);
                if client == peer.to_canonical() {
                    return Ok(None);
                }
                let addresses = &self.handler.connections().addresses;
                addresses
                    .get_or_insert(client)
                    .begin_request(self.settings.max_address_requests)
            }
        };
        counted.map(Some).ok_or(())
    }

    /// Rejects a request, since too many are under way.
    async fn reject_request(
        &self,
        request: Request<RequestBody>,
        number: u32,
        expects_continue: bool,
    ) -> Response<ResponseBody<A::Body>> {
        let id = request_id::from_client(request.headers())
            .unwrap_or_else(|| request_id::generate(self.connection, number));
        let http1 = request.version() < Version::HTTP_2;
        let is_event_stream =
            *request.method() == Method::GET && event_stream::is_requested(request.headers());
        drop(request);
        self.handler.connections().record_refused_request();
        let mut response = self.handler.overloaded(id, is_event_stream);
        if http1 {
            self.set_connection_close(&mut response, expects_continue)
                .await;
        }
        response.map(ResponseBody::uncounted)
    }

    /// Announces over HTTP/1 that the connection ends with a response, if the request's body was
    /// left unread, or the server shuts down. A body that is still being read counts as unread:
    /// when it turns out to be read to its end, or not, nothing can be announced any more.
    async fn set_connection_close(&self, response: &mut Response<A::Body>, expects_continue: bool) {
        let is_unread = self.unread.has_unread_bytes(expects_continue).await;
        if is_unread {
            self.state.set_linger();
        }
        if is_unread || self.is_closing.load(Ordering::Relaxed) {
            response
                .headers_mut()
                .insert(CONNECTION, HeaderValue::from_static("close"));
        }
    }

    /// Counts the bytes of a response. One that doesn't fit is rejected, if its request `is_read`.
    /// The request is under way until the end of a response of unknown length.
    fn count_response(
        &self,
        response: Response<A::Body>,
        request: Option<RequestPermit>,
        http1: bool,
        is_read: bool,
    ) -> Response<ResponseBody<A::Body>> {
        if response.body().is_end_stream() {
            return response.map(ResponseBody::uncounted);
        }
        let Some(bytes) = response.body().size_hint().exact() else {
            let budget = Arc::clone(&self.response_budget);
            return response.map(|body| ResponseBody::streaming(body, budget, request, !http1));
        };
        let bytes = usize::try_from(bytes).unwrap_or(usize::MAX);
        if http1 && bytes <= UNCOUNTED_BYTES {
            return response.map(ResponseBody::uncounted);
        }
        self.response_budget.record_size(bytes);
        match self.response_budget.acquire(bytes, !is_read) {
            Some(permit) => response.map(|body| ResponseBody::counted(body, permit, !http1)),
            None => self.reject_response(&response),
        }
    }

    /// Replaces a response that doesn't fit by one that says that too many are pending.
    fn reject_response(&self, response: &Response<A::Body>) -> Response<ResponseBody<A::Body>> {
        self.handler.connections().record_refused_request();
        let id = response.headers().get(&X_REQUEST_ID).cloned();
        let id = id.unwrap_or_else(|| request_id::generate(self.connection, 0));
        let media_type = response.headers().get(CONTENT_TYPE);
        let is_event_stream = media_type.is_some_and(|it| *it == event_stream::CONTENT_TYPE);
        let overloaded = self.handler.overloaded(id, is_event_stream);
        overloaded.map(ResponseBody::uncounted)
    }
}
