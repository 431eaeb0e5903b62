//! CORS: pages of any origin may read every response, and its headers.
//!
//! There are no cookies to protect here, so `*` grants nothing: access to a bucket takes its name
//! or `api-key`, both of which the page must know itself.

use http::header::{ACCESS_CONTROL_ALLOW_ORIGIN, ACCESS_CONTROL_EXPOSE_HEADERS};
use http::{HeaderMap, HeaderValue};

/// Headers that pages may read. It is a value of the static header table: when it changes,
/// `transport::headers::TABLE_VERSION` has to be raised.
pub const EXPOSED_HEADERS: &str = "ETag, Last-Modified, Expires, Content-Length, Retry-After, \
     Allow, Link, X-Request-ID, X-CloudKV-Region, X-CloudKV-Version, X-CloudKV-Lag, \
     X-CloudKV-Metadata";

/// Adds the headers that let pages of any origin read a response.
pub fn allow_all_origins(headers: &mut HeaderMap) {
    headers.insert(ACCESS_CONTROL_ALLOW_ORIGIN, HeaderValue::from_static("*"));
    headers.insert(
        ACCESS_CONTROL_EXPOSE_HEADERS,
        HeaderValue::from_static(EXPOSED_HEADERS),
    );
}
