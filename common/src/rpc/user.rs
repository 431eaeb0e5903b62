//! Headers of a user's request, and of its answer, as they travel between router and node.
//!
//! All of them are one piece of memory, a line for each: its name, a colon, its value. Whoever
//! reads them shares the values with what came in, and copies none.

use bytes::{BufMut, Bytes, BytesMut};
use http::{HeaderMap, HeaderName, HeaderValue};

/// Headers that can't be read.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("a line is no header, or there are too many")]
pub struct NoHeader;

/// Writes headers, those left out for which `skip` holds.
pub fn write_headers(headers: &HeaderMap, skip: impl Fn(&HeaderName) -> bool) -> Bytes {
    let size = |(name, value): (&HeaderName, &HeaderValue)| name.as_str().len() + value.len() + 2;
    let mut text = BytesMut::with_capacity(headers.iter().map(size).sum());
    for (name, value) in headers.iter().filter(|(name, _)| !skip(name)) {
        text.put_slice(name.as_str().as_bytes());
        text.put_u8(b':');
        text.put_slice(value.as_bytes());
        text.put_u8(b'\n');
    }
    text.freeze()
}

/// Reads headers, with room for `more`.
pub fn read_headers(text: &Bytes, more: usize) -> Result<HeaderMap, NoHeader> {
    let lines = text.iter().filter(|byte| **byte == b'\n').count();
    let mut headers = HeaderMap::try_with_capacity(lines + more).map_err(|_| NoHeader)?;
    let mut at = 0;
    while at < text.len() {
        let rest = text.get(at..).unwrap_or_default();
        let length = position(rest, b'\n').ok_or(NoHeader)?;
        let colon = position(rest.get(..length).unwrap_or_default(), b':').ok_or(NoHeader)?;
        let name = HeaderName::from_bytes(rest.get(..colon).unwrap_or_default());
        let value = text.slice(at + colon + 1..at + length);
        let value = HeaderValue::from_maybe_shared(value);
        let (name, value) = (name.map_err(|_| NoHeader)?, value.map_err(|_| NoHeader)?);
        headers.try_append(name, value).map_err(|_| NoHeader)?;
        at += length + 1;
    }
    Ok(headers)
}

fn position(text: &[u8], wanted: u8) -> Option<usize> {
    text.iter().position(|byte| *byte == wanted)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::{any, prop_assert_eq, proptest};

    use super::*;

    #[test]
    fn more_headers_than_a_map_holds_are_refused() {
        for line in ["\n", "a:b\n"] {
            let text = Bytes::from(line.repeat(40_000));
            assert_eq!(read_headers(&text, 4).unwrap_err(), NoHeader);
        }
    }

    #[test]
    fn what_is_written_reads_back() {
        let mut headers = HeaderMap::new();
        headers.append("etag", HeaderValue::from_static("\"a:b\""));
        headers.append("x-empty", HeaderValue::from_static(""));
        headers.append("x-twice", HeaderValue::from_static("1"));
        headers.append("x-twice", HeaderValue::from_bytes(b"\xff\t2").unwrap());
        let text = write_headers(&headers, |_| false);
        assert_eq!(read_headers(&text, 2), Ok(headers.clone()));
        let fewer = write_headers(&headers, |name| name == "etag");
        headers.remove("etag");
        assert_eq!(read_headers(&fewer, 0), Ok(headers));
    }

    #[test]
    fn what_is_none_is_refused() {
        for text in ["a:b", "a\n", ":b\n", "a b:c\n", "a:\x01\n", "\n", "a:b\n\n"] {
            let text = Bytes::from_static(text.as_bytes());
            assert_eq!(read_headers(&text, 0), Err(NoHeader), "{text:?}");
        }
    }

    proptest! {
        #[test]
        fn whatever_is_read_is_written_again(text in any::<Vec<u8>>()) {
            let text = Bytes::from(text);
            if let Ok(headers) = read_headers(&text, 0) {
                let again = write_headers(&headers, |_| false);
                prop_assert_eq!(read_headers(&again, 0), Ok(headers));
            }
        }
    }
}
