//! Streams of server-sent events, as the HTML standard defines them: what programs share of them.
//!
//! A browser's `EventSource` connects again after a stream has ended, but never after a response
//! with any other status than 200. So what is only temporary is a stream that ends at once, and says
//! when to connect again ([`end`]).
//!
//! Invariant: no empty line is written but at the end of a block with an ID. A stream's first empty
//! lines would set the ID that the client goes on from to none. Comments and `retry` count line by
//! line.

use std::time::Duration;

use bytes::Bytes;
use http::header::{
    ACCEPT, CACHE_CONTROL, CONTENT_TYPE as CONTENT_TYPE_NAME, X_CONTENT_TYPE_OPTIONS,
};
use http::{HeaderMap, HeaderName, HeaderValue};

/// Media type of a stream.
const MEDIA_TYPE: &str = "text/event-stream";
/// `Content-Type` of a stream: it is always UTF-8.
pub const CONTENT_TYPE: HeaderValue = HeaderValue::from_static(MEDIA_TYPE);
/// Comment, which keeps the connection alive. It may stand wherever a line begins.
pub const COMMENT: &[u8] = b":\n";

/// Header by which nginx and others are asked not to buffer a response.
static X_ACCEL_BUFFERING: HeaderName = HeaderName::from_static("x-accel-buffering");

/// Returns whether a client asks for a stream: `Accept` has its type by name. Wildcards don't
/// count, since most clients send them.
pub fn is_requested(headers: &HeaderMap) -> bool {
    headers.get_all(ACCEPT).iter().any(names_stream)
}

fn names_stream(line: &HeaderValue) -> bool {
    if line.len() < MEDIA_TYPE.len() {
        return false;
    }
    let Ok(line) = line.to_str() else {
        return false;
    };
    line.split(',').any(|range| {
        let mut parts = range.split(';').map(str::trim);
        let is_named = parts
            .next()
            .is_some_and(|name| name.eq_ignore_ascii_case(MEDIA_TYPE));
        is_named && !parts.any(refuses)
    })
}

/// Returns whether a parameter of a media range says that it isn't accepted: `q=0`.
fn refuses(parameter: &str) -> bool {
    let Some((name, weight)) = parameter.split_once('=') else {
        return false;
    };
    let is_zero = weight.trim().parse().is_ok_and(|weight: f32| weight <= 0.0);
    name.trim().eq_ignore_ascii_case("q") && is_zero
}

/// Adds the headers of a stream: no cache keeps it, no proxy holds it back, and no browser takes it
/// for something else.
pub fn add_headers(headers: &mut HeaderMap) {
    headers.insert(CONTENT_TYPE_NAME, CONTENT_TYPE);
    headers.insert(CACHE_CONTROL, HeaderValue::from_static("no-store"));
    headers.insert(&X_ACCEL_BUFFERING, HeaderValue::from_static("no"));
    headers.insert(X_CONTENT_TYPE_OPTIONS, HeaderValue::from_static("nosniff"));
}

/// Returns the last lines of a stream: a comment with the reason of the end, and the time after
/// which the client connects again.
pub fn end(reason: &str, retry: Duration) -> Bytes {
    let reason: String = reason.chars().filter(|char| !char.is_control()).collect();
    Bytes::from(format!(": {reason}\n{}", retry_line(retry)))
}

/// Returns the line that sets the time after which a client connects again when a stream ends.
pub fn retry_line(retry: Duration) -> String {
    format!("retry: {}\n", retry.as_millis())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn is_requested_by(lines: &[&'static str]) -> bool {
        let mut headers = HeaderMap::new();
        for line in lines {
            headers.append(ACCEPT, HeaderValue::from_static(line));
        }
        is_requested(&headers)
    }

    #[test]
    fn a_stream_is_requested_by_its_name() {
        assert!(is_requested_by(&["text/event-stream"]));
        assert!(is_requested_by(&["Text/Event-Stream; charset=utf-8"]));
        assert!(is_requested_by(&[
            "application/json, text/event-stream;q=0.1"
        ]));
        assert!(is_requested_by(&["application/json", "text/event-stream"]));
        assert!(!is_requested_by(&[]));
        assert!(!is_requested_by(&["*/*"]));
        assert!(!is_requested_by(&["text/*, application/json;q=0.9"]));
        assert!(!is_requested_by(&["text/event-stream;q=0"]));
        assert!(!is_requested_by(&["text/event-stream; Q=0.000, */*"]));
        assert!(!is_requested_by(&["application/text/event-stream"]));
        assert!(!is_requested_by(&["text/event-streams, text/plain"]));
    }

    #[test]
    fn what_is_no_text_requests_nothing() {
        let mut headers = HeaderMap::new();
        let line = HeaderValue::from_bytes(b"text/event-stream, \xff").unwrap();
        headers.insert(ACCEPT, line);
        assert!(!is_requested(&headers));
    }

    #[test]
    fn an_end_has_two_lines_whatever_its_reason_is() {
        let lines = end("the node\nstops\r", Duration::from_millis(1500));
        assert_eq!(lines, ": the nodestops\nretry: 1500\n");
    }

    #[test]
    fn streams_have_their_headers() {
        let mut headers = HeaderMap::new();
        headers.insert(CACHE_CONTROL, HeaderValue::from_static("no-cache"));
        add_headers(&mut headers);
        assert_eq!(headers[CONTENT_TYPE_NAME], "text/event-stream");
        assert_eq!(headers[CACHE_CONTROL], "no-store");
        assert_eq!(headers["x-accel-buffering"], "no");
        assert_eq!(headers[X_CONTENT_TYPE_OPTIONS], "nosniff");
    }
}
