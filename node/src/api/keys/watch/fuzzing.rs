//! Fuzz target of requests for event streams, with their resume tokens.

use http::{HeaderMap, HeaderValue};

use super::parameters::{LAST_EVENT_ID, WatchParameters};
use crate::api::fuzzing::refusal::check_refusal;
use crate::api::http::query::Query;
use crate::api::keys::list::MAX_LIST_PARAMETER_BYTES;
use crate::service::{BucketId, KeyFilter, ResumeToken};

const BUCKET: &[u8; BucketId::LEN] = b"aArigQkIoMOGqG";

/// Parses a query as that of a bucket and of a key. What comes after the query's line is the ID of
/// the last event.
pub fn watch_requests(data: &[u8]) {
    let Some(bucket) = BucketId::parse(BUCKET) else {
        return;
    };
    let end = data.iter().position(|byte| *byte == b'\n');
    let (query, id) = data.split_at(end.unwrap_or(data.len()));
    let Ok(query) = std::str::from_utf8(query) else {
        return;
    };
    let mut headers = HeaderMap::new();
    if let Ok(id) = HeaderValue::from_bytes(id.trim_ascii()) {
        headers.insert(&LAST_EVENT_ID, id);
    }
    for key in [None, Some(&b"key"[..])] {
        let query = Query::new(Some(query));
        match WatchParameters::parse(&bucket, key, query, &headers) {
            Ok(parameters) => check_parameters(&bucket, key, parameters),
            Err(error) => check_refusal(error),
        }
    }
}

/// Checks that the filter is that of the path, and that the token survives a round trip.
fn check_parameters(bucket: &BucketId, key: Option<&[u8]>, parameters: WatchParameters) {
    match parameters.filter {
        KeyFilter::Key(filter) => assert_eq!(key, Some(&filter[..])),
        KeyFilter::Prefix(prefix) => {
            assert!(key.is_none() && prefix.len() <= MAX_LIST_PARAMETER_BYTES);
        }
    }
    if let Some(token) = parameters.since {
        let read = ResumeToken::parse(&token.to_string(), bucket);
        assert_eq!(read, Ok(token), "a token didn't survive a round trip");
    }
}
