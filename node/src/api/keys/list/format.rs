//! The two forms of a list: JSON with all that is known of each key, and text with a name on each
//! line.
//!
//! Metadata is stored as compact JSON, and written as it is.

use std::borrow::Cow;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use serde::Serialize;
use serde_json::value::RawValue;
use utoipa::ToSchema;

use crate::api::errors::ApiError;
use crate::api::http::{dates, etag};
use crate::api::openapi::values;
use crate::service::{KeyInfo, ListEntry, ListPosition, Listing};

/// Maximum size of an answer's values as they are written in JSON, in bytes. One is sent in any
/// case. Only values of many control characters, which are escaped, take more than base64 does.
const MAX_WRITTEN_VALUE_BYTES: usize = 2 << 20;

/// `Content-Type` of a key that was written without one.
const UNKNOWN_TYPE: &str = "application/octet-stream";

/// Lists the names: one a line, without a newline after the last.
pub(super) fn text(entries: &[ListEntry]) -> Vec<u8> {
    let size = entries.iter().map(|entry| entry.name().len() + 1).sum();
    let mut lines = Vec::with_capacity(size);
    for entry in entries {
        if !lines.is_empty() {
            lines.push(b'\n');
        }
        lines.extend_from_slice(entry.name());
    }
    lines
}

/// A page of a list of keys.
#[derive(Serialize, ToSchema)]
#[schema(as = KeyList)]
pub(crate) struct ListBody<'a> {
    /// The keys.
    keys: Vec<ListedKey<'a>>,
    /// Parts of keys up to a delimiter, once each.
    prefixes: Vec<Cow<'a, str>>,
    /// True if nothing follows.
    list_complete: bool,
    /// Position at which the list goes on, unless it is complete.
    #[serde(skip_serializing_if = "Option::is_none")]
    cursor: Option<&'a str>,
}

#[derive(Serialize, ToSchema)]
pub(crate) struct ListedKey<'a> {
    /// The key.
    name: Cow<'a, str>,
    /// Size of the value in bytes.
    size: u64,
    /// Version of the key: its `ETag` without quotes.
    version: String,
    /// Time of the last write.
    #[schema(format = DateTime)]
    modified_at: String,
    /// Time of the expiry.
    #[schema(format = DateTime, required)]
    expires_at: Option<String>,
    /// Type with which the value was written.
    content_type: Cow<'a, str>,
    #[schema(schema_with = values::metadata_or_null, required)]
    metadata: Option<&'a RawValue>,
    /// The value, if values were requested and it is UTF-8.
    #[serde(skip_serializing_if = "Option::is_none")]
    value: Option<&'a str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schema(schema_with = values::base64)]
    value_base64: Option<String>,
}

/// Writes a list as JSON, with the cursor of what follows.
pub(super) fn json(
    entries: &[ListEntry],
    with_values: bool,
    cursor: Option<&str>,
) -> Result<Vec<u8>, ApiError> {
    let mut body = ListBody {
        keys: Vec::with_capacity(entries.len()),
        prefixes: Vec::new(),
        list_complete: cursor.is_none(),
        cursor,
    };
    for entry in entries {
        match entry {
            ListEntry::Key(info) => body.keys.push(listed_key(info, with_values)),
            ListEntry::Prefix(prefix) => body.prefixes.push(String::from_utf8_lossy(prefix)),
        }
    }
    serde_json::to_vec(&body)
        .map_err(|error| ApiError::internal("serializing a listing failed", &error))
}

/// Returns what is written of a key, with its value if it has one and `with_values`.
pub(crate) fn listed_key(info: &KeyInfo, with_values: bool) -> ListedKey<'_> {
    let content_type = match &info.content_type[..] {
        b"" => Cow::Borrowed(UNKNOWN_TYPE),
        content_type => String::from_utf8_lossy(content_type),
    };
    let (value, value_base64) = match &info.value {
        Some(value) if with_values => match std::str::from_utf8(value) {
            Ok(text) => (Some(text), None),
            Err(_) => (None, Some(STANDARD.encode(value))),
        },
        Some(_) | None => (None, None),
    };
    ListedKey {
        name: String::from_utf8_lossy(&info.key),
        size: info.size,
        version: etag::text(info.version),
        modified_at: dates::rfc3339(info.version.time),
        expires_at: info.expires_at.map(dates::rfc3339),
        content_type,
        metadata: metadata_of(info),
        value,
        value_base64,
    }
}

/// Returns the metadata of a key: it is stored as the JSON that it is.
fn metadata_of(info: &KeyInfo) -> Option<&RawValue> {
    if info.metadata.is_empty() {
        return None;
    }
    serde_json::from_slice(&info.metadata).ok()
}

/// Ends a list where its values would take more than [`MAX_WRITTEN_VALUE_BYTES`].
pub(super) fn bound_values(mut listing: Listing) -> Listing {
    let mut bytes = 0;
    let is_beyond = |entry: &ListEntry| {
        bytes += written_value_bytes(entry);
        bytes > MAX_WRITTEN_VALUE_BYTES
    };
    if let Some(end) = listing.entries.iter().position(is_beyond)
        && end.max(1) < listing.entries.len()
    {
        listing.entries.truncate(end.max(1));
        listing.next = listing.entries.last().map(ListPosition::behind);
    }
    listing
}

/// Returns the size of an entry's value as it is written in JSON.
fn written_value_bytes(entry: &ListEntry) -> usize {
    let ListEntry::Key(KeyInfo {
        value: Some(value), ..
    }) = entry
    else {
        return 0;
    };
    let escaped_bytes = |byte: &u8| match byte {
        // A quote, a backslash, and those control characters that have a letter.
        0x22 | 0x5c | 0x08..=0x0a | 0x0c | 0x0d => 2,
        0x00..=0x1f => 6,
        _ => 1,
    };
    match std::str::from_utf8(value) {
        Ok(text) => text.as_bytes().iter().map(escaped_bytes).sum(),
        Err(_) => value.len().div_ceil(3) * 4,
    }
}

#[cfg(test)]
mod tests {
    use bytes::Bytes;
    use serde_json::{Value, json};

    use super::*;
    use crate::service::Version;

    fn key(name: &'static str, value: Option<&'static [u8]>) -> ListEntry {
        ListEntry::Key(KeyInfo {
            key: Bytes::from_static(name.as_bytes()),
            size: 3,
            version: Version {
                time: 16,
                region: 2,
            },
            value: value.map(Bytes::from_static),
            ..KeyInfo::default()
        })
    }

    fn entries() -> Vec<ListEntry> {
        let full = ListEntry::Key(KeyInfo {
            key: Bytes::from_static("ключ".as_bytes()),
            size: 3,
            version: Version {
                time: 16,
                region: 2,
            },
            expires_at: Some(1_000_000_000),
            content_type: Bytes::from_static(b"text/plain"),
            metadata: Bytes::from_static(br#"{"a":[1.50,"\u00fc"]}"#),
            value: None,
        });
        vec![
            key("a", None),
            ListEntry::Prefix(Bytes::from_static(b"b/")),
            full,
        ]
    }

    fn parsed(entries: &[ListEntry], with_values: bool, cursor: Option<&str>) -> Value {
        let body = super::json(entries, with_values, cursor).unwrap();
        serde_json::from_slice(&body).unwrap()
    }

    #[test]
    fn text_has_one_name_per_line_and_no_last_newline() {
        assert_eq!(text(&entries()), "a\nb/\nключ".as_bytes());
        assert_eq!(text(&[]), b"");
    }

    #[test]
    fn json_has_all_that_is_known_of_a_key() {
        let expected = json!({
            "keys": [
                {"name": "a", "size": 3, "version": "0000000000000010-2",
                 "modified_at": "1970-01-01T00:00:00.000000Z", "expires_at": null,
                 "content_type": "application/octet-stream", "metadata": null},
                {"name": "ключ", "size": 3, "version": "0000000000000010-2",
                 "modified_at": "1970-01-01T00:00:00.000000Z",
                 "expires_at": "1970-01-01T00:00:01.000000Z",
                 "content_type": "text/plain", "metadata": {"a": [1.5, "ü"]}},
            ],
            "prefixes": ["b/"],
            "list_complete": true,
        });
        assert_eq!(parsed(&entries(), true, None), expected);
        let goes_on = parsed(&entries(), false, Some("AQ"));
        assert_eq!(goes_on["list_complete"], false);
        assert_eq!(goes_on["cursor"], "AQ");
        let empty = json!({"keys": [], "prefixes": [], "list_complete": true});
        assert_eq!(parsed(&[], false, None), empty);
    }

    #[test]
    fn metadata_is_written_as_it_is_stored() {
        let body = super::json(&entries(), false, None).unwrap();
        let body = String::from_utf8(body).unwrap();
        assert!(
            body.contains(r#""metadata":{"a":[1.50,"\u00fc"]}"#),
            "{body}"
        );
    }

    #[test]
    fn values_are_text_or_base64_and_only_there_if_they_were_requested() {
        let entries = [
            key("a", Some(b"\xc3\xbc\n")),
            key("b", Some(b"\xff\xfe")),
            key("c", Some(b"")),
        ];
        let listed = parsed(&entries, true, None);
        assert_eq!(listed["keys"][0]["value"], "ü\n");
        assert_eq!(listed["keys"][0].get("value_base64"), None);
        assert_eq!(listed["keys"][1]["value_base64"], "//4=");
        assert_eq!(listed["keys"][1].get("value"), None);
        assert_eq!(listed["keys"][2]["value"], "");
        let listed = parsed(&entries, false, None);
        assert_eq!(listed["keys"][2].get("value"), None);
    }

    #[test]
    fn values_that_grow_when_they_are_escaped_end_the_list_early() {
        static ZEROS: [u8; 1 << 18] = [0; 1 << 18];
        let listing = |count: usize| Listing {
            entries: vec![key("k", Some(&ZEROS)); count],
            next: None,
        };
        assert_eq!(bound_values(listing(1)), listing(1));
        let bounded = bound_values(listing(3));
        assert_eq!(bounded.entries.len(), 1);
        let position = ListPosition::Key(Bytes::from_static(b"k"));
        assert_eq!(bounded.next, Some(position));
        let body = super::json(&bounded.entries, true, None).unwrap();
        assert!((3 << 19..MAX_WRITTEN_VALUE_BYTES).contains(&body.len()));
    }

    #[test]
    fn the_size_of_a_written_value_is_that_in_json() {
        let all: &'static [u8] = b"\x00\x07\x08\t\n\x0b\x0c\r\x1f \"\\/\x7f\xc3\xbc";
        for value in [all, b"\xff", b"\xff\xfe\xfd\xfc", b""] {
            let entry = key("k", Some(value));
            let ListEntry::Key(info) = &entry else {
                panic!("a key");
            };
            let listed = listed_key(info, true);
            let written = match (listed.value, listed.value_base64) {
                (Some(text), None) => serde_json::to_vec(text),
                (_, base64) => serde_json::to_vec(&base64.unwrap()),
            };
            let bytes = written.unwrap().len() - 2;
            assert_eq!(written_value_bytes(&entry), bytes, "{value:?}");
        }
    }
}
