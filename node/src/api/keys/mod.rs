//! Everything below `/kv/`: reads, writes, deletes, lists and watches keys, one by one and in
//! batches.
//!
//! This is the product's hot path. It runs ahead of the axum router on hyper's own request type,
//! awaits only where it has to, and reuses the request's header map for the response, which saves
//! the largest allocation of a read.
//!
//! Checks run in a fixed order, so that a request with several mistakes always gets the same
//! error: path, method, bucket, access, key, parameters, size, condition.

mod batch;
#[cfg(any(test, feature = "fuzzing"))]
pub(super) mod fuzzing;
mod list;
mod parameters;
mod read;
mod request_head;
mod watch;
mod write;

use cloudkv_common::event_stream;
use http::request::Parts;
use http::{Method, Request, Response};

use crate::api::Api;
use crate::api::buckets::RequestSource;
use crate::api::errors::ApiError;
use crate::api::http::body::Body;
use crate::api::http::cors;
use crate::api::http::path::KvTarget;
use crate::api::http::query::Query;
use crate::api::http::receive::IncomingBody;
use crate::api::keys::request_head::KeyRequestHead;
use crate::api::metrics::RequestClass;

pub(crate) use self::batch::{
    AnswerLine, BatchField, BatchOperationKind, ImportDelete, ImportLine, ImportPut,
};
pub(crate) use self::list::{
    ListBody, MAX_LIST_PARAMETER_BYTES, MAX_LISTED_ENTRIES, PARAMETERS as LIST_PARAMETERS,
};
pub(crate) use self::parameters::{MAX_CONTENT_TYPE_BYTES, READ_PARAMETERS};
#[cfg(test)]
pub(crate) use self::watch::{KEY_WATCH_PARAMETERS, WATCH_PARAMETERS};

/// Methods of a key.
pub(crate) const KEY_METHODS: &str = "GET, HEAD, PUT, POST, PATCH, DELETE, OPTIONS";
/// Methods of a bucket's keys: a list of them, and batches.
pub(crate) const LIST_METHODS: &str = "GET, HEAD, POST, OPTIONS";

/// Handles a request whose path begins with `/kv/`; `rest` is the offset of the rest of the path.
pub(crate) fn handle<B: IncomingBody>(
    api: &Api,
    request: Request<B>,
    rest: usize,
    peer: RequestSource,
) -> impl Future<Output = (RequestClass, Result<Response<Body>, ApiError>)> + Send {
    let (parts, body) = request.into_parts();
    let Parts {
        method,
        uri,
        headers,
        ..
    } = parts;
    async move {
        let target = match KvTarget::parse(uri.path().get(rest..).unwrap_or_default()) {
            Ok(target) => target,
            Err(error) => return (RequestClass::Other, Err(error)),
        };
        if target.bucket.is_empty() {
            return (RequestClass::Other, Err(ApiError::no_such_route()));
        }
        let mut head = KeyRequestHead {
            bucket: &target.bucket,
            query: Query::new(uri.query()),
            headers,
            peer,
            allows_stream: B::ALLOWS_STREAM,
        };
        match target.key.as_deref() {
            Some(key) => handle_key(api, method, &mut head, key, body).await,
            None if method == Method::POST => {
                let batch = Box::pin(batch::batch(api, &mut head, body));
                (RequestClass::Batch, batch.await)
            }
            None => handle_bucket(api, method, head).await,
        }
    }
}

/// Handles a request for a key. Writes are boxed: they wait for a disk, and their futures are
/// large.
async fn handle_key<B: IncomingBody>(
    api: &Api,
    method: Method,
    head: &mut KeyRequestHead<'_>,
    key: &[u8],
    body: B,
) -> (RequestClass, Result<Response<Body>, ApiError>) {
    match method {
        Method::GET if event_stream::is_requested(&head.headers) => {
            let watch = Box::pin(watch::watch(api, head, Some(key)));
            (RequestClass::Watch, watch.await)
        }
        Method::GET | Method::HEAD => (RequestClass::Get, read::get(api, head, key).await),
        Method::PUT | Method::POST => {
            let put = Box::pin(write::put(api, head, key, body));
            (RequestClass::Put, put.await)
        }
        Method::PATCH => {
            let patch = Box::pin(write::patch(api, head, key, body));
            (RequestClass::Patch, patch.await)
        }
        Method::DELETE => {
            let delete = Box::pin(write::delete(api, head, key));
            (RequestClass::Delete, delete.await)
        }
        Method::OPTIONS => (
            RequestClass::Other,
            Ok(cors::options(&head.headers, KEY_METHODS)),
        ),
        _ => (
            RequestClass::Other,
            Err(ApiError::method_not_allowed(KEY_METHODS)),
        ),
    }
}

/// Handles a request for a bucket's keys that is no batch.
async fn handle_bucket(
    api: &Api,
    method: Method,
    mut head: KeyRequestHead<'_>,
) -> (RequestClass, Result<Response<Body>, ApiError>) {
    match method {
        Method::GET if event_stream::is_requested(&head.headers) => {
            let watch = Box::pin(watch::watch(api, &mut head, None));
            (RequestClass::Watch, watch.await)
        }
        Method::GET | Method::HEAD => (RequestClass::List, Box::pin(list::list(api, head)).await),
        Method::OPTIONS => (
            RequestClass::Other,
            Ok(cors::options(&head.headers, LIST_METHODS)),
        ),
        _ => (
            RequestClass::Other,
            Err(ApiError::method_not_allowed(LIST_METHODS)),
        ),
    }
}
