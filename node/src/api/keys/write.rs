//! PUT, POST, PATCH and DELETE of a key.

use bytes::Bytes;
use http::header::{CONTENT_TYPE, ETAG, EXPIRES};
use http::{HeaderMap, Response};

use crate::api::Api;
use crate::api::access::{AccessIntent, BucketAccess};
use crate::api::errors::ApiError;
use crate::api::http::body::Body;
use crate::api::http::query::Query;
use crate::api::http::receive::IncomingBody;
use crate::api::http::request_headers::single;
use crate::api::http::{conditions, dates, etag, expiry, metadata, path, session};
use crate::api::keys::parameters::MAX_CONTENT_TYPE_BYTES;
use crate::api::keys::read::leader_error;
use crate::api::keys::request_head::{KeyRequestHead, reuse_header_map};
use crate::service::{
    Bucket, Expiry, KeyWrite, Nanos, Precondition, Put, SessionToken, Touch, WriteReceipt,
};

/// Handles PUT or POST of a key.
pub(super) async fn put<B: IncomingBody>(
    api: &Api,
    head: &mut KeyRequestHead<'_>,
    key: &[u8],
    mut body: B,
) -> Result<Response<Body>, ApiError> {
    let request = PutRequest::parse(api, head, key).await?;
    let bucket = request.grant.bucket();
    let limit = bucket.limits.value_bytes;
    let received = api
        .body_reader
        .receive(
            &mut body,
            limit,
            || {
                head.peer
                    .client_address(&head.headers, &api.trusted_proxies)
            },
            ApiError::value_too_large,
        )
        .await?;
    let put = Put {
        value: received.bytes.clone(),
        content_type: request.content_type,
        metadata: request.metadata,
        expiry: request.expiry,
        precondition: request.precondition,
    };
    let keyspace = &api.service.keyspace;
    let written = keyspace
        .write(bucket, Bytes::copy_from_slice(key), KeyWrite::Put(put))
        .await?;
    let written = (&**bucket, key, written);
    Ok(written_response(api, head, request.session, written))
}

/// Handles PATCH of a key, which changes its expiry or metadata and keeps its value.
pub(super) async fn patch<B: IncomingBody>(
    api: &Api,
    head: &mut KeyRequestHead<'_>,
    key: &[u8],
    mut body: B,
) -> Result<Response<Body>, ApiError> {
    let grant = authorize_write(api, head, key).await?;
    let bucket = grant.bucket();
    head.query.refuse_unknown(&expiry::PARAMETERS)?;
    let expiry = parse_expiry(head.query, || api.service.directory.now())?;
    let metadata = metadata::from_request(&head.headers)?;
    if expiry.is_none() && metadata.is_none() {
        return Err(ApiError::nothing_to_change());
    }
    let precondition = conditions::parse_precondition(&head.headers)?;
    let session = session::from_request(&head.headers, &api.service.directory).await?;
    let client = || {
        head.peer
            .client_address(&head.headers, &api.trusted_proxies)
    };
    let none = api.body_reader.receive(&mut body, 0, client, |_| {
        ApiError::invalid_body("a PATCH of a key takes no body: PUT replaces the value")
    });
    none.await?;
    let touch = Touch {
        expiry,
        metadata,
        precondition,
    };
    let keyspace = &api.service.keyspace;
    let is_caught_up = keyspace.await_session(bucket, key, &session);
    is_caught_up.await.map_err(leader_error)?;
    let written = keyspace
        .write(bucket, Bytes::copy_from_slice(key), KeyWrite::Touch(touch))
        .await?;
    Ok(written_response(api, head, session, (bucket, key, written)))
}

/// Builds the response to a write that leaves a live key.
fn written_response(
    api: &Api,
    head: &mut KeyRequestHead<'_>,
    session: SessionToken,
    (bucket, key, written): (&Bucket, &[u8], WriteReceipt),
) -> Response<Body> {
    let mut response = reuse_header_map(&mut head.headers);
    let headers = response.headers_mut();
    headers.insert(ETAG, etag::header(written.version));
    if let Some(time) = written.expires_at {
        headers.insert(EXPIRES, dates::header(time));
    }
    session::add_token(
        headers,
        session,
        (bucket, key, written.version),
        &api.service,
    );
    response
}

/// Checks that a request may write a key.
async fn authorize_write(
    api: &Api,
    head: &KeyRequestHead<'_>,
    key: &[u8],
) -> Result<BucketAccess, ApiError> {
    let grant = BucketAccess::authorize(
        &api.service.directory,
        head.bucket,
        AccessIntent::Write,
        &head.headers,
    )
    .await?;
    path::check_key(key, grant.bucket().limits.key_bytes)?;
    Ok(grant)
}

/// Handles DELETE of a key, which succeeds also if there is none.
pub(super) async fn delete(
    api: &Api,
    head: &mut KeyRequestHead<'_>,
    key: &[u8],
) -> Result<Response<Body>, ApiError> {
    let grant = authorize_write(api, head, key).await?;
    let bucket = grant.bucket();
    head.query.refuse_unknown(&[])?;
    let precondition = conditions::parse_precondition(&head.headers)?;
    let directory = &api.service.directory;
    let session = session::from_request(&head.headers, directory).await?;
    let keyspace = &api.service.keyspace;
    let delete = KeyWrite::Delete(precondition);
    let written = keyspace
        .write(bucket, Bytes::copy_from_slice(key), delete)
        .await?;
    let mut response = reuse_header_map(&mut head.headers);
    let seen = (&**bucket, key, written.version);
    session::add_token(response.headers_mut(), session, seen, &api.service);
    Ok(response)
}

/// Parsed head of a PUT: everything but the value.
struct PutRequest {
    grant: BucketAccess,
    expiry: Expiry,
    content_type: Bytes,
    metadata: Bytes,
    precondition: Precondition,
    session: SessionToken,
}

impl PutRequest {
    async fn parse(api: &Api, head: &KeyRequestHead<'_>, key: &[u8]) -> Result<Self, ApiError> {
        let grant = authorize_write(api, head, key).await?;
        head.query.refuse_unknown(&expiry::PARAMETERS)?;
        let expiry = match parse_expiry(head.query, || api.service.directory.now())? {
            Some(expiry) => expiry,
            None => expiry::default_of(grant.bucket()),
        };
        Ok(Self {
            grant,
            expiry,
            content_type: parse_content_type(&head.headers)?,
            metadata: metadata::from_request(&head.headers)?.unwrap_or_default(),
            precondition: conditions::parse_precondition(&head.headers)?,
            session: session::from_request(&head.headers, &api.service.directory).await?,
        })
    }
}

/// Parses the expiry that a query names. Nearly all have none, so the clock isn't read for them.
fn parse_expiry(query: Query<'_>, now: impl FnOnce() -> Nanos) -> Result<Option<Expiry>, ApiError> {
    if query.is_empty() {
        return Ok(None);
    }
    let [ttl, expires_at, persist] = expiry::PARAMETERS;
    let (ttl, expires_at, persist) = (query.get(ttl)?, query.get(expires_at)?, query.get(persist)?);
    expiry::requested(
        ttl.as_deref(),
        expires_at.as_deref(),
        persist.as_deref(),
        now(),
    )
    .map_err(|error| ApiError::invalid_ttl(error.to_string()))
}

fn parse_content_type(headers: &HeaderMap) -> Result<Bytes, ApiError> {
    match single(headers, &CONTENT_TYPE)? {
        None => Ok(Bytes::new()),
        Some(value) if value.len() <= MAX_CONTENT_TYPE_BYTES => {
            Ok(Bytes::copy_from_slice(value.as_bytes()))
        }
        Some(_) => Err(ApiError::invalid_header(format!(
            "header content-type must have at most {MAX_CONTENT_TYPE_BYTES} bytes"
        ))),
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use http::HeaderValue;

    use super::*;

    #[test]
    fn expiry_is_optional_and_checked() {
        let of = |query| parse_expiry(Query::new(query), || 1_000_000_000);
        assert_eq!(of(None).unwrap(), None);
        assert_eq!(of(Some("x=1")).unwrap(), None);
        let ttl = Expiry::After(Duration::from_secs(5));
        assert_eq!(of(Some("ttl=5s")).unwrap(), Some(ttl));
        let time = Expiry::At(2_000_000_000);
        assert_eq!(of(Some("expires_at=2")).unwrap(), Some(time));
        let time = of(Some("expires_at=1970-01-01T01:00:02%2B01:00")).unwrap();
        assert_eq!(time, Some(Expiry::At(2_000_000_000)));
        assert_eq!(of(Some("persist=true")).unwrap(), Some(Expiry::Never));
        for query in [
            "ttl=",
            "ttl",
            "ttl=0",
            "ttl=x",
            "ttl=99999d",
            "expires_at=1",
            "expires_at=",
            "persist=1",
            "ttl=1&persist=true",
        ] {
            assert_eq!(
                of(Some(query)).unwrap_err().code(),
                "invalid_ttl",
                "{query}"
            );
        }
        assert_eq!(
            of(Some("ttl=5&ttl=6")).unwrap_err().code(),
            "invalid_parameter"
        );
    }

    #[test]
    fn content_types_are_bounded() {
        let mut headers = HeaderMap::new();
        assert!(parse_content_type(&headers).unwrap().is_empty());
        headers.insert(CONTENT_TYPE, HeaderValue::from_static("text/plain"));
        assert_eq!(parse_content_type(&headers).unwrap(), "text/plain");
        let long = "x".repeat(MAX_CONTENT_TYPE_BYTES + 1);
        headers.insert(CONTENT_TYPE, HeaderValue::from_str(&long).unwrap());
        assert_eq!(
            parse_content_type(&headers).unwrap_err().code(),
            "invalid_header"
        );
    }
}
