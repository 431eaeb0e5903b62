//! Validation of a request's head before anything acts on it, at node and router alike.
//!
//! hyper refuses heads that can't be parsed. Heads that are refused here can be parsed, but in more
//! than one way by the programs that a request passes: then two of them would disagree on what is
//! requested, or by whom (request smuggling).

use http::{HeaderMap, HeaderName, Request, StatusCode, Version, header};

/// Maximum number of header lines, [`UNCOUNTED_HEADERS`] aside. hyper takes 100 over HTTP/1, and a
/// router adds up to one of each of those to the ones received.
const MAX_HEADERS: usize = 90;

/// Headers that a router sets by itself.
static UNCOUNTED_HEADERS: [HeaderName; 7] = [
    header::HOST,
    header::CONTENT_LENGTH,
    header::TRANSFER_ENCODING,
    HeaderName::from_static("x-request-id"),
    HeaderName::from_static("x-forwarded-for"),
    HeaderName::from_static("x-forwarded-proto"),
    HeaderName::from_static("x-cloudkv-router"),
];

/// End-to-end headers: they identify the client, the target or a condition, and `Connection` must
/// not remove them.
const END_TO_END_HEADERS: [&str; 12] = [
    "api-key",
    "authorization",
    "cookie",
    "expect",
    "forwarded",
    "host",
    "origin",
    "range",
    "transfer-encoding",
    "x-real-ip",
    "x-request-id",
    "cache-control",
];

/// Prefixes of the names of end-to-end headers.
const END_TO_END_PREFIXES: [&str; 6] = [
    "accept",
    "access-control-",
    "content-",
    "if-",
    "x-cloudkv-",
    "x-forwarded-",
];

/// Error of a request's head.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum HeadError {
    /// `Host` that is missing in HTTP/1.1.
    #[error("header host must be given")]
    MissingHost,
    /// More than one `Host`.
    #[error("header host must be given once")]
    DuplicateHost,
    /// Transfer coding other than chunked.
    #[error("header transfer-encoding must be chunked, once and nothing else")]
    TransferEncoding,
    /// `Connection` that names an end-to-end header.
    #[error(
        "header connection must not name a header that is for the whole way: close, keep-alive, \
         te and upgrade concern the connection"
    )]
    Connection,
    /// More header lines than allowed.
    #[error(
        "a request must have at most {MAX_HEADERS} header lines, beside those for its host, \
         length, ID and proxies"
    )]
    TooManyHeaders,
}

impl HeadError {
    /// Returns the status of the response.
    pub fn status(self) -> StatusCode {
        match self {
            Self::TooManyHeaders => StatusCode::REQUEST_HEADER_FIELDS_TOO_LARGE,
            Self::MissingHost | Self::DuplicateHost | Self::TransferEncoding | Self::Connection => {
                StatusCode::BAD_REQUEST
            }
        }
    }

    /// Returns the error's code, which never changes.
    pub fn code(self) -> &'static str {
        match self {
            Self::TooManyHeaders => "too_many_headers",
            Self::MissingHost | Self::DuplicateHost | Self::TransferEncoding | Self::Connection => {
                "invalid_header"
            }
        }
    }
}

/// Checks the head of a request as it came from a client.
///
/// # Errors
/// Fails if the request must be refused.
pub fn check_head<B>(request: &Request<B>) -> Result<(), HeadError> {
    let headers = request.headers();
    let version = request.version();
    match headers.get_all(header::HOST).iter().take(2).count() {
        0 if version == Version::HTTP_11 => return Err(HeadError::MissingHost),
        2 => return Err(HeadError::DuplicateHost),
        _ => {}
    }
    if headers.len() > MAX_HEADERS && count_headers(headers) > MAX_HEADERS {
        return Err(HeadError::TooManyHeaders);
    }
    if version >= Version::HTTP_2 {
        // HTTP/2 has neither of the other headers, and h2 refuses requests with them.
        return Ok(());
    }
    check_transfer_encoding(headers, version)?;
    check_connection(headers)
}

/// Returns the number of header lines, [`UNCOUNTED_HEADERS`] aside.
fn count_headers(headers: &HeaderMap) -> usize {
    let names = headers.iter().map(|(name, _)| name);
    names
        .filter(|name| !UNCOUNTED_HEADERS.contains(name))
        .count()
}

fn check_transfer_encoding(headers: &HeaderMap, version: Version) -> Result<(), HeadError> {
    let mut values = headers.get_all(header::TRANSFER_ENCODING).iter();
    let Some(value) = values.next() else {
        return Ok(());
    };
    let chunked = value.as_bytes().trim_ascii();
    let is_only_chunked = values.next().is_none() && chunked.eq_ignore_ascii_case(b"chunked");
    if is_only_chunked && version == Version::HTTP_11 {
        Ok(())
    } else {
        Err(HeadError::TransferEncoding)
    }
}

fn check_connection(headers: &HeaderMap) -> Result<(), HeadError> {
    let values = headers.get_all(header::CONNECTION).iter();
    let mut names = values.flat_map(|value| value.as_bytes().split(|byte| *byte == b','));
    if names.any(|name| is_end_to_end(name.trim_ascii())) {
        return Err(HeadError::Connection);
    }
    Ok(())
}

fn is_end_to_end(name: &[u8]) -> bool {
    let has_prefix = |prefix: &&str| {
        let start = name.get(..prefix.len());
        start.is_some_and(|start| start.eq_ignore_ascii_case(prefix.as_bytes()))
    };
    let is_equal = |other: &&str| name.eq_ignore_ascii_case(other.as_bytes());
    END_TO_END_HEADERS.iter().any(is_equal) || END_TO_END_PREFIXES.iter().any(has_prefix)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn check(version: Version, lines: &[(&str, &str)]) -> Result<(), HeadError> {
        let mut request = Request::builder().version(version);
        for (name, value) in lines {
            request = request.header(*name, *value);
        }
        check_head(&request.body(()).unwrap())
    }

    fn http1(line: (&str, &str)) -> Result<(), HeadError> {
        check(Version::HTTP_11, &[("host", "x"), line])
    }

    #[test]
    fn http_1_1_must_name_one_host() {
        assert_eq!(check(Version::HTTP_11, &[]), Err(HeadError::MissingHost));
        assert_eq!(check(Version::HTTP_11, &[("host", "")]), Ok(()));
        for version in [Version::HTTP_10, Version::HTTP_2] {
            assert_eq!(check(version, &[]), Ok(()));
            let twice = check(version, &[("host", "a"), ("host", "a")]);
            assert_eq!(twice, Err(HeadError::DuplicateHost));
        }
        assert_eq!(http1(("host", "x")), Err(HeadError::DuplicateHost));
    }

    #[test]
    fn transfer_encoding_must_be_chunked_only() {
        for value in ["chunked", "Chunked", " chunked "] {
            assert_eq!(http1(("transfer-encoding", value)), Ok(()), "{value}");
        }
        for value in ["gzip, chunked", "chunked, chunked", "identity", ""] {
            let refused = http1(("transfer-encoding", value));
            assert_eq!(refused, Err(HeadError::TransferEncoding), "{value}");
        }
        let old = check(Version::HTTP_10, &[("transfer-encoding", "chunked")]);
        assert_eq!(old, Err(HeadError::TransferEncoding));
    }

    #[test]
    fn connection_must_not_name_end_to_end_headers() {
        for value in [
            "close",
            "keep-alive, TE",
            "Upgrade, HTTP2-Settings",
            "x-mine",
        ] {
            assert_eq!(http1(("connection", value)), Ok(()), "{value}");
        }
        for value in [
            "api-key",
            "close, API-Key",
            "if-match",
            "content-length",
            "X-CloudKV-Min-Version",
        ] {
            let refused = http1(("connection", value));
            assert_eq!(refused, Err(HeadError::Connection), "{value}");
        }
    }

    #[test]
    fn headers_are_counted_without_those_of_routers() {
        let lines = |count: usize| {
            let mut lines = vec![
                ("host", "x"),
                ("x-request-id", "y"),
                ("content-length", "0"),
            ];
            lines.extend(std::iter::repeat_n(("a", "b"), count));
            lines
        };
        assert_eq!(check(Version::HTTP_11, &lines(MAX_HEADERS)), Ok(()));
        for version in [Version::HTTP_11, Version::HTTP_2] {
            let more = check(version, &lines(MAX_HEADERS + 1));
            assert_eq!(more, Err(HeadError::TooManyHeaders));
        }
    }
}
