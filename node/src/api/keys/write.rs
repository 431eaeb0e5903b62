//! PUT, POST and DELETE of a key.

use std::time::Duration;

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
use crate::api::http::{conditions, dates, etag, path, session, ttl};
use crate::api::keys::request_head::{KeyRequestHead, reuse_header_map};
use crate::service::{Precondition, Put, SessionToken};

/// Maximum length of a `Content-Type` that is stored with a value, in bytes.
const MAX_CONTENT_TYPE_BYTES: usize = 256;

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
        ttl: request.ttl,
        precondition: request.precondition,
    };
    let keyspace = &api.service.keyspace;
    let written = keyspace
        .put(bucket, Bytes::copy_from_slice(key), put)
        .await?;
    let mut response = reuse_header_map(&mut head.headers);
    response
        .headers_mut()
        .insert(ETAG, etag::header(written.version));
    if let Some(time) = written.expires_at {
        response.headers_mut().insert(EXPIRES, dates::header(time));
    }
    let seen = (&**bucket, key, written.version);
    session::add_token(response.headers_mut(), request.session, seen, &api.service);
    Ok(response)
}

/// Handles DELETE of a key, which succeeds also if there is none.
pub(super) async fn delete(
    api: &Api,
    head: &mut KeyRequestHead<'_>,
    key: &[u8],
) -> Result<Response<Body>, ApiError> {
    let grant = BucketAccess::authorize(
        &api.service.directory,
        head.bucket,
        AccessIntent::Write,
        &head.headers,
    )
    .await?;
    let bucket = grant.bucket();
    path::check_key(key, bucket.limits.key_bytes)?;
    head.query.refuse_unknown(&[])?;
    let precondition = conditions::parse_precondition(&head.headers)?;
    let directory = &api.service.directory;
    let session = session::from_request(&head.headers, directory).await?;
    let keyspace = &api.service.keyspace;
    let written = keyspace
        .delete(bucket, Bytes::copy_from_slice(key), precondition)
        .await?;
    let mut response = reuse_header_map(&mut head.headers);
    let seen = (&**bucket, key, written.version);
    session::add_token(response.headers_mut(), session, seen, &api.service);
    Ok(response)
}

/// Parsed head of a PUT: everything but the value.
struct PutRequest {
    grant: BucketAccess,
    ttl: Option<Duration>,
    content_type: Bytes,
    precondition: Precondition,
    session: SessionToken,
}

impl PutRequest {
    async fn parse(api: &Api, head: &KeyRequestHead<'_>, key: &[u8]) -> Result<Self, ApiError> {
        let grant = BucketAccess::authorize(
            &api.service.directory,
            head.bucket,
            AccessIntent::Write,
            &head.headers,
        )
        .await?;
        path::check_key(key, grant.bucket().limits.key_bytes)?;
        head.query.refuse_unknown(&["ttl"])?;
        Ok(Self {
            grant,
            ttl: parse_ttl(head.query)?,
            content_type: parse_content_type(&head.headers)?,
            precondition: conditions::parse_precondition(&head.headers)?,
            session: session::from_request(&head.headers, &api.service.directory).await?,
        })
    }
}

fn parse_ttl(query: Query<'_>) -> Result<Option<Duration>, ApiError> {
    let Some(text) = query.get("ttl")? else {
        return Ok(None);
    };
    let invalid = |error: ttl::TtlError| ApiError::invalid("invalid_ttl", error.to_string());
    ttl::parse(&text).map(Some).map_err(invalid)
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
    use http::HeaderValue;

    use super::*;

    #[test]
    fn ttl_is_optional_and_checked() {
        assert_eq!(parse_ttl(Query::new(None)).unwrap(), None);
        assert_eq!(
            parse_ttl(Query::new(Some("ttl=5s"))).unwrap(),
            Some(Duration::from_secs(5))
        );
        for query in ["ttl=", "ttl", "ttl=0", "ttl=x", "ttl=99999d"] {
            assert_eq!(
                parse_ttl(Query::new(Some(query))).unwrap_err().code(),
                "invalid_ttl",
                "{query}"
            );
        }
        let twice = parse_ttl(Query::new(Some("ttl=5&ttl=6"))).unwrap_err();
        assert_eq!(twice.code(), "invalid_parameter");
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
