//! GET and HEAD of a bucket: lists its keys, in ascending or descending order of their bytes.

mod format;
#[cfg(any(test, feature = "fuzzing"))]
pub(super) mod fuzzing;
mod query;

use http::header::{CACHE_CONTROL, CONTENT_TYPE, LINK, VARY, X_CONTENT_TYPE_OPTIONS};
use http::{HeaderMap, HeaderValue, Response};

pub(crate) use self::format::ListBody;
pub(super) use self::format::listed_key;
use self::query::ListRequest;
pub(crate) use self::query::{MAX_LIST_PARAMETER_BYTES, MAX_LISTED_ENTRIES, PARAMETERS};
use crate::api::Api;
use crate::api::access::{AccessIntent, BucketAccess};
use crate::api::errors::ApiError;
use crate::api::http::accept;
use crate::api::http::body::Body;
use crate::api::http::headers::{JSON, TEXT};
use crate::api::keys::request_head::{KeyRequestHead, reuse_header_map};

/// Format of a list.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum ListFormat {
    Text,
    Json,
}

impl ListFormat {
    fn of_request(headers: &HeaderMap) -> Self {
        if accept::prefers_json(headers) {
            Self::Json
        } else {
            Self::Text
        }
    }
}

/// Handles GET or HEAD of a bucket's keys.
pub(super) async fn list(api: &Api, head: KeyRequestHead<'_>) -> Result<Response<Body>, ApiError> {
    let grant = BucketAccess::authorize(
        &api.service.directory,
        head.bucket,
        AccessIntent::Read,
        &head.headers,
    )
    .await?;
    let bucket = grant.bucket();
    let format = ListFormat::of_request(&head.headers);
    let request = ListRequest::parse(&bucket.id, head.query)?;
    let mut query = request.query.clone();
    // Text has names only.
    query.with_values &= format == ListFormat::Json;
    let with_values = query.with_values;
    let listing = api.service.keyspace.list(bucket, query).await?;
    let listing = format::bound_values(listing);
    let cursor = listing.next.map(|position| request.cursor(&position));
    if listing.entries.is_empty() && cursor.is_none() && !request.has_cursor {
        return Err(ApiError::no_keys());
    }
    let body = match format {
        ListFormat::Text => format::text(&listing.entries),
        ListFormat::Json => format::json(&listing.entries, with_values, cursor.as_deref())?,
    };
    let link = cursor.map(|cursor| request.next_link(&bucket.id, &cursor));
    Ok(list_response(head.headers, format, body, link.transpose()?))
}

fn list_response(
    mut request_headers: HeaderMap,
    format: ListFormat,
    body: Vec<u8>,
    link: Option<HeaderValue>,
) -> Response<Body> {
    let mut response = reuse_header_map(&mut request_headers);
    let headers = response.headers_mut();
    headers.insert(CACHE_CONTROL, HeaderValue::from_static("no-cache"));
    headers.insert(VARY, HeaderValue::from_static("accept"));
    headers.insert(X_CONTENT_TYPE_OPTIONS, HeaderValue::from_static("nosniff"));
    headers.insert(
        CONTENT_TYPE,
        match format {
            ListFormat::Text => TEXT,
            ListFormat::Json => JSON,
        },
    );
    if let Some(link) = link {
        headers.insert(LINK, link);
    }
    *response.body_mut() = Body::full(body);
    response
}
