//! Parses an HTTP/1.1 response: its end, status and body.

use anyhow::{Context, Result, bail};

const MAX_HEADERS: usize = 64;

/// Location of a response at the start of a buffer.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Response {
    /// Status code.
    pub status: u16,
    /// Range of the body.
    pub body: std::ops::Range<usize>,
}

impl Response {
    /// Bytes of header section and body.
    pub(super) fn len(&self) -> usize {
        self.body.end
    }

    /// Parses the response at the start of `input`: `None` while its header section is incomplete.
    /// The body may still be incomplete: compare [`Response::len`] with the input's length.
    pub(super) fn parse(input: &[u8]) -> Result<Option<Self>> {
        let mut headers = [httparse::EMPTY_HEADER; MAX_HEADERS];
        let mut parsed = httparse::Response::new(&mut headers);
        let head = match parsed.parse(input).context("parse response head")? {
            httparse::Status::Complete(head) => head,
            httparse::Status::Partial => return Ok(None),
        };
        let status = parsed.code.context("response without status")?;
        let length = body_length(status, parsed.headers)?;
        Ok(Some(Self {
            status,
            body: head..head + length,
        }))
    }
}

fn body_length(status: u16, headers: &[httparse::Header<'_>]) -> Result<usize> {
    let mut length = None;
    for header in headers {
        if header.name.eq_ignore_ascii_case("content-length") {
            let text = std::str::from_utf8(header.value).context("content-length")?;
            length = Some(text.trim().parse().context("content-length")?);
        } else if header.name.eq_ignore_ascii_case("transfer-encoding") {
            bail!("chunked responses are not supported by this client");
        }
    }
    match (length, status) {
        (_, 204 | 304) => Ok(0),
        (Some(length), _) => Ok(length),
        (None, _) => bail!("response with status {status} has no content-length"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn finds_status_and_body() {
        let input = b"HTTP/1.1 200 OK\r\nA: b\r\ncontent-LENGTH: 5\r\n\r\nhelloHTTP/1.1 404";
        let response = Response::parse(input).unwrap().unwrap();
        assert_eq!(response.status, 200);
        assert_eq!(&input[response.body.clone()], b"hello");
        assert_eq!(&input[response.len()..], b"HTTP/1.1 404");
    }

    #[test]
    fn an_incomplete_header_is_no_response() {
        let input = b"HTTP/1.1 200 OK\r\nContent-Length: 5\r\n";
        assert_eq!(Response::parse(input).unwrap(), None);
    }

    #[test]
    fn responses_without_a_length_are_refused() {
        assert!(Response::parse(b"HTTP/1.1 200 OK\r\n\r\n").is_err());
        assert!(Response::parse(b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n").is_err());
        assert!(Response::parse(b"nonsense\r\n\r\n").is_err());
        let no_content = Response::parse(b"HTTP/1.1 204 No Content\r\n\r\n")
            .unwrap()
            .unwrap();
        assert_eq!(no_content.body.len(), 0);
    }
}
