//! Session tokens in headers.

use http::{HeaderMap, HeaderValue};

use crate::api::errors::ApiError;
use crate::api::http::headers::{X_CLOUDKV_MIN_VERSION, X_CLOUDKV_VERSION, single};
use crate::service::{Directory, Session, Version};

/// What the request's client has seen.
pub fn of_request(headers: &HeaderMap, directory: &Directory) -> Result<Session, ApiError> {
    match single(headers, &X_CLOUDKV_MIN_VERSION)? {
        None => Ok(Session::default()),
        Some(value) => {
            let text = value.to_str().unwrap_or_default();
            let session = Session::parse(text, &directory.topology());
            session.map_err(|error| ApiError::header(format!("x-cloudkv-min-version {error}")))
        }
    }
}

/// Gives the client a token of all it has seen, with a version of one more key. In a cluster of one
/// region there is nothing to wait for.
pub fn tell(
    headers: &mut HeaderMap,
    mut session: Session,
    seen: Option<(u16, Version)>,
    directory: &Directory,
) {
    let Some(regions) = directory.regions() else {
        return;
    };
    if let Some((shard, version)) = seen {
        session.note(shard, version, &regions);
    }
    if !session.is_empty()
        && let Ok(token) = HeaderValue::try_from(session.to_string())
    {
        headers.insert(&X_CLOUDKV_VERSION, token);
    }
}
