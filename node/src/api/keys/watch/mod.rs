//! GET of a bucket or a key whose client asks for an event stream: the changes of its keys.
//!
//! ```text
//!  GET, Accept: text/event-stream
//!    └─ parameters ──► service/watch ── items ──► stream ── render ──► blocks
//!           │               │
//!  400, 401, 403, 404     end, also at the start: 200, retry, the end
//! ```
//!
//! A browser's `EventSource` connects again after a stream's end, with the ID of the last event,
//! and never after another status than 200. So what is temporary is told by an end (`end`). What a
//! client must know of events is in `docs/api.md`.
//!
//! An event is rendered once for all of its watchers (`render`), and the events of one item are one
//! chunk of the body (`stream`).

mod end;
#[cfg(any(test, feature = "fuzzing"))]
pub(super) mod fuzzing;
mod parameters;
mod render;
mod stream;

use std::sync::Arc;

use cloudkv_common::event_stream;
use cloudkv_common::server::network_of;
use http::Response;

use self::end::StreamEnd;
use self::parameters::WatchParameters;
#[cfg(test)]
pub(crate) use self::parameters::{KEY_WATCH_PARAMETERS, WATCH_PARAMETERS};
use self::stream::{AnswerMemory, EventStream};
use crate::api::Api;
use crate::api::access::{AccessIntent, BucketAccess};
use crate::api::errors::ApiError;
use crate::api::http::body::Body;
use crate::api::http::ended_stream::ended_stream;
use crate::api::http::path;
use crate::api::keys::request_head::{KeyRequestHead, reuse_header_map};
use crate::service::WatchRequest;

/// Handles GET of a bucket, or of one key, whose client asks for an event stream.
pub(super) async fn watch(
    api: &Api,
    head: &mut KeyRequestHead<'_>,
    key: Option<&[u8]>,
) -> Result<Response<Body>, ApiError> {
    let request = match check_request(api, head, key).await {
        Ok(request) => request,
        Err(error) if error.is_temporary() => return Ok(ended_stream(error)),
        Err(error) => return Err(error),
    };
    if !head.allows_stream {
        return Ok(ended(head, &StreamEnd::not_streamed()));
    }
    let with_values = request.with_values;
    let memory = AnswerMemory {
        budget: Arc::clone(&api.answer_memory),
        client: request.client,
    };
    match api.service.watches.start(request) {
        Ok(watch) => {
            let region = api.region.clone();
            let metrics = Arc::clone(&api.metrics);
            let stream = EventStream::new(watch, with_values, region, metrics, memory);
            let body = axum::body::Body::from_stream(stream);
            Ok(response(head, Body::Axum(body)))
        }
        Err(end) => Ok(ended(head, &StreamEnd::from(&end))),
    }
}

/// Checks a request, and returns it as the service takes it.
async fn check_request(
    api: &Api,
    head: &KeyRequestHead<'_>,
    key: Option<&[u8]>,
) -> Result<WatchRequest, ApiError> {
    let directory = &api.service.directory;
    let intent = AccessIntent::Read;
    let grant = BucketAccess::authorize(directory, head.bucket, intent, &head.headers).await?;
    let bucket = grant.bucket();
    if let Some(key) = key {
        path::check_key(key, bucket.limits.key_bytes)?;
    }
    let parameters = WatchParameters::parse(&bucket.id, key, head.query, &head.headers)?;
    let client = head
        .peer
        .client_address(&head.headers, &api.trusted_proxies);
    Ok(WatchRequest {
        bucket: Arc::clone(bucket),
        filter: parameters.filter,
        since: parameters.since,
        initial: parameters.initial,
        with_values: parameters.with_values,
        client: Some(network_of(client)),
    })
}

/// Returns a stream that ends at once.
fn ended(head: &mut KeyRequestHead<'_>, end: &StreamEnd) -> Response<Body> {
    response(head, Body::full(end.lines()))
}

fn response(head: &mut KeyRequestHead<'_>, body: Body) -> Response<Body> {
    let mut response = reuse_header_map(&mut head.headers);
    event_stream::add_headers(response.headers_mut());
    *response.body_mut() = body;
    response
}
