//! Session tokens in headers.

use http::{HeaderMap, HeaderValue};

use crate::api::errors::ApiError;
use crate::api::http::headers::{X_CLOUDKV_MIN_VERSION, X_CLOUDKV_VERSION};
use crate::api::http::request_headers::single;
use crate::service::{Bucket, Directory, Service, SessionToken, Version};

/// Parses the session token of a request.
pub(crate) async fn from_request(
    headers: &HeaderMap,
    directory: &Directory,
) -> Result<SessionToken, ApiError> {
    match single(headers, &X_CLOUDKV_MIN_VERSION)? {
        None => Ok(SessionToken::default()),
        Some(value) => {
            let text = value.to_str().unwrap_or_default();
            // Boxed, since it is rare and large.
            let session = Box::pin(directory.parse_session(text)).await?;
            session
                .map_err(|error| ApiError::invalid_header(format!("x-cloudkv-min-version {error}")))
        }
    }
}

/// Returns the client's session token with the version of one more key, if that has any. In a
/// cluster of one region there is no token.
pub(crate) fn response_token(
    session: SessionToken,
    (bucket, key, version): (&Bucket, &[u8], Option<Version>),
    service: &Service,
) -> Option<HeaderValue> {
    let seen = version.map(|version| (key, version));
    response_token_of_all(session, bucket, seen, service)
}

/// Returns the client's session token with the versions of several keys of a bucket.
pub(crate) fn response_token_of_all<'a>(
    mut session: SessionToken,
    bucket: &Bucket,
    seen: impl IntoIterator<Item = (&'a [u8], Version)>,
    service: &Service,
) -> Option<HeaderValue> {
    let regions = service.directory.multi_region_topology()?;
    for (key, version) in seen {
        session.record(service.keyspace.shard_of(bucket, key), version, &regions);
    }
    let token = (!session.is_empty()).then(|| session.to_string())?;
    HeaderValue::try_from(token).ok()
}

/// Adds the client's session token with the version of its write to a response.
pub(crate) fn add_token(
    headers: &mut HeaderMap,
    session: SessionToken,
    (bucket, key, version): (&Bucket, &[u8], Version),
    service: &Service,
) {
    if let Some(token) = response_token(session, (bucket, key, Some(version)), service) {
        headers.insert(&X_CLOUDKV_VERSION, token);
    }
}
