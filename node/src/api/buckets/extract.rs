//! Extractors of the handlers of buckets: the account, the bucket's name, and the parameters.

use std::net::{IpAddr, Ipv6Addr};

use axum::extract::{FromRequest, FromRequestParts, Request};
use http::header::CONTENT_TYPE;
use http::request::Parts;

use crate::api::access;
use crate::api::buckets::params::Params;
use crate::api::buckets::{Management, Peer, forms};
use crate::api::errors::ApiError;
use crate::api::http::query::Query;
use crate::service::{AccountId, BucketId};
use cloudkv_common::server::percent;

/// Maximum size of the body of a request about buckets, in bytes.
const MAX_BODY: usize = 64 << 10;

/// Account of the request's API key.
pub(crate) struct Owner(pub(crate) AccountId);

impl FromRequestParts<Management> for Owner {
    type Rejection = ApiError;

    async fn from_request_parts(parts: &mut Parts, state: &Management) -> Result<Self, ApiError> {
        access::owner(&state.directory, &parts.headers)
            .await
            .map(Self)
    }
}

/// Account of the request's API key, with that key; `None` if the request has no key.
pub(crate) struct MaybeOwner(pub(crate) Option<(AccountId, String)>);

impl FromRequestParts<Management> for MaybeOwner {
    type Rejection = ApiError;

    async fn from_request_parts(parts: &mut Parts, state: &Management) -> Result<Self, ApiError> {
        let Some(key) = access::api_key(&parts.headers)? else {
            return Ok(Self(None));
        };
        let account = access::owner(&state.directory, &parts.headers).await?;
        Ok(Self(Some((account, key.to_owned()))))
    }
}

/// Bucket that the path names, not looked up.
pub(crate) struct Named(pub(crate) BucketId);

impl FromRequestParts<Management> for Named {
    type Rejection = ApiError;

    async fn from_request_parts(parts: &mut Parts, _: &Management) -> Result<Self, ApiError> {
        let name = parts.uri.path().rsplit('/').next().unwrap_or_default();
        let name = percent::decode_path(name).map_err(|_| ApiError::bad_path_escape())?;
        BucketId::parse(&name)
            .map(Self)
            .ok_or_else(ApiError::unknown_bucket)
    }
}

/// Number of keys that a request to delete a bucket confirms.
pub(crate) struct Confirm(pub(crate) u64);

impl FromRequestParts<Management> for Confirm {
    type Rejection = ApiError;

    async fn from_request_parts(parts: &mut Parts, _: &Management) -> Result<Self, ApiError> {
        confirm(Query::new(parts.uri.query())).map(Self)
    }
}

fn confirm(query: Query<'_>) -> Result<u64, ApiError> {
    query.only(&["confirm"])?;
    let Some(text) = query.get("confirm")? else {
        let message = "confirm must be the bucket's number of keys, as GET /buckets tells it";
        return Err(ApiError::new(
            http::StatusCode::BAD_REQUEST,
            "confirm_required",
            message,
        ));
    };
    let is_number = text.bytes().all(|byte| byte.is_ascii_digit());
    let number = if is_number { text.parse().ok() } else { None };
    number.ok_or_else(|| ApiError::parameter("confirm must be a whole number"))
}

impl FromRequest<Management> for Params {
    type Rejection = ApiError;

    async fn from_request(request: Request, state: &Management) -> Result<Self, ApiError> {
        let (parts, mut body) = request.into_parts();
        let query = Query::new(parts.uri.query());
        query.only(&Self::NAMES)?;
        let from_query = Self::of_query(query)?;
        let client = || {
            let source = parts.extensions.get::<Peer>();
            let unknown = IpAddr::V6(Ipv6Addr::UNSPECIFIED);
            source.map_or(unknown, |source| source.client(&parts.headers, &state.trusted))
        };
        let received = state
            .intake
            .receive(&mut body, MAX_BODY, client, ApiError::body_too_large)
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
    fn confirm_is_a_number_and_required() {
        assert_eq!(confirm(Query::new(Some("confirm=0"))).unwrap(), 0);
        assert_eq!(
            confirm(Query::new(Some("confirm=14520010"))).unwrap(),
            14_520_010
        );
        assert_eq!(
            confirm(Query::new(None)).unwrap_err().code(),
            "confirm_required"
        );
        for text in [
            "confirm=",
            "confirm=x",
            "confirm=-1",
            "confirm=%2B1",
            "confirm=1.0",
        ] {
            let error = confirm(Query::new(Some(text))).unwrap_err();
            assert_eq!(error.code(), "invalid_parameter", "{text}");
        }
    }
}
