//! Head of a request for keys, whose header map is reused for the response.

use http::Response;
use http::header::HeaderMap;

use crate::api::buckets::RequestSource;
use crate::api::http::body::Body;
use crate::api::http::query::Query;

/// Head of a request, without the key.
pub(super) struct KeyRequestHead<'a> {
    pub(super) bucket: &'a [u8],
    pub(super) query: Query<'a>,
    pub(super) headers: HeaderMap,
    pub(super) peer: RequestSource,
    /// True if the response may be a stream.
    pub(super) allows_stream: bool,
}

/// Creates a response that reuses the header map of its request, cleared, with capacity for the
/// headers of responses.
pub(super) fn reuse_header_map(headers: &mut HeaderMap) -> Response<Body> {
    let mut headers = std::mem::take(headers);
    headers.clear();
    headers.reserve(14);
    let mut response = Response::new(Body::Empty);
    *response.headers_mut() = headers;
    response
}
