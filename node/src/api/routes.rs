//! Routes that axum serves: everything but keys.

use axum::Router;
use axum::response::{IntoResponse, Response};
use axum::routing::{MethodRouter, get, patch, post};
use http::HeaderMap;
use http::header::CONTENT_TYPE;

use crate::api::buckets::{self, BucketsState};
use crate::api::errors::ApiError;
use crate::api::http::cors;
use crate::api::http::headers::JSON;
use crate::api::openapi;

/// A route, with its handlers and the methods that they are for.
pub(crate) struct Route {
    /// Path, as OpenAPI writes it, too.
    pub path: &'static str,
    /// Methods, as in `Allow`.
    pub methods: &'static str,
    handlers: fn() -> MethodRouter<BucketsState>,
}

/// All routes.
pub(crate) const ROUTES: [Route; 7] = [
    Route {
        path: "/ping",
        methods: "GET, HEAD, OPTIONS",
        handlers: || get(ping),
    },
    Route {
        path: "/buckets",
        methods: "GET, HEAD, POST, OPTIONS",
        handlers: || get(buckets::list).post(buckets::create),
    },
    Route {
        path: "/buckets/{bucket}",
        methods: "PATCH, DELETE, OPTIONS",
        handlers: || patch(buckets::modify).delete(buckets::delete),
    },
    Route {
        path: "/buckets/{bucket}/export",
        methods: "GET, HEAD, OPTIONS",
        handlers: || get(buckets::export),
    },
    Route {
        path: "/buckets/{bucket}/import",
        methods: "POST, OPTIONS",
        handlers: || post(buckets::import),
    },
    Route {
        path: "/openapi.json",
        methods: "GET, HEAD, OPTIONS",
        handlers: || get(openapi::serve_document),
    },
    Route {
        path: "/docs",
        methods: "GET, HEAD, OPTIONS",
        handlers: || get(openapi::serve_page),
    },
];

/// Builds the router of everything but keys.
pub(crate) fn router(state: BucketsState) -> Router {
    let router = ROUTES.into_iter().fold(Router::new(), |router, route| {
        router.route(route.path, with_methods((route.handlers)(), route.methods))
    });
    router
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
