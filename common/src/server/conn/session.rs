//! The requests of one connection, as hyper hands them over.

use std::convert::Infallible;
use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use http::header::{CONNECTION, EXPECT};
use http::{HeaderValue, Request, Response, Version};
use hyper::body::Incoming;

use crate::server::answer::{Answer, Origin};
use crate::server::conn::body::{RequestBody, Unread};
use crate::server::conn::pulse::Pulse;

/// What the requests of one connection share.
pub(crate) struct Session<A> {
    pub(crate) answers: Arc<A>,
    pub(crate) connection: u32,
    pub(crate) peer: SocketAddr,
    pub(crate) encrypted: bool,
    pub(crate) pulse: Arc<Pulse>,
    pub(crate) unread: Arc<Unread>,
    /// Set while the server is about to stop.
    pub(crate) closing: Arc<AtomicBool>,
}

impl<A: Answer> Session<A> {
    /// Answers one request, and says so if the connection ends with it.
    pub(crate) fn serve(
        self: Arc<Self>,
        request: Request<Incoming>,
    ) -> impl Future<Output = Result<Response<A::Body>, Infallible>> + Send {
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
            let origin = Origin {
                connection: self.connection,
                request: number,
                peer: self.peer,
                encrypted: self.encrypted,
            };
            let mut response = self.answers.answer(request, origin).await;
            if http1 {
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
            Ok(response)
        }
    }
}
