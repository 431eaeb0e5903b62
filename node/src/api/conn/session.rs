//! The requests of one connection, as hyper hands them over.

use std::convert::Infallible;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use http::header::CONNECTION;
use http::{HeaderValue, Request, Response, Version};
use hyper::body::Incoming;

use crate::api::Api;
use crate::api::conn::pulse::Pulse;
use crate::api::dispatch::Origin;
use crate::api::errors::BodyLeft;
use crate::api::http::body::Body;

/// What the requests of one connection share.
pub(crate) struct Session {
    pub(crate) api: Arc<Api>,
    pub(crate) connection: u32,
    pub(crate) pulse: Arc<Pulse>,
    /// Set while the server is about to stop.
    pub(crate) closing: Arc<AtomicBool>,
}

impl Session {
    /// Answers one request, and says so if the connection ends with it.
    pub(crate) async fn serve(
        self: Arc<Self>,
        request: Request<Incoming>,
    ) -> Result<Response<Body>, Infallible> {
        let (_running, number) = self.pulse.begin();
        let http1 = request.version() < Version::HTTP_2;
        let origin = Origin {
            connection: self.connection,
            request: number,
        };
        let mut response = self.api.answer(request, origin).await;
        if http1 {
            let left = response.extensions_mut().remove::<BodyLeft>().is_some();
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
