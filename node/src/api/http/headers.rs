//! Names and values of headers that responses share, built once.

use http::header::GetAll;
use http::{HeaderMap, HeaderName, HeaderValue};

use crate::api::errors::ApiError;

/// API key of an account.
pub(crate) static API_KEY: HeaderName = HeaderName::from_static("api-key");
/// Region that answered.
pub(crate) static X_CLOUDKV_REGION: HeaderName = HeaderName::from_static("x-cloudkv-region");
/// Session token in a response.
pub(crate) static X_CLOUDKV_VERSION: HeaderName = HeaderName::from_static("x-cloudkv-version");
/// Session token in a request: the response must not be older.
pub(crate) static X_CLOUDKV_MIN_VERSION: HeaderName =
    HeaderName::from_static("x-cloudkv-min-version");
/// Replication lag from other regions to this one.
pub(crate) static X_CLOUDKV_LAG: HeaderName = HeaderName::from_static("x-cloudkv-lag");
/// Origins that may embed a stored value.
pub(crate) static CROSS_ORIGIN_RESOURCE_POLICY: HeaderName =
    HeaderName::from_static("cross-origin-resource-policy");

/// `Content-Type` of JSON responses.
pub(crate) const JSON: HeaderValue = HeaderValue::from_static("application/json; charset=utf-8");
/// `Content-Type` of text responses.
pub(crate) const TEXT: HeaderValue = HeaderValue::from_static("text/plain; charset=utf-8");

/// Returns the value of a header; 400 if two of its lines differ, since a proxy may have used the
/// other one.
pub(crate) fn single<'a>(
    headers: &'a HeaderMap,
    name: &HeaderName,
) -> Result<Option<&'a HeaderValue>, ApiError> {
    let values: GetAll<'a, HeaderValue> = headers.get_all(name);
    let mut values = values.iter();
    let first = values.next();
    match values.find(|other| Some(*other) != first) {
        None => Ok(first),
        Some(_) => Err(ApiError::invalid_header(format!(
            "header {name} must be given once"
        ))),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn differing_lines_are_refused() {
        let mut headers = HeaderMap::new();
        assert!(single(&headers, &API_KEY).unwrap().is_none());
        headers.append(&API_KEY, HeaderValue::from_static("a"));
        headers.append(&API_KEY, HeaderValue::from_static("a"));
        assert_eq!(single(&headers, &API_KEY).unwrap().unwrap(), "a");
        headers.append(&API_KEY, HeaderValue::from_static("b"));
        assert_eq!(
            single(&headers, &API_KEY).unwrap_err().code(),
            "invalid_header"
        );
    }
}
