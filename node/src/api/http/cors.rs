//! Cross-origin requests: any web page may use the API, and read all headers of its responses.
//!
//! There are no cookies to protect here, so `*` discloses nothing: access to a bucket depends on
//! its name or on `api-key`, both of which the page must know itself.

pub(crate) use cloudkv_common::cors::allow_all_origins;
use http::header::{
    ACCESS_CONTROL_ALLOW_HEADERS, ACCESS_CONTROL_ALLOW_METHODS, ACCESS_CONTROL_MAX_AGE,
    ACCESS_CONTROL_REQUEST_HEADERS, ACCESS_CONTROL_REQUEST_METHOD, ALLOW,
};
use http::{HeaderMap, HeaderValue, Method, Request, Response, StatusCode};

use crate::api::http::body::Body;

/// Maximum length of a list of headers that a preflight response echoes, in bytes.
const MAX_ECHOED_BYTES: usize = 1024;

/// Returns whether a browser asks by a request whether a page may send another one.
pub(crate) fn is_preflight<B>(request: &Request<B>) -> bool {
    *request.method() == Method::OPTIONS
        && request
            .headers()
            .contains_key(ACCESS_CONTROL_REQUEST_METHOD)
}

/// Responds to `OPTIONS`, a preflight or not, for a resource with these methods.
pub(crate) fn options(request: &HeaderMap, allow: &'static str) -> Response<Body> {
    let mut response = Response::new(Body::Empty);
    *response.status_mut() = StatusCode::NO_CONTENT;
    let headers = response.headers_mut();
    headers.insert(ALLOW, HeaderValue::from_static(allow));
    if request.contains_key(ACCESS_CONTROL_REQUEST_METHOD) {
        headers.insert(
            ACCESS_CONTROL_ALLOW_METHODS,
            HeaderValue::from_static(allow),
        );
        headers.insert(ACCESS_CONTROL_ALLOW_HEADERS, allowed_headers(request));
        headers.insert(ACCESS_CONTROL_MAX_AGE, HeaderValue::from_static("86400"));
    }
    response
}

/// Returns the headers that the page requests, if they are names and commas; else those that the
/// API uses.
fn allowed_headers(request: &HeaderMap) -> HeaderValue {
    let is_valid = |value: &&HeaderValue| {
        let is_legal = |byte: &u8| byte.is_ascii_alphanumeric() || b"-_, ".contains(byte);
        (1..=MAX_ECHOED_BYTES).contains(&value.len()) && value.as_bytes().iter().all(is_legal)
    };
    request
        .get(ACCESS_CONTROL_REQUEST_HEADERS)
        .filter(is_valid)
        .cloned()
        .unwrap_or_else(|| {
            HeaderValue::from_static(
                "accept, api-key, content-type, if-match, if-none-match, if-modified-since, \
             if-unmodified-since, last-event-id, x-request-id, x-cloudkv-metadata, \
             x-cloudkv-min-version",
            )
        })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn options_response(
        method: Option<&'static str>,
        names: Option<&'static str>,
    ) -> Response<Body> {
        let mut request = HeaderMap::new();
        if let Some(method) = method {
            request.insert(
                ACCESS_CONTROL_REQUEST_METHOD,
                HeaderValue::from_static(method),
            );
        }
        if let Some(names) = names {
            request.insert(
                ACCESS_CONTROL_REQUEST_HEADERS,
                HeaderValue::from_static(names),
            );
        }
        options(&request, "GET, OPTIONS")
    }

    #[test]
    fn preflight_allows_the_headers_that_the_page_requests() {
        let response = options_response(Some("PUT"), Some("api-key, X-Mine"));
        assert_eq!(response.status(), 204);
        assert_eq!(
            response.headers()[ACCESS_CONTROL_ALLOW_METHODS],
            "GET, OPTIONS"
        );
        assert_eq!(
            response.headers()[ACCESS_CONTROL_ALLOW_HEADERS],
            "api-key, X-Mine"
        );
        assert_eq!(response.headers()[ACCESS_CONTROL_MAX_AGE], "86400");
    }

    #[test]
    fn invalid_lists_are_not_echoed() {
        let response = options_response(Some("PUT"), Some("<script>"));
        let names = response.headers()[ACCESS_CONTROL_ALLOW_HEADERS]
            .to_str()
            .unwrap();
        assert!(names.contains("api-key"));
        assert!(!names.contains("script"));
    }

    #[test]
    fn plain_options_lists_the_methods() {
        let response = options_response(None, None);
        assert_eq!(response.status(), 204);
        assert_eq!(response.headers()[ALLOW], "GET, OPTIONS");
        assert!(!response.headers().contains_key(ACCESS_CONTROL_MAX_AGE));
    }
}
