//! Cross-origin reading: any web page may read every answer, and its headers.
//!
//! There are no cookies to protect here, so `*` gives nothing away: who may use a bucket is
//! decided by its name or by `api-key`, both of which the page must know itself.

use http::header::{ACCESS_CONTROL_ALLOW_ORIGIN, ACCESS_CONTROL_EXPOSE_HEADERS};
use http::{HeaderMap, HeaderValue};

/// The headers that pages may read. It is one of the values that travel as numbers: with a change of
/// it `rpc::headers::VERSION` has to be raised.
pub const EXPOSED: &str = "ETag, Last-Modified, Expires, Content-Length, Retry-After, Allow, \
     X-Request-ID, X-CloudKV-Region, X-CloudKV-Version, X-CloudKV-Lag";

/// Lets any page read an answer.
pub fn expose(headers: &mut HeaderMap) {
    headers.insert(ACCESS_CONTROL_ALLOW_ORIGIN, HeaderValue::from_static("*"));
    headers.insert(
        ACCESS_CONTROL_EXPOSE_HEADERS,
        HeaderValue::from_static(EXPOSED),
    );
}
