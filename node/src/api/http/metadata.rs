//! Metadata of keys: a small JSON object that users keep with a value.
//!
//! It is stored as it is sent in a header: compact, and in ASCII, with other characters as `\u`
//! escapes. So a read copies it, and parses nothing.

use std::fmt::Write as _;

use bytes::Bytes;
use http::{HeaderMap, HeaderValue};
use serde::de::IgnoredAny;
use serde_json::{Map, Value};

use crate::api::errors::ApiError;
use crate::api::http::headers::X_CLOUDKV_METADATA;
use crate::api::http::request_headers::single;

/// Maximum size of stored metadata, in bytes.
pub(crate) const MAX_METADATA_BYTES: usize = 1024;
/// Maximum length of a parser's message, which may quote the metadata, in characters.
const MAX_MESSAGE_CHARS: usize = 256;

/// Error of metadata.
#[derive(Debug, PartialEq, Eq, thiserror::Error)]
pub(crate) enum MetadataError {
    /// It is no JSON object.
    #[error("metadata must be a JSON object, as in {{\"color\":\"red\"}}: {0}")]
    NoObject(String),
    /// It is longer than [`MAX_METADATA_BYTES`].
    #[error(
        "metadata must have at most {MAX_METADATA_BYTES} bytes, without spaces and with \\u \
         escapes, and this has {0}"
    )]
    TooLong(usize),
}

/// Reads the metadata of a request's header; `None` if it has none, empty for `{}`.
pub(crate) fn from_request(headers: &HeaderMap) -> Result<Option<Bytes>, ApiError> {
    let Some(value) = single(headers, &X_CLOUDKV_METADATA)? else {
        return Ok(None);
    };
    let Ok(text) = value.to_str() else {
        let message = "header x-cloudkv-metadata must be ASCII: write other characters as \\u \
                       escapes, as in {\"city\":\"Z\\u00fcrich\"}";
        return Err(ApiError::invalid_header(message));
    };
    let metadata = compact(text);
    let metadata = metadata
        .map_err(|error| ApiError::invalid_header(format!("header x-cloudkv-metadata: {error}")))?;
    Ok(Some(metadata))
}

/// Returns the header value of stored metadata; `None` if there is none.
pub(crate) fn header(metadata: &Bytes) -> Option<HeaderValue> {
    if metadata.is_empty() {
        return None;
    }
    // Copied: over HTTP/2 it would keep the record's memory for as long as the connection lasts.
    HeaderValue::from_bytes(metadata).ok()
}

/// Converts a JSON object in any spelling to its stored form; `{}` to none, which is empty.
pub(crate) fn compact(json: &str) -> Result<Bytes, MetadataError> {
    let no_object = |error: serde_json::Error| {
        let message = error.to_string();
        MetadataError::NoObject(message.chars().take(MAX_MESSAGE_CHARS).collect())
    };
    // Checked without being kept: a batch may bring MiBs of it, whose values would take hundreds.
    serde_json::from_str::<IgnoredAny>(json).map_err(no_object)?;
    let stored = minify(json, MAX_METADATA_BYTES).map_err(MetadataError::TooLong)?;
    // Parsed to be checked only: numbers and the order of fields stay as they are written.
    let object: Map<String, Value> = serde_json::from_str(&stored).map_err(no_object)?;
    if object.is_empty() {
        return Ok(Bytes::new());
    }
    Ok(Bytes::from(stored))
}

/// Removes the spaces between the tokens of valid JSON, and escapes what isn't ASCII, or is the
/// control character DEL, which a header can't have. Fails with the length if it exceeds `limit`.
fn minify(json: &str, limit: usize) -> Result<String, usize> {
    let mut out = String::new();
    let mut length = 0;
    let mut is_string = false;
    let mut is_escaped = false;
    for char in json.chars() {
        // The rest is only counted.
        if out.len() > limit {
            length += out.len();
            out.clear();
        }
        if !is_string && char.is_ascii_whitespace() {
            continue;
        }
        match char {
            '"' if !is_escaped => is_string = !is_string,
            _ => {}
        }
        is_escaped = is_string && char == '\\' && !is_escaped;
        if char.is_ascii() && char != '\u{7f}' {
            out.push(char);
            continue;
        }
        for unit in char.encode_utf16(&mut [0; 2]) {
            // Writing to a string never fails.
            let _ = write!(out, "\\u{unit:04x}");
        }
    }
    length += out.len();
    if length > limit { Err(length) } else { Ok(out) }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::{Strategy, any, prop_assert, prop_assert_eq, proptest};

    use super::*;

    fn stored(json: &str) -> Result<String, MetadataError> {
        compact(json).map(|bytes| String::from_utf8(bytes.to_vec()).unwrap())
    }

    #[test]
    fn objects_become_compact_ascii_and_stay_as_they_are_written() {
        for (json, expected) in [
            (
                "{ \"a\" : 1,\n \"b\": [ true, null ] }",
                r#"{"a":1,"b":[true,null]}"#,
            ),
            (
                r#"{"b":1.0,"a":1e2,"n":123456789012345678901}"#,
                r#"{"b":1.0,"a":1e2,"n":123456789012345678901}"#,
            ),
            (r#"{"a b":"c  d\" e\\"}"#, r#"{"a b":"c  d\" e\\"}"#),
            (r#"{"k":"\\ \" : "}"#, r#"{"k":"\\ \" : "}"#),
            ("{\"ü\":\"😀\"}", r#"{"\u00fc":"\ud83d\ude00"}"#),
            ("{\"del\":\"\u{7f}\"}", r#"{"del":"\u007f"}"#),
            ("{}", ""),
            (" { } ", ""),
        ] {
            assert_eq!(stored(json).as_deref(), Ok(expected), "{json}");
        }
    }

    #[test]
    fn what_is_no_object_is_refused() {
        for json in [
            "",
            "1",
            "null",
            "[]",
            "\"a\"",
            "{",
            "{a:1}",
            "{\"a\":1}}",
            "{\"a\":\"\\ud800\"}",
            "{\"a\":\"\n\"}",
        ] {
            let error = stored(json).unwrap_err();
            assert!(
                matches!(error, MetadataError::NoObject(_)),
                "{json}: {error}"
            );
        }
        let deep = format!("{}{}", "{\"a\":".repeat(200), "}".repeat(200));
        assert!(stored(&deep).is_err());
    }

    #[test]
    fn messages_are_bounded() {
        let long = format!("\"{}\"", "x".repeat(1 << 16));
        let error = stored(&long).unwrap_err();
        assert!(error.to_string().len() < 400, "{error}");
    }

    #[test]
    fn the_size_is_that_of_the_stored_form() {
        let of = |text: &str| stored(&format!("{{ \"a\":   \"{text}\" }}"));
        let longest = MAX_METADATA_BYTES - 8;
        assert_eq!(of(&"x".repeat(longest)).unwrap().len(), MAX_METADATA_BYTES);
        assert_eq!(
            of(&"x".repeat(longest + 1)),
            Err(MetadataError::TooLong(MAX_METADATA_BYTES + 1))
        );
        assert!(of(&"ü".repeat(longest / 2)).is_err());
        // The length is exact however much longer it is.
        let length = 8 + 6 * 10_000;
        assert_eq!(of(&"ü".repeat(10_000)), Err(MetadataError::TooLong(length)));
    }

    #[test]
    fn headers_are_ascii() {
        let mut headers = HeaderMap::new();
        assert_eq!(from_request(&headers).unwrap(), None);
        headers.insert(
            &X_CLOUDKV_METADATA,
            HeaderValue::from_bytes("{\"a\":\"ü\"}".as_bytes()).unwrap(),
        );
        let error = from_request(&headers).unwrap_err();
        assert_eq!(error.code(), "invalid_header");
        headers.insert(&X_CLOUDKV_METADATA, HeaderValue::from_static(""));
        assert!(from_request(&headers).is_err());
        headers.insert(&X_CLOUDKV_METADATA, HeaderValue::from_static("{ }"));
        assert_eq!(from_request(&headers).unwrap(), Some(Bytes::new()));
        headers.insert(&X_CLOUDKV_METADATA, HeaderValue::from_static(r#"{"a": 1}"#));
        let metadata = from_request(&headers).unwrap().unwrap();
        assert_eq!(header(&metadata).unwrap(), r#"{"a":1}"#);
        assert_eq!(header(&Bytes::new()), None);
    }

    fn objects() -> impl Strategy<Value = Value> {
        let fields = proptest::collection::btree_map(any::<String>(), any::<(String, i64)>(), 1..4);
        fields.prop_map(|fields| {
            let fields = fields
                .into_iter()
                .map(|(name, (text, number))| (name, serde_json::json!([text, number])));
            Value::Object(fields.collect())
        })
    }

    proptest! {
        #[test]
        fn the_stored_form_means_the_same(object in objects(), pretty: bool) {
            let json = if pretty {
                serde_json::to_string_pretty(&object).unwrap()
            } else {
                object.to_string()
            };
            if let Ok(stored) = stored(&json) {
                prop_assert!(stored.is_ascii());
                let value = HeaderValue::from_str(&stored);
                prop_assert!(value.is_ok());
                prop_assert_eq!(serde_json::from_str::<Value>(&stored).unwrap(), object);
            }
        }

        #[test]
        fn never_panics(text in any::<String>()) {
            let _ = compact(&text);
        }
    }
}
