//! Names and values of headers of the API, built once.

use http::{HeaderName, HeaderValue};

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
/// Metadata of a key: a JSON object in ASCII.
pub(crate) static X_CLOUDKV_METADATA: HeaderName = HeaderName::from_static("x-cloudkv-metadata");
/// Origins that may embed a stored value.
pub(crate) static CROSS_ORIGIN_RESOURCE_POLICY: HeaderName =
    HeaderName::from_static("cross-origin-resource-policy");

/// `Content-Type` of JSON responses.
pub(crate) const JSON: HeaderValue = HeaderValue::from_static("application/json; charset=utf-8");
/// `Content-Type` of responses with a JSON object on each line.
pub(crate) const NDJSON: HeaderValue = HeaderValue::from_static("application/x-ndjson");
/// `Content-Type` of text responses.
pub(crate) const TEXT: HeaderValue = HeaderValue::from_static("text/plain; charset=utf-8");
