//! Session tokens in headers.

use http::{HeaderMap, HeaderValue};

use crate::api::errors::ApiError;
use crate::api::http::headers::{X_CLOUDKV_MIN_VERSION, X_CLOUDKV_VERSION, single};
use crate::service::{Bucket, Directory, Service, Session, Version};

/// What the request's client has seen.
pub async fn of_request(headers: &HeaderMap, directory: &Directory) -> Result<Session, ApiError> {
    match single(headers, &X_CLOUDKV_MIN_VERSION)? {
        None => Ok(Session::default()),
        Some(value) => {
            let text = value.to_str().unwrap_or_default();
            // Rare, and large.
            let session = Box::pin(directory.session(text)).await?;
            session.map_err(|error| ApiError::header(format!("x-cloudkv-min-version {error}")))
        }
    }
}

/// Gives the client a token of all it has seen, with the version of one more key. In a cluster of one
/// region there is nothing to wait for.
pub fn tell(
    headers: &mut HeaderMap,
    mut session: Session,
    (bucket, key, version): (&Bucket, &[u8], Version),
    service: &Service,
) {
    let Some(regions) = service.directory.regions() else {
        return;
    };
    session.note(service.keyspace.shard_of(bucket, key), version, &regions);
    if !session.is_empty()
        && let Ok(token) = HeaderValue::try_from(session.to_string())
    {
        headers.insert(&X_CLOUDKV_VERSION, token);
    }
}
