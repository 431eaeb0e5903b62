//! Extractors of the handlers of buckets: the account, the bucket's name, and the parameters.

use std::borrow::Cow;
use std::net::{IpAddr, Ipv6Addr};
use std::sync::Arc;

use axum::extract::{FromRequest, FromRequestParts, Request};
use http::header::CONTENT_TYPE;
use http::request::Parts;

use crate::api::access;
use crate::api::buckets::creation_limiter::RequestSource;
use crate::api::buckets::forms;
use crate::api::buckets::params::BucketParams;
use crate::api::buckets::state::BucketsState;
use crate::api::errors::ApiError;
use crate::api::http::query::Query;
use crate::service::{AccountId, Bucket, BucketId};
use cloudkv_common::server::percent;

/// Maximum size of the body of a request about buckets, in bytes.
const MAX_BODY_BYTES: usize = 64 << 10;

/// Parameter of a deletion: the number of keys.
pub(crate) const CONFIRM_PARAMETER: &str = "confirm";

/// Account of the request's API key.
pub(crate) struct Owner(pub(crate) AccountId);

impl FromRequestParts<BucketsState> for Owner {
    type Rejection = ApiError;

    async fn from_request_parts(parts: &mut Parts, state: &BucketsState) -> Result<Self, ApiError> {
        access::authenticate_owner(&state.directory, &parts.headers)
            .await
            .map(Self)
    }
}

/// Account of the request's API key, with that key; `None` if the request has no key.
pub(crate) struct OptionalOwner(pub(crate) Option<(AccountId, String)>);

impl FromRequestParts<BucketsState> for OptionalOwner {
    type Rejection = ApiError;

    async fn from_request_parts(parts: &mut Parts, state: &BucketsState) -> Result<Self, ApiError> {
        let Some(key) = access::api_key(&parts.headers)? else {
            return Ok(Self(None));
        };
        let account = access::authenticate_owner(&state.directory, &parts.headers).await?;
        Ok(Self(Some((account, key.to_owned()))))
    }
}

/// Bucket that the path names, not looked up.
pub(crate) struct BucketName(pub(crate) BucketId);

impl FromRequestParts<BucketsState> for BucketName {
    type Rejection = ApiError;

    async fn from_request_parts(parts: &mut Parts, _: &BucketsState) -> Result<Self, ApiError> {
        let name = bucket_name(parts.uri.path())?;
        BucketId::parse(&name)
            .map(Self)
            .ok_or_else(ApiError::unknown_bucket)
    }
}

/// Returns the name of the bucket in a path `/buckets/{bucket}` or below.
fn bucket_name(path: &str) -> Result<Cow<'_, [u8]>, ApiError> {
    let name = path.split('/').nth(2).unwrap_or_default();
    percent::decode_path(name).map_err(|_| ApiError::invalid_path_escape())
}

/// Bucket that the path names, of the account of the request's API key.
pub(crate) struct OwnedBucket(pub(crate) Arc<Bucket>);

impl FromRequestParts<BucketsState> for OwnedBucket {
    type Rejection = ApiError;

    async fn from_request_parts(parts: &mut Parts, state: &BucketsState) -> Result<Self, ApiError> {
        let account = access::authenticate_owner(&state.directory, &parts.headers).await?;
        let name = bucket_name(parts.uri.path())?;
        let bucket = access::find_bucket(&state.directory, &name).await?;
        if bucket.owner == account {
            Ok(Self(bucket))
        } else {
            Err(ApiError::forbidden())
        }
    }
}

/// Number of keys that a request to delete a bucket confirms.
pub(crate) struct ConfirmedKeyCount(pub(crate) u64);

impl FromRequestParts<BucketsState> for ConfirmedKeyCount {
    type Rejection = ApiError;

    async fn from_request_parts(parts: &mut Parts, _: &BucketsState) -> Result<Self, ApiError> {
        parse_confirm(Query::new(parts.uri.query())).map(Self)
    }
}

fn parse_confirm(query: Query<'_>) -> Result<u64, ApiError> {
    query.refuse_unknown(&[CONFIRM_PARAMETER])?;
    let Some(text) = query.get(CONFIRM_PARAMETER)? else {
        let message = "confirm must be the bucket's number of keys, as GET /buckets tells it";
        return Err(ApiError::confirm_required(message));
    };
    let is_number = text.bytes().all(|byte| byte.is_ascii_digit());
    let number = if is_number { text.parse().ok() } else { None };
    number.ok_or_else(|| ApiError::invalid_parameter("confirm must be a whole number"))
}

impl FromRequest<BucketsState> for BucketParams {
    type Rejection = ApiError;

    async fn from_request(request: Request, state: &BucketsState) -> Result<Self, ApiError> {
        let (parts, mut body) = request.into_parts();
        let query = Query::new(parts.uri.query());
        query.refuse_unknown(&Self::NAMES)?;
        let from_query = Self::from_query(query)?;
        let client = || {
            let source = parts.extensions.get::<RequestSource>();
            let unknown = IpAddr::V6(Ipv6Addr::UNSPECIFIED);
            source.map_or(unknown, |source| {
                source.client_address(&parts.headers, &state.trusted_proxies)
            })
        };
        let received = state
            .body_reader
            .receive(&mut body, MAX_BODY_BYTES, client, ApiError::body_too_large)
            .await?;
        let declared = parts
            .headers
            .get(CONTENT_TYPE)
            .and_then(|value| value.to_str().ok());
        forms::parse(declared, received.bytes.clone())
            .await?
            .merge(from_query)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_path_names_its_bucket() {
        for (path, expected) in [
            ("/buckets/aB", "aB"),
            ("/buckets/aB/export", "aB"),
            ("/buckets/a%42/import", "aB"),
            ("/buckets/", ""),
            ("/buckets", ""),
        ] {
            let name = bucket_name(path).unwrap();
            assert_eq!(&*name, expected.as_bytes(), "{path}");
        }
        assert_eq!(
            bucket_name("/buckets/%4/export").unwrap_err().code(),
            "invalid_path"
        );
    }

    #[test]
    fn confirm_is_a_number_and_required() {
        assert_eq!(parse_confirm(Query::new(Some("confirm=0"))).unwrap(), 0);
        assert_eq!(
            parse_confirm(Query::new(Some("confirm=14520010"))).unwrap(),
            14_520_010
        );
        assert_eq!(
            parse_confirm(Query::new(None)).unwrap_err().code(),
            "confirm_required"
        );
        for text in [
            "confirm=",
            "confirm=x",
            "confirm=-1",
            "confirm=%2B1",
            "confirm=1.0",
        ] {
            let error = parse_confirm(Query::new(Some(text))).unwrap_err();
            assert_eq!(error.code(), "invalid_parameter", "{text}");
        }
    }
}
