//! Fuzz target of the queries of lists, with their cursors and links.

use bytes::Bytes;

use super::query::ListRequest;
use crate::api::fuzzing::refusal::check_refusal;
use crate::api::http::query::Query;
use crate::service::{BucketId, ListPosition};

const BUCKET: &[u8; BucketId::LEN] = b"aArigQkIoMOGqG";

/// Parses a query. The list goes on behind the name after the query's line, with the link to its
/// next page.
pub fn list_queries(data: &[u8]) {
    let Some(bucket) = BucketId::parse(BUCKET) else {
        return;
    };
    let end = data.iter().position(|byte| *byte == b'\n');
    let (query, name) = data.split_at(end.unwrap_or(data.len()));
    let Ok(query) = std::str::from_utf8(query) else {
        return;
    };
    let request = match ListRequest::parse(&bucket, Query::new(Some(query))) {
        Ok(request) => request,
        Err(error) => return check_refusal(error),
    };
    assert!((1..=1000).contains(&request.query.limit));
    let name = Bytes::copy_from_slice(name.trim_ascii());
    if !name.is_empty() {
        check_link(&bucket, &request, &ListPosition::Key(name.clone()));
        check_link(&bucket, &request, &ListPosition::Prefix(name));
    }
}

/// Checks that the link to the next page is the same query, narrowed to what comes behind a
/// position.
fn check_link(bucket: &BucketId, request: &ListRequest<'_>, position: &ListPosition) {
    let cursor = request.cursor(position);
    let link = request.next_link(bucket, &cursor);
    let link = link.as_ref().ok().and_then(|link| link.to_str().ok());
    let path = format!("</kv/{}?", bucket.as_str());
    let query = link
        .unwrap_or_default()
        .strip_prefix(&path)
        .and_then(|rest| rest.strip_suffix(">; rel=\"next\""));
    assert!(query.is_some(), "the link is malformed: {link:?}");
    let query = query.unwrap_or_default();
    let without_cursor = query.strip_suffix(&format!("cursor={cursor}"));
    assert!(without_cursor.is_some(), "{query} has no cursor");

    let first = ListRequest::parse(bucket, Query::new(without_cursor));
    let next = ListRequest::parse(bucket, Query::new(Some(query)));
    assert!(first.is_ok() && next.is_ok(), "{first:?}, {next:?}");
    if let (Ok(first), Ok(next)) = (first, next) {
        assert!(next.has_cursor && !first.has_cursor);
        let mut expected = first.query;
        position.narrow(&mut expected);
        assert_eq!(next.query, expected);
        // The page is one of the same list.
        let (ours, theirs) = (&request.query, &next.query);
        assert_eq!(ours.prefix, theirs.prefix);
        assert_eq!(ours.delimiter, theirs.delimiter);
        assert_eq!(
            (ours.is_reverse, ours.with_values, ours.limit),
            (theirs.is_reverse, theirs.with_values, theirs.limit)
        );
        assert_eq!(request.cursor(position), next.cursor(position));
    }
}
