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

/// What the requests of one connection share.
pub(crate) struct Session<A> {
    pub(crate) answers: Arc<A>,
    pub(crate) settings: Arc<HttpSettings>,
    pub(crate) connection: u32,
    pub(crate) peer: SocketAddr,
    pub(crate) encrypted: bool,
    pub(crate) pulse: Arc<Pulse>,
    pub(crate) unread: Arc<Unread>,
    /// Set while the server is about to stop.
    pub(crate) closing: Arc<AtomicBool>,
    /// The answers that wait.
    pub(crate) account: Arc<Account>,
    /// Who the connection counts for.
    pub(crate) caller: Caller,
}

/// Who a connection counts for.
pub(crate) struct Caller {
    /// The address that it counts for; none for a proxy that is believed.
    address: Option<Arc<Address>>,
    place: Mutex<Option<Place>>,
    /// Whether it is a router of the cluster: that has counted its own callers.
    is_router: AtomicBool,
}

impl Caller {
    /// An address, with its connection's place.
    pub(crate) fn address(address: Arc<Address>, place: Place) -> Self {
        Self {
            address: Some(address),
            place: Mutex::new(Some(place)),
            is_router: AtomicBool::new(false),
        }
    }

    /// A proxy that the operator trusts to say for whom it asks.
    pub(crate) fn proxy() -> Self {
        Self {
            address: None,
            place: Mutex::default(),
            is_router: AtomicBool::new(false),
        }
    }

    /// Whether it counts for an address.
    pub(crate) fn is_address(&self) -> bool {
        self.address.is_some()
    }

    /// It turned out to be a router.
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
    /// Answers one request, and says so if the connection ends with it.
    pub(crate) fn serve(
        self: Arc<Self>,
        request: Request<Incoming>,
    ) -> impl Future<Output = Result<Response<Outbound<A::Body>>, Infallible>> + Send {
        let http1 = request.version() < Version::HTTP_2;
        let waits = http1 && request.headers().contains_key(EXPECT);
        let request = request.map(|body| {
            if http1 {
                RequestBody::http1(body, &self.unread)
            } else {
                RequestBody::http2(body)
            }
        });
        // A block holds what it is given once, an `async fn` twice; and hyper moves it around.
        async move {
            let (_running, number) = self.pulse.begin();
            if number == 0 {
                self.recognise(&request);
            }
            let Ok(_under_way) = self.count(&request, http1) else {
                return Ok(self.refuse(request, number, waits).await);
            };
            let reads = matches!(*request.method(), Method::GET | Method::HEAD);
            let expected = if http1 || !reads {
                None
            } else {
                match self.account.try_expect() {
                    Some(expected) => Some(expected),
                    None => Some(Box::pin(self.account.expect()).await),
                }
            };
            if expected.is_some() && !self.account.is_worth_reading() {
                return Ok(self.refuse(request, number, waits).await);
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
                self.close(&mut response, waits).await;
            } else {
                streams::answered();
            }
            let response = self.count_answer(response, http1, reads);
            drop(expected);
            Ok(response)
        }
    }

    /// Whether the connection is a router's, as its first request may tell.
    fn recognise(&self, request: &Request<RequestBody>) {
        let Some(token) = &self.settings.router_token else {
            return;
        };
        let local = self.peer.ip().to_canonical().is_loopback();
        if local && request.headers().get(&X_CLOUDKV_ROUTER) == Some(token) {
            self.caller.set_router();
        }
    }

    /// Counts a request for whose it is. Over HTTP/1.1 a connection counts for its one request, too.
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
                let known = &self.answers.connections().addresses;
                known.of(client).begin(self.settings.address_requests)
            }
        };
        counted.map(Some).ok_or(())
    }

    /// Says that there are too many requests.
    async fn refuse(
        &self,
        request: Request<RequestBody>,
        number: u32,
        waits: bool,
    ) -> Response<Outbound<A::Body>> {
        let id = request_id::of_client(request.headers())
            .unwrap_or_else(|| request_id::generate(self.connection, number));
        let http1 = request.version() < Version::HTTP_2;
        drop(request);
        self.answers.connections().refused_request();
        let mut response = self.answers.overloaded(id);
        if http1 {
            self.close(&mut response, waits).await;
        }
        response.map(Outbound::free)
    }

    /// Says over HTTP/1 if the connection ends with an answer: since the request's body was left
    /// unread, or the server is about to stop.
    async fn close(&self, response: &mut Response<A::Body>, waits: bool) {
        let left = self.unread.is_left(waits).await;
        if left {
            self.pulse.will_linger();
        }
        if left || self.closing.load(Ordering::Relaxed) {
            response
                .headers_mut()
                .insert(CONNECTION, HeaderValue::from_static("close"));
        }
    }

    /// Counts what waits of an answer. One that doesn't fit is refused, if it only `reads`.
    fn count_answer(
        &self,
        response: Response<A::Body>,
        http1: bool,
        reads: bool,
    ) -> Response<Outbound<A::Body>> {
        if response.body().is_end_stream() {
            return response.map(Outbound::free);
        }
        let Some(bytes) = response.body().size_hint().exact() else {
            let account = Arc::clone(&self.account);
            return response.map(|body| Outbound::coming(body, account, !http1));
        };
        let bytes = usize::try_from(bytes).unwrap_or(usize::MAX);
        if http1 && bytes <= FREE_BYTES {
            return response.map(Outbound::free);
        }
        self.account.note(bytes);
        match self.account.hold(bytes, !reads) {
            Some(hold) => response.map(|body| Outbound::whole(body, hold, !http1)),
            None => self.overloaded(&response),
        }
    }

    /// Says that too many answers wait, in place of one that does not fit.
    fn overloaded(&self, response: &Response<A::Body>) -> Response<Outbound<A::Body>> {
        self.answers.connections().refused_request();
        let id = response.headers().get(&X_REQUEST_ID).cloned();
        let id = id.unwrap_or_else(|| request_id::generate(self.connection, 0));
        self.answers.overloaded(id).map(Outbound::free)
    }
}
