//! The requests of one connection, as hyper hands them over.

use std::convert::Infallible;
use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use http::header::{CONNECTION, EXPECT};
use http::{HeaderValue, Method, Request, Response, Version};
use http_body::Body as _;
use hyper::body::Incoming;
use parking_lot::Mutex;

use crate::server::addresses::{Address, Place, UnderWay};
use crate::server::answer::{Answer, Origin};
use crate::server::conn::body::{RequestBody, Unread};
use crate::server::conn::held::{Account, FREE_BYTES};
use crate::server::conn::outbound::Outbound;
use crate::server::conn::pulse::Pulse;
use crate::server::conn::streams;
use crate::server::forwarded::{X_CLOUDKV_ROUTER, client_of};
use crate::server::request_id::{self, X_REQUEST_ID};
use crate::server::settings::HttpSettings;

/// State that the requests of one connection share.
pub(crate) struct Session<A> {
    pub(crate) answers: Arc<A>,
    pub(crate) settings: Arc<HttpSettings>,
    pub(crate) connection: u32,
    pub(crate) peer: SocketAddr,
    pub(crate) encrypted: bool,
    pub(crate) pulse: Arc<Pulse>,
    pub(crate) unread: Arc<Unread>,
    /// Set while the server shuts down.
    pub(crate) closing: Arc<AtomicBool>,
    /// Budget of the pending responses.
    pub(crate) account: Arc<Account>,
    /// Client for which the connection counts.
    pub(crate) caller: Caller,
}

/// Client for which a connection counts.
pub(crate) struct Caller {
    /// Address for which it counts; none for a trusted proxy.
    address: Option<Arc<Address>>,
    place: Mutex<Option<Place>>,
    /// Set if it is a router of the cluster, which limits its clients itself.
    is_router: AtomicBool,
}

impl Caller {
    /// Creates the owner of an address's connection, with its slot.
    pub(crate) fn address(address: Arc<Address>, slot: Place) -> Self {
        Self {
            address: Some(address),
            place: Mutex::new(Some(slot)),
            is_router: AtomicBool::new(false),
        }
    }

    /// Creates the owner of a connection of a trusted proxy, which forwards its clients' addresses.
    pub(crate) fn proxy() -> Self {
        Self {
            address: None,
            place: Mutex::default(),
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
            address.set_hosts_router();
        }
        *self.place.lock() = None;
    }

    fn is_router(&self) -> bool {
        self.is_router.load(Ordering::Relaxed)
    }
}

impl<A: Answer> Session<A> {
    /// Answers one request, and announces it if the connection ends with the response.
    pub(crate) fn serve(
        self: Arc<Self>,
        request: Request<Incoming>,
    ) -> impl Future<Output = Result<Response<Outbound<A::Body>>, Infallible>> + Send {
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
            let (_running, number) = self.pulse.begin();
            if number == 0 {
                self.recognise(&request);
            }
            let Ok(_permit) = self.count(&request, http1) else {
                return Ok(self.refuse(request, number, expects_continue).await);
            };
            let is_read = matches!(*request.method(), Method::GET | Method::HEAD);
            let reservation = if http1 || !is_read {
                None
            } else {
                match self.account.try_expect() {
                    Some(reservation) => Some(reservation),
                    None => Some(Box::pin(self.account.expect()).await),
                }
            };
            if reservation.is_some() && !self.account.is_worth_reading() {
                return Ok(self.refuse(request, number, expects_continue).await);
            }
            let origin = Origin {
                connection: self.connection,
                request: number,
                peer: self.peer,
                encrypted: self.encrypted,
                is_router: self.caller.is_router(),
            };
            let mut response = self.answers.answer(request, origin).await;
            if http1 {
                self.close(&mut response, expects_continue).await;
            } else {
                streams::answered();
            }
            let response = self.count_answer(response, http1, is_read);
            drop(reservation);
            Ok(response)
        }
    }

    /// Detects a router without certificates by its first request.
    fn recognise(&self, request: &Request<RequestBody>) {
        let Some(token) = &self.settings.router_token else {
            return;
        };
        let local = self.peer.ip().to_canonical().is_loopback();
        if local && request.headers().get(&X_CLOUDKV_ROUTER) == Some(token) {
            self.caller.set_router();
        }
    }

    /// Counts a request for its client's address. Over HTTP/1.1 the connection's slot counts for
    /// its one request, too.
    fn count(&self, request: &Request<RequestBody>, http1: bool) -> Result<Option<UnderWay>, ()> {
        let counted = match &self.caller.address {
            _ if self.caller.is_router() => return Ok(None),
            Some(_) if http1 => return Ok(None),
            Some(address) => address.begin(self.settings.address_requests),
            None => {
                let trusted = &self.settings.trusted;
                let peer = self.peer.ip();
                let client = client_of(peer, false, request.headers(), trusted);
                if client == peer.to_canonical() {
                    return Ok(None);
                }
                let addresses = &self.answers.connections().addresses;
                addresses.of(client).begin(self.settings.address_requests)
            }
        };
        counted.map(Some).ok_or(())
    }

    /// Rejects a request, since too many are under way.
    async fn refuse(
        &self,
        request: Request<RequestBody>,
        number: u32,
        expects_continue: bool,
    ) -> Response<Outbound<A::Body>> {
        let id = request_id::of_client(request.headers())
            .unwrap_or_else(|| request_id::generate(self.connection, number));
        let http1 = request.version() < Version::HTTP_2;
        drop(request);
        self.answers.connections().refused_request();
        let mut response = self.answers.overloaded(id);
        if http1 {
            self.close(&mut response, expects_continue).await;
        }
        response.map(Outbound::free)
    }

    /// Announces over HTTP/1 that the connection ends with a response, if the request's body was
    /// left unread, or the server shuts down.
    async fn close(&self, response: &mut Response<A::Body>, expects_continue: bool) {
        let is_unread = self.unread.is_left(expects_continue).await;
        if is_unread {
            self.pulse.will_linger();
        }
        if is_unread || self.closing.load(Ordering::Relaxed) {
            response
                .headers_mut()
                .insert(CONNECTION, HeaderValue::from_static("close"));
        }
    }

    /// Counts the bytes of a response. One that doesn't fit is rejected, if its request `is_read`.
    fn count_answer(
        &self,
        response: Response<A::Body>,
        http1: bool,
        is_read: bool,
    ) -> Response<Outbound<A::Body>> {
        if response.body().is_end_stream() {
            return response.map(Outbound::free);
        }
        let Some(bytes) = response.body().size_hint().exact() else {
            let budget = Arc::clone(&self.account);
            return response.map(|body| Outbound::coming(body, budget, !http1));
        };
        let bytes = usize::try_from(bytes).unwrap_or(usize::MAX);
        if http1 && bytes <= FREE_BYTES {
            return response.map(Outbound::free);
        }
        self.account.note(bytes);
        match self.account.hold(bytes, !is_read) {
            Some(permit) => response.map(|body| Outbound::whole(body, permit, !http1)),
            None => self.overloaded(&response),
        }
    }

    /// Replaces a response that doesn't fit by one that says that too many are pending.
    fn overloaded(&self, response: &Response<A::Body>) -> Response<Outbound<A::Body>> {
        self.answers.connections().refused_request();
        let id = response.headers().get(&X_REQUEST_ID).cloned();
        let id = id.unwrap_or_else(|| request_id::generate(self.connection, 0));
        self.answers.overloaded(id).map(Outbound::free)
    }
}
