//! Access control of buckets.
//!
//! [`BucketAccess`] is the proof of authorisation: only [`BucketAccess::authorize`] creates one,
//! and handlers of keys require one, so a handler that forgets the check doesn't compile.

use std::sync::Arc;

use http::HeaderMap;

use crate::api::errors::ApiError;
use crate::api::http::headers::API_KEY;
use crate::api::http::request_headers::single;
use crate::service::{Access, AccountId, Bucket, BucketId, Directory};

/// Kind of access to a bucket's keys that a request needs.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum AccessIntent {
    /// The request reads keys.
    Read,
    /// The request changes keys.
    Write,
}

/// A bucket to which the request has the access that it needs.
pub(crate) struct BucketAccess(Arc<Bucket>);

impl BucketAccess {
    /// Looks a bucket up by its name in the path and checks that the request may use it.
    pub(crate) async fn authorize(
        directory: &Directory,
        name: &[u8],
        intent: AccessIntent,
        headers: &HeaderMap,
    ) -> Result<Self, ApiError> {
        let bucket = find_bucket(directory, name).await?;
        if needs_owner(bucket.access, intent)
            && authenticate_owner(directory, headers).await? != bucket.owner
        {
            return Err(ApiError::forbidden());
        }
        Ok(Self(bucket))
    }

    /// Returns the bucket.
    pub(crate) fn bucket(&self) -> &Arc<Bucket> {
        &self.0
    }
}

/// Looks a bucket up by its name in the path. That the request may use it is still to be checked.
pub(crate) async fn find_bucket(
    directory: &Directory,
    name: &[u8],
) -> Result<Arc<Bucket>, ApiError> {
    let id = BucketId::parse(name).ok_or_else(ApiError::unknown_bucket)?;
    match directory.bucket(&id) {
        Some(bucket) => Ok(bucket),
        // Boxed, since it is rare and large: the bucket may have been created at another node a
        // moment ago.
        None => Box::pin(directory.find_bucket(&id))
            .await?
            .ok_or_else(ApiError::unknown_bucket),
    }
}

fn needs_owner(access: Access, intent: AccessIntent) -> bool {
    match access {
        Access::Public => false,
        Access::PublicRead => intent == AccessIntent::Write,
        Access::Protected => true,
    }
}

/// Returns the account of the request's API key; 401 if it has none, or one of no account.
pub(crate) async fn authenticate_owner(
    directory: &Directory,
    headers: &HeaderMap,
) -> Result<AccountId, ApiError> {
    let key = api_key(headers)?.ok_or_else(ApiError::unauthorized)?;
    match directory.authenticate(key) {
        Some(account) => Ok(account),
        None => Box::pin(directory.find_account(key))
            .await?
            .ok_or_else(ApiError::unauthorized),
    }
}

/// Returns the API key of a request. None, if it is empty or an unset Postman variable
/// (`{{account_key}}`); 401 if it isn't text.
pub(crate) fn api_key(headers: &HeaderMap) -> Result<Option<&str>, ApiError> {
    let Some(value) = single(headers, &API_KEY)? else {
        return Ok(None);
    };
    let key = value.to_str().map_err(|_| ApiError::unauthorized())?.trim();
    Ok((!key.is_empty() && !key.starts_with("{{")).then_some(key))
}

#[cfg(test)]
mod tests {
    use http::HeaderValue;

    use super::*;

    fn key_of(value: &'static [u8]) -> Result<Option<String>, &'static str> {
        let mut headers = HeaderMap::new();
        headers.insert(&API_KEY, HeaderValue::from_bytes(value).unwrap());
        api_key(&headers)
            .map(|key| key.map(str::to_owned))
            .map_err(|error| error.code())
    }

    #[test]
    fn access_modes_decide_who_needs_a_key() {
        assert!(!needs_owner(Access::Public, AccessIntent::Write));
        assert!(!needs_owner(Access::PublicRead, AccessIntent::Read));
        assert!(needs_owner(Access::PublicRead, AccessIntent::Write));
        assert!(needs_owner(Access::Protected, AccessIntent::Read));
    }

    #[test]
    fn empty_and_unset_variables_are_no_key() {
        assert_eq!(key_of(b""), Ok(None));
        assert_eq!(key_of(b"{{account_key}}"), Ok(None));
        assert_eq!(key_of(b"b98b258d"), Ok(Some("b98b258d".into())));
        assert_eq!(key_of(b"\xff"), Err("unauthorized"));
        assert_eq!(api_key(&HeaderMap::new()).unwrap(), None);
    }
}
