//! Dispatches each request to its part of the API, and adds the headers that all responses have.
//!
//! Even if a handler fails, a response has `X-Request-ID`, `X-CloudKV-Region` and the CORS headers
//! that let a web page read it.

use std::convert::Infallible;
use std::sync::Arc;

use cloudkv_common::server::request_id::{self, X_REQUEST_ID};
use cloudkv_common::server::{
    ConnectionMetrics, HeadError, RequestBody, RequestHandler, RequestOrigin, check_head,
};
use http::header::{CONTENT_LENGTH, CONTENT_TYPE};
use http::{HeaderValue, Method, Request, Response, StatusCode};
use http_body::Body as _;
use tower::ServiceExt;

use crate::api::Api;
use crate::api::buckets::RequestSource;
use crate::api::errors::ApiError;
use crate::api::http::body::Body;
use crate::api::http::cors;
use crate::api::http::ended_stream::ended_stream;
use crate::api::http::headers::{NDJSON, X_CLOUDKV_LAG, X_CLOUDKV_REGION};
use crate::api::http::receive::IncomingBody;
use crate::api::keys;
use crate::api::metrics::{BodySizes, RequestClass};

/// Prefix of the paths of keys.
const KV_PREFIX: &str = "/kv/";

impl RequestHandler for Api {
    type Body = Body;

    fn handle(
        &self,
        request: Request<RequestBody>,
        origin: RequestOrigin,
    ) -> impl Future<Output = Response<Body>> + Send {
        let checked = check_head(&request);
        self.handle_request(request, origin, checked)
    }

    fn overloaded(&self, id: HeaderValue, is_event_stream: bool) -> Response<Body> {
        let error = ApiError::overloaded();
        let mut response = if is_event_stream {
            ended_stream(error)
        } else {
            error.into_http_response()
        };
        self.add_common_headers(&mut response, id);
        response
    }

    fn connections(&self) -> &Arc<ConnectionMetrics> {
        &self.metrics.connections
    }
}

impl Api {
    /// Handles one request from any connection; `checked` is the result of checking its head.
    ///
    /// Futures of requests are moved as a whole until they are polled, so they are kept small here
    /// and further in: a block stores its arguments once, an `async fn` twice.
    pub(super) fn handle_request<B: IncomingBody>(
        &self,
        mut request: Request<B>,
        origin: RequestOrigin,
        checked: Result<(), HeadError>,
    ) -> impl Future<Output = Response<Body>> + Send {
        let is_kv = request.uri().path().starts_with(KV_PREFIX);
        if !is_kv {
            request
                .extensions_mut()
                .insert(RequestSource::from_origin(&origin));
        }
        let id = request_id::from_client(request.headers())
            .unwrap_or_else(|| request_id::generate(origin.connection, origin.request));
        let is_head = request.method() == Method::HEAD;
        let received = request.body().size_hint().lower();
        async move {
            let (class, mut response) = if let Err(error) = checked {
                (
                    RequestClass::Other,
                    ApiError::from(error).into_http_response(),
                )
            } else if is_kv {
                let (class, result) = keys::handle(
                    self,
                    request,
                    KV_PREFIX.len(),
                    RequestSource::from_origin(&origin),
                )
                .await;
                (class, result.unwrap_or_else(ApiError::into_http_response))
            } else {
                Box::pin(self.route_to_axum(request)).await
            };
            tracing::debug!(
                ?class,
                status = response.status().as_u16(),
                ?id,
                "request answered"
            );
            self.add_common_headers(&mut response, id);
            if is_head {
                strip_body_for_head(&mut response);
            }
            let sizes = BodySizes {
                received,
                sent: response.body().size_hint().lower(),
            };
            let status = response.status().as_u16();
            self.metrics
                .count_request(origin.connection, class, status, sizes);
            response
        }
    }

    /// Hands a request to the axum router.
    async fn route_to_axum<B: IncomingBody>(
        &self,
        request: Request<B>,
    ) -> (RequestClass, Response<Body>) {
        let path = request.uri().path();
        let class = if path.starts_with("/buckets") {
            RequestClass::Buckets
        } else {
            RequestClass::Other
        };
        if !B::ALLOWS_STREAM && is_stream_route(path) {
            return (class, ApiError::not_streamed().into_http_response());
        }
        let result: Result<Response<axum::body::Body>, Infallible> = self
            .router
            .clone()
            .oneshot(request.map(axum::body::Body::new))
            .await;
        match result {
            Ok(response) => (class, response.map(Body::Axum)),
            Err(never) => match never {},
        }
    }

    /// Adds the headers that every response has.
    fn add_common_headers(&self, response: &mut Response<Body>, id: HeaderValue) {
        let headers = response.headers_mut();
        headers.insert(&X_REQUEST_ID, id);
        headers.insert(&X_CLOUDKV_REGION, self.region.clone());
        if let Some(lag) = &*self.replication_lag.load() {
            headers.insert(&X_CLOUDKV_LAG, HeaderValue::clone(lag));
        }
        cors::allow_all_origins(headers);
    }
}

/// Returns whether the responses of a path are streams, which don't fit in memory.
fn is_stream_route(path: &str) -> bool {
    let rest = path.strip_prefix("/buckets/");
    let rest = rest.and_then(|rest| rest.split_once('/'));
    rest.is_some_and(|(_, name)| matches!(name, "export" | "import"))
}

/// Turns a response into one to `HEAD`: with the length of the body, but no body. Over HTTP/2 hyper
/// would send the body.
fn strip_body_for_head(response: &mut Response<Body>) {
    let body = std::mem::replace(response.body_mut(), Body::Empty);
    let never_has_body = matches!(
        response.status(),
        StatusCode::NO_CONTENT | StatusCode::NOT_MODIFIED
    );
    // Lines are made while they are sent: nobody knows their length.
    let content_type = response.headers().get(CONTENT_TYPE);
    let is_stream = content_type.is_some_and(|value| *value == NDJSON);
    let never_has_body = never_has_body || is_stream;
    if let Some(size) = body.size_hint().exact()
        && !(never_has_body || size == 0 && response.headers().contains_key(CONTENT_LENGTH))
    {
        response
            .headers_mut()
            .insert(CONTENT_LENGTH, HeaderValue::from(size));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn head_responses_have_a_length_and_no_body() {
        let mut response = Response::new(Body::full("value"));
        strip_body_for_head(&mut response);
        assert_eq!(response.headers()[CONTENT_LENGTH], "5");
        assert!(response.body().is_end_stream());
    }

    #[test]
    fn head_responses_have_a_length_for_empty_but_not_for_missing_bodies() {
        let mut response = Response::new(Body::Empty);
        strip_body_for_head(&mut response);
        assert_eq!(response.headers()[CONTENT_LENGTH], "0");
        let mut response = Response::new(Body::Empty);
        *response.status_mut() = StatusCode::NOT_MODIFIED;
        strip_body_for_head(&mut response);
        assert!(!response.headers().contains_key(CONTENT_LENGTH));
    }

    #[test]
    fn exports_and_imports_are_streams() {
        for path in ["/buckets/aB/export", "/buckets/aB/import"] {
            assert!(is_stream_route(path), "{path}");
        }
        for path in [
            "/buckets",
            "/buckets/export",
            "/buckets/aB",
            "/ping/a/export",
        ] {
            assert!(!is_stream_route(path), "{path}");
        }
    }

    #[test]
    fn head_responses_of_streams_have_no_length() {
        let mut response = Response::new(Body::Empty);
        response.headers_mut().insert(CONTENT_TYPE, NDJSON);
        strip_body_for_head(&mut response);
        assert!(!response.headers().contains_key(CONTENT_LENGTH));
    }

    #[test]
    fn existing_content_lengths_stay() {
        let mut response = Response::new(Body::Empty);
        response
            .headers_mut()
            .insert(CONTENT_LENGTH, HeaderValue::from_static("18"));
        strip_body_for_head(&mut response);
        assert_eq!(response.headers()[CONTENT_LENGTH], "18");
    }
}
