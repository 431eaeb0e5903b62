//! Answers users while the node starts: each request gets 503, so that its sender doesn't wait.
//! Event streams end at once, since their clients would never come back after 503.

use std::future::ready;
use std::sync::Arc;

use cloudkv_common::event_stream;
use cloudkv_common::server::request_id::{self, X_REQUEST_ID};
use cloudkv_common::server::{ConnectionMetrics, RequestBody, RequestHandler, RequestOrigin};
use http::header::{
    ACCESS_CONTROL_MAX_AGE, CONNECTION, CONTENT_LENGTH, CONTENT_TYPE, InvalidHeaderValue,
    RETRY_AFTER,
};
use http::{HeaderValue, Method, Request, Response, Version};

use crate::api::errors::ApiError;
use crate::api::http::body::Body;
use crate::api::http::cors;
use crate::api::http::ended_stream::ended_stream;
use crate::api::http::headers::X_CLOUDKV_REGION;

/// Methods of the API, for preflights.
const METHODS: &str = "GET, HEAD, PUT, POST, PATCH, DELETE, OPTIONS";

/// The public API of a node that starts.
pub(crate) struct StartingApi {
    region: HeaderValue,
    connections: Arc<ConnectionMetrics>,
}

impl StartingApi {
    /// Creates the API of a node of `region`. Fails if its name is no valid header value.
    pub(crate) fn new(region: &str) -> Result<Self, InvalidHeaderValue> {
        Ok(Self {
            region: HeaderValue::from_str(region)?,
            connections: Arc::default(),
        })
    }

    fn response_to<B>(&self, request: &Request<B>, id: HeaderValue) -> Response<Body> {
        let is_event_stream =
            *request.method() == Method::GET && event_stream::is_requested(request.headers());
        let mut response = self.response(id, is_event_stream);
        if cors::is_preflight(request) {
            // Browsers don't show the page a 503 to a preflight, but the request itself may try.
            let preflight = cors::options(request.headers(), METHODS);
            *response.status_mut() = preflight.status();
            *response.body_mut() = Body::Empty;
            let headers = response.headers_mut();
            headers.remove(CONTENT_TYPE);
            headers.remove(CONTENT_LENGTH);
            headers.remove(RETRY_AFTER);
            headers.extend(preflight.into_parts().0.headers);
            headers.remove(ACCESS_CONTROL_MAX_AGE);
        }
        if request.version() < Version::HTTP_2 {
            // The next request has a new connection, which the started node may accept.
            let close = HeaderValue::from_static("close");
            response.headers_mut().insert(CONNECTION, close);
        }
        if *request.method() == Method::HEAD {
            *response.body_mut() = Body::Empty;
        }
        response
    }

    fn response(&self, id: HeaderValue, is_event_stream: bool) -> Response<Body> {
        let mut response = if is_event_stream {
            ended_stream(ApiError::starting())
        } else {
            ApiError::starting().into_http_response()
        };
        let headers = response.headers_mut();
        headers.insert(&X_REQUEST_ID, id);
        headers.insert(&X_CLOUDKV_REGION, self.region.clone());
        cors::allow_all_origins(headers);
        response
    }
}

impl RequestHandler for StartingApi {
    type Body = Body;

    fn handle(
        &self,
        request: Request<RequestBody>,
        origin: RequestOrigin,
    ) -> impl Future<Output = Response<Body>> + Send {
        let id = request_id::from_client(request.headers())
            .unwrap_or_else(|| request_id::generate(origin.connection, origin.request));
        ready(self.response_to(&request, id))
    }

    fn overloaded(&self, id: HeaderValue, is_event_stream: bool) -> Response<Body> {
        self.response(id, is_event_stream)
    }

    fn connections(&self) -> &Arc<ConnectionMetrics> {
        &self.connections
    }
}

#[cfg(test)]
mod tests {
    use http::header::{ACCEPT, ACCESS_CONTROL_ALLOW_METHODS, ACCESS_CONTROL_REQUEST_METHOD};

    use super::*;

    #[test]
    fn a_response_says_that_the_node_is_starting_and_when_to_try_again() {
        let api = StartingApi::new("eu").unwrap();
        let response = api.overloaded(HeaderValue::from_static("id"), false);
        assert_eq!(response.status(), 503);
        let headers = response.headers();
        assert_eq!(headers["retry-after"], "1");
        assert_eq!(headers["x-request-id"], "id");
        assert_eq!(headers["x-cloudkv-region"], "eu");
        assert_eq!(headers["access-control-allow-origin"], "*");
        assert!(StartingApi::new("e\nu").is_err());
    }

    #[test]
    fn an_event_stream_ends_so_that_its_client_comes_back() {
        let api = StartingApi::new("eu").unwrap();
        for (method, status) in [(Method::GET, 200), (Method::HEAD, 503)] {
            let request = Request::builder()
                .method(method)
                .header(ACCEPT, "text/event-stream")
                .body(())
                .unwrap();
            let response = api.response_to(&request, HeaderValue::from_static("id"));
            assert_eq!(response.status(), status);
            let is_stream = response.headers()[CONTENT_TYPE] == "text/event-stream";
            assert_eq!(is_stream, status == 200);
        }
    }

    #[test]
    fn a_preflight_is_answered_so_that_the_request_itself_can_be() {
        let api = StartingApi::new("eu").unwrap();
        let request = Request::builder()
            .method(Method::OPTIONS)
            .header(ACCESS_CONTROL_REQUEST_METHOD, "PUT")
            .body(())
            .unwrap();
        let response = api.response_to(&request, HeaderValue::from_static("id"));
        assert_eq!(response.status(), 204);
        let headers = response.headers();
        assert_eq!(headers[ACCESS_CONTROL_ALLOW_METHODS], METHODS);
        assert!(!headers.contains_key(RETRY_AFTER));
        assert!(!headers.contains_key(ACCESS_CONTROL_MAX_AGE));
    }
}
