//! Parameters of watches.

use http::HeaderValue;

use super::*;

const BUCKET: &[u8; BucketId::LEN] = b"aArigQkIoMOGqG";
/// Token of positions 1, 300 and 0 in region 3.
const TOKEN: &str = "AXUQMycDAAAAAAAA_u0BrAIA";
/// Token of a client that was not told all yet.
const INCOMPLETE: &str = "AnUQMyc";
/// Token of another bucket.
const OTHER: &str = "AgAAAAE";

fn parse(
    key: Option<&str>,
    query: &str,
    last_event_id: Option<&[u8]>,
) -> Result<WatchParameters, ApiError> {
    let bucket = BucketId::parse(BUCKET).unwrap();
    let mut headers = HeaderMap::new();
    if let Some(id) = last_event_id {
        headers.insert(&LAST_EVENT_ID, HeaderValue::from_bytes(id).unwrap());
    }
    let key = key.map(str::as_bytes);
    WatchParameters::parse(&bucket, key, Query::new(Some(query)), &headers)
}

/// Returns the token with which a watch goes on, or the code of the error.
fn since(query: &str, last_event_id: Option<&[u8]>) -> Result<Option<String>, &'static str> {
    match parse(None, query, last_event_id) {
        Ok(parameters) => Ok(parameters.since.map(|token| token.to_string())),
        Err(error) => Err(error.code()),
    }
}

#[test]
fn a_bucket_is_watched_as_a_whole_or_by_prefix() {
    let all = parse(None, "", None).unwrap();
    assert_eq!(all.filter, KeyFilter::Prefix(Bytes::new()));
    assert!(!all.initial && !all.with_values && all.since.is_none());
    let some = parse(None, "prefix=a%2F%C3%BC&initial=true&values=true", None).unwrap();
    assert_eq!(some.filter, KeyFilter::Prefix("a/ü".into()));
    assert!(some.initial && some.with_values);
    let longest = format!("prefix={}", "p".repeat(MAX_LIST_PARAMETER_BYTES));
    assert!(parse(None, &longest, None).is_ok());
    let error = parse(None, &(longest + "p"), None).unwrap_err();
    assert_eq!(error.code(), "invalid_parameter");
}

#[test]
fn a_key_is_watched_without_a_prefix() {
    let key = parse(Some("a/b"), "initial=true&values=false", None).unwrap();
    assert_eq!(key.filter, KeyFilter::Key("a/b".into()));
    assert!(key.initial && !key.with_values);
    let error = parse(Some("a/b"), "prefix=a", None).unwrap_err();
    assert_eq!(error.code(), "invalid_parameter");
}

#[test]
fn the_id_of_the_last_event_wins_over_the_query() {
    let in_query = format!("since={TOKEN}");
    assert_eq!(since("", None), Ok(None));
    assert_eq!(since("since=", Some(b"")), Ok(None));
    assert_eq!(since(&in_query, None), Ok(Some(TOKEN.into())));
    assert_eq!(since(&in_query, Some(b" ")), Ok(Some(TOKEN.into())));
    let header = Some(INCOMPLETE.as_bytes());
    assert_eq!(since("", header), Ok(Some(INCOMPLETE.into())));
    assert_eq!(since(&in_query, header), Ok(Some(INCOMPLETE.into())));
    // Browsers repeat the query, whose token may be of any age.
    assert_eq!(since("since=x", header), Ok(Some(INCOMPLETE.into())));
}

#[test]
fn tokens_are_refused_that_are_malformed_or_of_another_bucket() {
    let refused = Err("invalid_resume_token");
    for token in [OTHER, "AQ", "*", "7", &TOKEN[..TOKEN.len() - 2]] {
        assert_eq!(since(&format!("since={token}"), None), refused, "{token}");
        assert_eq!(since("", Some(token.as_bytes())), refused, "{token}");
    }
    assert_eq!(since("", Some(b"\xff")), refused);
    let error = parse(None, &format!("since={OTHER}"), None).unwrap_err();
    assert!(error.into_message().contains("another bucket"));
}

#[test]
fn parameters_of_lists_are_refused_with_the_reason() {
    for query in ["limit=5", "cursor=AQ", "after=", "delimiter=%2F&prefix=a"] {
        for key in [None, Some("key")] {
            let error = parse(key, query, None).unwrap_err();
            assert_eq!(error.code(), "invalid_parameter");
            let message = error.into_message();
            assert!(message.contains("is a parameter of lists"), "{message}");
        }
    }
}

#[test]
fn other_parameters_are_refused() {
    for query in [
        "colour=red",
        "consistency=eventual",
        "initial=yes",
        "values=",
    ] {
        let error = parse(None, query, None).unwrap_err();
        assert_eq!(error.code(), "invalid_parameter", "{query}");
    }
    let error = parse(None, "values=true&values=true", None).unwrap_err();
    assert!(error.into_message().contains("once"));
}
