//! Routes that axum serves: everything but keys.

use axum::Router;
use axum::response::{IntoResponse, Response};
use axum::routing::{MethodRouter, get, patch};
use http::HeaderMap;
use http::header::CONTENT_TYPE;

use crate::api::buckets::{self, BucketsState};
use crate::api::errors::ApiError;
use crate::api::http::cors;
use crate::api::http::headers::JSON;

const PING_METHODS: &str = "GET, HEAD, OPTIONS";
const BUCKETS_METHODS: &str = "GET, HEAD, POST, OPTIONS";
const BUCKET_METHODS: &str = "PATCH, DELETE, OPTIONS";

/// Builds the router of everything but keys.
pub(crate) fn router(state: BucketsState) -> Router {
    let collection = get(buckets::list).post(buckets::create);
    let one = patch(buckets::modify).delete(buckets::delete);
    Router::new()
        .route("/ping", with_methods(get(ping), PING_METHODS))
        .route("/buckets", with_methods(collection, BUCKETS_METHODS))
        .route("/buckets/{bucket}", with_methods(one, BUCKET_METHODS))
        .fallback(|| async { ApiError::no_such_route() })
        .with_state(state)
}

/// Adds `OPTIONS`, and the response to methods that a route doesn't have.
fn with_methods(
    route: MethodRouter<BucketsState>,
    methods: &'static str,
) -> MethodRouter<BucketsState> {
    route
        .options(move |headers: HeaderMap| async move {
            cors::options(&headers, methods).map(axum::body::Body::from)
        })
        .fallback(move || async move { ApiError::method_not_allowed(methods) })
}

async fn ping() -> Response {
    ([(CONTENT_TYPE, JSON)], "{\"message\":\"pong\"}").into_response()
}

impl IntoResponse for ApiError {
    fn into_response(self) -> Response {
        self.into_http_response().map(axum::body::Body::from)
    }
}
