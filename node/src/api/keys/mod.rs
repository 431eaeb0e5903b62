//! Everything below `/kv/`: reading, writing, deleting and listing keys.
//!
//! This is the product's hot path. It runs ahead of the router on hyper's own request type, awaits
//! only what has to wait, and reuses the request's header map for the answer, which saves the
//! largest allocation of a read.
//!
//! Checks come in a fixed order, so that a request with several mistakes always gets the same
//! answer: path, method, bucket, access, key, parameters, size, condition.

mod list;
mod read;
mod write;

use http::header::HeaderMap;
use http::request::Parts;
use http::{Method, Request, Response};

use crate::api::Api;
use crate::api::dispatch::Received;
use crate::api::errors::ApiError;
use crate::api::http::body::Body;
use crate::api::http::cors;
use crate::api::http::path::KvTarget;
use crate::api::http::query::Query;
use crate::api::metrics::Class;

/// Methods of a key.
pub(crate) const KEY_METHODS: &str = "GET, HEAD, PUT, POST, DELETE, OPTIONS";
/// Methods of a bucket as a list of keys.
pub(crate) const LIST_METHODS: &str = "GET, HEAD, OPTIONS";

/// What a handler may look at besides the key: the head of the request.
struct Head<'a> {
    bucket: &'a [u8],
    query: Query<'a>,
    headers: HeaderMap,
}

/// Answers a request whose path begins with `/kv/`; `rest` is where the rest of it begins.
pub(crate) async fn handle<B: Received>(
    api: &Api,
    request: Request<B>,
    rest: usize,
) -> (Class, Result<Response<Body>, ApiError>) {
    let (
        Parts {
            method,
            uri,
            headers,
            ..
        },
        body,
    ) = request.into_parts();
    let target = match KvTarget::parse(uri.path().get(rest..).unwrap_or_default()) {
        Ok(target) => target,
        Err(error) => return (Class::Other, Err(error)),
    };
    if target.bucket.is_empty() {
        return (Class::Other, Err(ApiError::no_such_route()));
    }
    let head = Head {
        bucket: &target.bucket,
        query: Query::new(uri.query()),
        headers,
    };
    let Some(key) = target.key.as_deref() else {
        return match method {
            Method::GET | Method::HEAD => (Class::List, Box::pin(list::list(api, head)).await),
            Method::OPTIONS => (Class::Other, Ok(cors::options(&head.headers, LIST_METHODS))),
            _ => (
                Class::Other,
                Err(ApiError::method_not_allowed(LIST_METHODS)),
            ),
        };
    };
    match method {
        Method::GET | Method::HEAD => (Class::Get, read::get(api, head, key).await),
        Method::PUT | Method::POST => (Class::Put, write::put(api, head, key, body).await),
        Method::DELETE => (Class::Delete, write::delete(api, head, key).await),
        Method::OPTIONS => (Class::Other, Ok(cors::options(&head.headers, KEY_METHODS))),
        _ => (Class::Other, Err(ApiError::method_not_allowed(KEY_METHODS))),
    }
}

/// An answer in the header map of its request, emptied, with room for what answers carry.
fn recycled(mut headers: HeaderMap) -> Response<Body> {
    headers.clear();
    headers.reserve(13);
    let mut response = Response::new(Body::Empty);
    *response.headers_mut() = headers;
    response
}
