//! GET and HEAD of a bucket: lists its keys, in ascending order of their bytes.

use std::borrow::Cow;

use bytes::Bytes;
use http::header::{CACHE_CONTROL, CONTENT_TYPE};
use http::{HeaderMap, HeaderValue, Response};
use serde::Serialize;

use crate::api::Api;
use crate::api::access::{AccessIntent, BucketAccess};
use crate::api::errors::ApiError;
use crate::api::http::body::Body;
use crate::api::http::headers::{JSON, TEXT};
use crate::api::http::query::Query;
use crate::api::http::{accept, dates, etag};
use crate::api::keys::request_head::{KeyRequestHead, reuse_header_map};
use crate::service::{KeyInfo, ListQuery};

/// Maximum number of keys in one listing, and the default.
const MAX_LISTED_KEYS: usize = 1000;

/// Handles GET or HEAD of a bucket's keys.
pub(super) async fn list(api: &Api, head: KeyRequestHead<'_>) -> Result<Response<Body>, ApiError> {
    let grant = BucketAccess::authorize(
        &api.service.directory,
        head.bucket,
        AccessIntent::Read,
        &head.headers,
    )
    .await?;
    let query = parse_query(head.query)?;
    let keys = api.service.keyspace.list(grant.bucket(), query).await?;
    if keys.is_empty() {
        return Err(ApiError::no_keys());
    }
    let format = if accept::prefers_json(&head.headers) {
        ListFormat::Json
    } else {
        ListFormat::Text
    };
    let body = match format {
        ListFormat::Text => format_text(&keys),
        ListFormat::Json => format_json(&keys)?,
    };
    Ok(list_response(head.headers, format, body))
}

/// Format of a listing.
#[derive(Clone, Copy)]
enum ListFormat {
    Text,
    Json,
}

fn parse_query(query: Query<'_>) -> Result<ListQuery, ApiError> {
    let prefix = query.get("prefix")?.unwrap_or_default();
    let after = query.get("after")?.filter(|after| !after.is_empty());
    Ok(ListQuery {
        prefix: Bytes::from(prefix.into_owned()),
        after: after.map(|after| Bytes::from(after.into_owned())),
        limit: parse_limit(query)?,
    })
}

fn parse_limit(query: Query<'_>) -> Result<usize, ApiError> {
    let Some(text) = query.get("limit")? else {
        return Ok(MAX_LISTED_KEYS);
    };
    let is_number = !text.is_empty() && text.bytes().all(|byte| byte.is_ascii_digit());
    let number = if is_number { text.parse().ok() } else { None };
    number
        .filter(|number| (1..=MAX_LISTED_KEYS).contains(number))
        .ok_or_else(|| {
            ApiError::invalid_parameter(format!(
                "limit must be a number from 1 to {MAX_LISTED_KEYS}"
            ))
        })
}

fn format_text(keys: &[KeyInfo]) -> Vec<u8> {
    let size = keys.iter().map(|info| info.key.len() + 1).sum();
    let mut lines = Vec::with_capacity(size);
    for info in keys {
        if !lines.is_empty() {
            lines.push(b'\n');
        }
        lines.extend_from_slice(&info.key);
    }
    lines
}

#[derive(Serialize)]
struct Listing<'a> {
    keys: Vec<ListedKey<'a>>,
}

#[derive(Serialize)]
struct ListedKey<'a> {
    name: Cow<'a, str>,
    size: u64,
    version: String,
    expires_at: Option<String>,
}

fn format_json(keys: &[KeyInfo]) -> Result<Vec<u8>, ApiError> {
    let listing = Listing {
        keys: keys.iter().map(listed_key).collect(),
    };
    serde_json::to_vec(&listing)
        .map_err(|error| ApiError::internal("serializing a listing failed", &error))
}

fn listed_key(info: &KeyInfo) -> ListedKey<'_> {
    ListedKey {
        name: String::from_utf8_lossy(&info.key),
        size: info.size,
        version: etag::text(info.version),
        expires_at: info.expires_at.map(dates::rfc3339),
    }
}

fn list_response(
    mut request_headers: HeaderMap,
    format: ListFormat,
    body: Vec<u8>,
) -> Response<Body> {
    let mut response = reuse_header_map(&mut request_headers);
    let headers = response.headers_mut();
    headers.insert(CACHE_CONTROL, HeaderValue::from_static("no-cache"));
    headers.insert(http::header::VARY, HeaderValue::from_static("accept"));
    headers.insert(
        http::header::X_CONTENT_TYPE_OPTIONS,
        HeaderValue::from_static("nosniff"),
    );
    headers.insert(
        CONTENT_TYPE,
        match format {
            ListFormat::Text => TEXT,
            ListFormat::Json => JSON,
        },
    );
    *response.body_mut() = Body::full(body);
    response
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::service::Version;

    fn keys() -> Vec<KeyInfo> {
        let info = |name: &'static str, expires_at| KeyInfo {
            key: Bytes::from_static(name.as_bytes()),
            size: 3,
            version: Version {
                time: 16,
                region: 2,
            },
            expires_at,
        };
        vec![info("a/b", None), info("ключ", Some(1_000_000_000))]
    }

    #[test]
    fn text_has_one_name_per_line_and_no_last_newline() {
        assert_eq!(format_text(&keys()), "a/b\nключ".as_bytes());
    }

    #[test]
    fn json_has_sizes_versions_and_expiries() {
        let json: serde_json::Value =
            serde_json::from_slice(&format_json(&keys()).unwrap()).unwrap();
        let expected = serde_json::json!({"keys": [
            {"name": "a/b", "size": 3, "version": "0000000000000010-2", "expires_at": null},
            {"name": "ключ", "size": 3, "version": "0000000000000010-2",
             "expires_at": "1970-01-01T00:00:01.000000Z"},
        ]});
        assert_eq!(json, expected);
    }

    #[test]
    fn queries_have_defaults_and_bounds() {
        let query = parse_query(Query::new(None)).unwrap();
        assert_eq!(
            (query.prefix.len(), query.after, query.limit),
            (0, None, MAX_LISTED_KEYS)
        );
        let query = parse_query(Query::new(Some("prefix=a%2F&after=a%2Fb&limit=7"))).unwrap();
        assert_eq!((&query.prefix[..], query.limit), (&b"a/"[..], 7));
        assert_eq!(query.after.unwrap(), "a/b");
        assert_eq!(parse_query(Query::new(Some("after="))).unwrap().after, None);
        for text in [
            "limit=0",
            "limit=1001",
            "limit=",
            "limit=+5",
            "limit=x",
            "limit=-1",
        ] {
            let error = parse_query(Query::new(Some(text))).unwrap_err();
            assert_eq!(error.code(), "invalid_parameter", "{text}");
        }
    }
}
