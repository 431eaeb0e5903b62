//! GET and HEAD of a key.
//!
//! A stored page must not act in the service's name: headers ensure that a browser doesn't sniff
//! the type of a value, runs no script in it and gives it no origin.

use http::header::{
    CACHE_CONTROL, CONTENT_SECURITY_POLICY, CONTENT_TYPE, ETAG, EXPIRES, LAST_MODIFIED,
    X_CONTENT_TYPE_OPTIONS,
};
use http::{HeaderMap, HeaderValue, Response, StatusCode};

use crate::api::Api;
use crate::api::access::{AccessIntent, BucketAccess};
use crate::api::errors::ApiError;
use crate::api::http::body::Body;
use crate::api::http::conditions::{self, ReadOutcome};
use crate::api::http::headers::{
    CROSS_ORIGIN_RESOURCE_POLICY, X_CLOUDKV_METADATA, X_CLOUDKV_VERSION,
};
use crate::api::http::query::Query;
use crate::api::http::{dates, etag, metadata, path, session};
use crate::api::keys::parameters::READ_PARAMETERS;
use crate::api::keys::request_head::{KeyRequestHead, reuse_header_map};
use crate::service::{KeyError, ReadResult, StoredValue, Unavailable};

/// Maximum size of a value whose record shares its memory with the `Content-Type` header, in bytes.
const MAX_SHARED_VALUE_BYTES: usize = 4 << 10;

/// Handles GET or HEAD of a key.
pub(super) async fn get(
    api: &Api,
    head: &mut KeyRequestHead<'_>,
    key: &[u8],
) -> Result<Response<Body>, ApiError> {
    let grant = BucketAccess::authorize(
        &api.service.directory,
        head.bucket,
        AccessIntent::Read,
        &head.headers,
    )
    .await?;
    let bucket = grant.bucket();
    path::check_key(key, bucket.limits.key_bytes)?;
    let keyspace = &api.service.keyspace;
    let directory = &api.service.directory;
    let session = session::from_request(&head.headers, directory).await?;
    let read = if is_eventual(head.query)? {
        Box::pin(keyspace.get_eventual(bucket, key, &session)).await?
    } else if session.is_empty() {
        keyspace.get(bucket, key).await?
    } else {
        let read = Box::pin(keyspace.get_in_session(bucket, key, &session)).await;
        read.map_err(leader_error)?
    };
    let (version, result) = match read {
        ReadResult::Live(entry) => {
            let outcome = conditions::evaluate_read(&head.headers, entry.version)?;
            let (version, request_headers) = (entry.version, &mut head.headers);
            let result = match outcome {
                ReadOutcome::PreconditionFailed => Err(ApiError::precondition_failed()),
                ReadOutcome::NotModified => Ok(not_modified_response(request_headers, &entry)),
                ReadOutcome::SendValue => Ok(value_response(request_headers, entry)),
            };
            (Some(version), result)
        }
        ReadResult::Deleted(version) => (Some(version), Err(ApiError::no_such_key())),
        ReadResult::Missing => (None, Err(ApiError::no_such_key())),
    };
    match &result {
        Ok(_) => bucket.count_read(true),
        // The key exists, but not in the state that the client requires: neither hit nor miss.
        Err(error) if error.status() == StatusCode::PRECONDITION_FAILED => {}
        Err(_) => bucket.count_read(false),
    }
    // The token covers tombstones, too: the client has seen that the key was deleted.
    let token = session::response_token(session, (bucket, key, version), &api.service);
    match (result, token) {
        (Ok(mut response), Some(token)) => {
            response.headers_mut().insert(&X_CLOUDKV_VERSION, token);
            Ok(response)
        }
        (Err(error), Some(token)) => Err(error.with_session_token(token)),
        (result, None) => result,
    }
}

/// Converts an error of the shard's leader. If the leader lacks a write, no other node of the
/// region has it.
pub(super) fn leader_error(error: KeyError) -> ApiError {
    match error {
        KeyError::Unavailable(Unavailable::Behind) => ApiError::behind().authoritative(),
        error => error.into(),
    }
}

/// Returns whether the read may lag behind acknowledged writes.
fn is_eventual(query: Query<'_>) -> Result<bool, ApiError> {
    let [consistency] = READ_PARAMETERS;
    match query.get(consistency)?.as_deref() {
        None | Some("strong") => Ok(false),
        Some("eventual") => Ok(true),
        Some(_) => Err(ApiError::invalid_parameter(
            "consistency must be strong or eventual",
        )),
    }
}

fn value_response(request_headers: &mut HeaderMap, entry: StoredValue) -> Response<Body> {
    let mut response = reuse_header_map(request_headers);
    let headers = response.headers_mut();
    add_cache_headers(headers, &entry);
    headers.insert(CONTENT_TYPE, content_type(&entry));
    headers.insert(X_CONTENT_TYPE_OPTIONS, HeaderValue::from_static("nosniff"));
    headers.insert(
        CONTENT_SECURITY_POLICY,
        HeaderValue::from_static("sandbox; default-src 'none'"),
    );
    headers.insert(
        &CROSS_ORIGIN_RESOURCE_POLICY,
        HeaderValue::from_static("cross-origin"),
    );
    *response.body_mut() = Body::full(entry.value);
    response
}

fn not_modified_response(request_headers: &mut HeaderMap, entry: &StoredValue) -> Response<Body> {
    let mut response = reuse_header_map(request_headers);
    *response.status_mut() = StatusCode::NOT_MODIFIED;
    add_cache_headers(response.headers_mut(), entry);
    response
}

/// Adds the validators, the other headers that caches need, and the metadata, which caches update by
/// a 304 (RFC 9111, 4.3.4).
fn add_cache_headers(headers: &mut HeaderMap, entry: &StoredValue) {
    headers.insert(ETAG, etag::header(entry.version));
    headers.insert(LAST_MODIFIED, dates::header(entry.version.time));
    headers.insert(CACHE_CONTROL, HeaderValue::from_static("no-cache"));
    if let Some(time) = entry.expires_at {
        headers.insert(EXPIRES, dates::header(time));
    }
    if let Some(value) = metadata::header(&entry.metadata) {
        headers.insert(&X_CLOUDKV_METADATA, value);
    }
}

fn content_type(entry: &StoredValue) -> HeaderValue {
    const UNKNOWN: &str = "application/octet-stream";
    if entry.content_type.is_empty() {
        return HeaderValue::from_static(UNKNOWN);
    }
    // HTTP/2 keeps header values for as long as a connection lasts, to compress later ones: they
    // must not keep a large record, whose memory the type may share.
    let content_type = if entry.value.len() > MAX_SHARED_VALUE_BYTES {
        HeaderValue::from_bytes(&entry.content_type)
    } else {
        HeaderValue::from_maybe_shared(entry.content_type.clone())
    };
    content_type.unwrap_or_else(|_| HeaderValue::from_static(UNKNOWN))
}

#[cfg(test)]
mod tests {
    use bytes::Bytes;
    use http_body::Body as _;

    use super::*;
    use crate::service::Version;

    fn entry() -> StoredValue {
        StoredValue {
            value: Bytes::from_static(b"value"),
            content_type: Bytes::from_static(b"text/html"),
            version: Version {
                time: 1_574_287_932_000_000_000,
                region: 1,
            },
            expires_at: Some(1_574_287_937_000_000_000),
            metadata: Bytes::from_static(b"{\"a\":1}"),
        }
    }

    fn request_headers() -> HeaderMap {
        let mut headers = HeaderMap::new();
        headers.insert("cookie", HeaderValue::from_static("secret"));
        headers
    }

    #[test]
    fn values_come_with_their_headers() {
        let response = value_response(&mut request_headers(), entry());
        let headers = response.headers();
        assert_eq!(headers[CONTENT_TYPE], "text/html");
        let tag = format!("\"{:016x}-1\"", entry().version.time);
        assert_eq!(headers[ETAG], tag.as_str());
        assert_eq!(headers[LAST_MODIFIED], "Wed, 20 Nov 2019 22:12:12 GMT");
        assert_eq!(headers[EXPIRES], "Wed, 20 Nov 2019 22:12:17 GMT");
        assert_eq!(headers[&X_CLOUDKV_METADATA], "{\"a\":1}");
        assert_eq!(
            headers[CONTENT_SECURITY_POLICY],
            "sandbox; default-src 'none'"
        );
        assert!(
            !headers.contains_key("cookie"),
            "no header of the request is reused"
        );
        assert_eq!(response.body().size_hint().exact(), Some(5));
    }

    #[test]
    fn not_modified_has_validators_and_no_body() {
        let response = not_modified_response(&mut request_headers(), &entry());
        assert_eq!(response.status(), 304);
        assert_eq!(response.headers().len(), 5);
        assert!(response.body().is_end_stream());
    }

    #[test]
    fn values_without_a_type_are_octet_streams() {
        let entry = StoredValue {
            content_type: Bytes::new(),
            ..entry()
        };
        assert_eq!(content_type(&entry), "application/octet-stream");
    }

    #[test]
    fn consistency_has_two_names() {
        for query in [
            None,
            Some("consistency=strong"),
            Some("consistency=eventual"),
        ] {
            let eventual = query == Some("consistency=eventual");
            assert_eq!(is_eventual(Query::new(query)).unwrap(), eventual);
        }
        for query in ["consistency=", "consistency=weak", "consistency=Strong"] {
            assert!(is_eventual(Query::new(Some(query))).is_err());
        }
    }
}
