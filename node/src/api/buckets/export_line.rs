//! Lines of an export: a key as the line of a batch that puts it, and the last line.

use std::borrow::Cow;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use serde::Serialize;
use serde_json::value::RawValue;
use utoipa::ToSchema;

use crate::api::errors::ApiError;
use crate::api::http::{dates, etag};
use crate::api::openapi::values;
use crate::service::{StoredValue, Version};

/// A key as a line of an export; fields without a value are left out, except the expiry.
#[derive(Serialize, ToSchema)]
#[schema(as = ExportedKey)]
pub(crate) struct ExportLine<'a> {
    /// The key.
    key: Cow<'a, str>,
    /// The value, if it is UTF-8.
    #[serde(skip_serializing_if = "Option::is_none")]
    value: Option<&'a str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schema(schema_with = values::base64)]
    value_base64: Option<String>,
    /// Type with which the value was written.
    #[serde(skip_serializing_if = "Option::is_none")]
    content_type: Option<Cow<'a, str>>,
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schema(schema_with = values::metadata_or_null)]
    metadata: Option<&'a RawValue>,
    /// Time of the expiry; `null` if the key never expires.
    #[schema(format = DateTime, required)]
    expires_at: Option<String>,
    /// Version of the key: its `ETag` without quotes.
    version: String,
}

/// Last line of an export that is whole.
#[derive(Serialize, ToSchema)]
#[schema(as = ExportEnd)]
pub(crate) struct ExportEndLine {
    /// True: no key is missing.
    end: bool,
    /// Number of the lines before this one.
    keys: u64,
    /// Size of the lines before this one, in bytes.
    bytes: u64,
    /// Position from which a watch of the bucket misses nothing; absent if changes since it are
    /// gone already.
    #[serde(skip_serializing_if = "Option::is_none")]
    since: Option<String>,
}

/// Last line of an export that broke off.
#[derive(Serialize, ToSchema)]
#[schema(as = ExportError)]
pub(crate) struct ExportErrorLine<'a> {
    /// Stable code of the error.
    error: &'a str,
    /// What is wrong, and how to avoid it.
    message: &'a str,
}

/// Line of a key that was deleted, for an import: no export of a bucket has any.
#[derive(Serialize)]
struct DeletionLine<'a> {
    /// Operation of the line.
    op: &'static str,
    /// The key.
    key: Cow<'a, str>,
    /// Version of the deletion.
    version: String,
}

/// Writes the line of a key.
pub(crate) fn write_key(
    out: &mut Vec<u8>,
    key: &[u8],
    stored: &StoredValue,
) -> Result<(), ApiError> {
    let text = std::str::from_utf8(&stored.value).ok();
    let content_type = &stored.content_type;
    write_line(
        out,
        &ExportLine {
            key: String::from_utf8_lossy(key),
            value: text,
            value_base64: match text {
                Some(_) => None,
                None => Some(STANDARD.encode(&stored.value)),
            },
            content_type: (!content_type.is_empty()).then(|| String::from_utf8_lossy(content_type)),
            // It is stored as JSON; empty is none.
            metadata: serde_json::from_slice(&stored.metadata).ok(),
            expires_at: stored.expires_at.map(dates::rfc3339_exact),
            version: etag::text(stored.version),
        },
    )
}

/// Writes the line of a key that was deleted.
pub(crate) fn write_deletion(
    out: &mut Vec<u8>,
    key: &[u8],
    version: Version,
) -> Result<(), ApiError> {
    let line = DeletionLine {
        op: "delete",
        key: String::from_utf8_lossy(key),
        version: etag::text(version),
    };
    write_line(out, &line)
}

/// Writes the last line of an export of so many keys and bytes.
pub(super) fn write_end(
    out: &mut Vec<u8>,
    (keys, bytes): (u64, u64),
    since: Option<String>,
) -> Result<(), ApiError> {
    let end = ExportEndLine {
        end: true,
        keys,
        bytes,
        since,
    };
    write_line(out, &end)
}

/// Writes the last line of an export that broke off.
pub(super) fn write_error(out: &mut Vec<u8>, error: ApiError) -> Result<(), ApiError> {
    let (status, code, message) = error.into_parts();
    let message = if status.is_server_error() && code == "unavailable" {
        Cow::Borrowed(
            "a part of the bucket can't be read right now, and the export is incomplete: export \
             again",
        )
    } else {
        Cow::Owned(format!("the export is incomplete: {message}"))
    };
    let line = ExportErrorLine {
        error: code,
        message: &message,
    };
    write_line(out, &line)
}

fn write_line(out: &mut Vec<u8>, line: &impl Serialize) -> Result<(), ApiError> {
    serde_json::to_writer(&mut *out, line)
        .map_err(|error| ApiError::internal("serializing an export failed", &error))?;
    out.push(b'\n');
    Ok(())
}

#[cfg(test)]
mod tests {
    use bytes::Bytes;
    use proptest::collection::vec;
    use proptest::prelude::*;

    use super::*;
    use crate::api::http::metadata;
    use crate::api::keys::ImportLine;
    use crate::service::{Expiry, Nanos};

    /// Time of the import.
    const NOW: Nanos = 1_900_000_000_000_000_000;

    fn stored(value: &'static [u8]) -> StoredValue {
        StoredValue {
            value: Bytes::from_static(value),
            content_type: Bytes::new(),
            version: Version {
                time: 16,
                region: 2,
            },
            expires_at: None,
            metadata: Bytes::new(),
        }
    }

    fn line(key: &str, stored: &StoredValue) -> String {
        let mut out = Vec::new();
        write_key(&mut out, key.as_bytes(), stored).unwrap();
        String::from_utf8(out).unwrap()
    }

    #[test]
    fn a_line_has_all_that_is_stored() {
        assert_eq!(
            line("ключ", &stored(b"a\nb")),
            "{\"key\":\"ключ\",\"value\":\"a\\nb\",\"expires_at\":null,\
             \"version\":\"0000000000000010-2\"}\n"
        );
        let full = StoredValue {
            content_type: Bytes::from_static(b"text/plain"),
            metadata: Bytes::from_static(br#"{"n":1.50}"#),
            expires_at: Some(1_000_000_000),
            ..stored(b"\x00\xff")
        };
        assert_eq!(
            line("k", &full),
            "{\"key\":\"k\",\"value_base64\":\"AP8=\",\"content_type\":\"text/plain\",\
             \"metadata\":{\"n\":1.50},\"expires_at\":\"1970-01-01T00:00:01.000000Z\",\
             \"version\":\"0000000000000010-2\"}\n"
        );
    }

    #[test]
    fn a_deletion_is_read_by_an_import() {
        let version = stored(b"").version;
        let mut out = Vec::new();
        write_deletion(&mut out, "ключ".as_bytes(), version).unwrap();
        let line = String::from_utf8(out).unwrap();
        assert_eq!(
            line,
            "{\"op\":\"delete\",\"key\":\"ключ\",\"version\":\"0000000000000010-2\"}\n"
        );
        let Ok(ImportLine::Delete(deletion)) = ImportLine::parse(line.as_bytes(), NOW) else {
            panic!("{line}");
        };
        assert_eq!(&deletion.key, "ключ".as_bytes());
        assert_eq!(deletion.version, Some(version));
    }

    #[test]
    fn the_last_line_tells_whether_the_export_is_whole() {
        let mut out = Vec::new();
        write_end(&mut out, (2, 70), Some("AQ".to_owned())).unwrap();
        write_end(&mut out, (0, 0), None).unwrap();
        write_error(&mut out, ApiError::unavailable()).unwrap();
        write_error(&mut out, ApiError::unknown_bucket()).unwrap();
        let text = String::from_utf8(out).unwrap();
        let lines: Vec<&str> = text.lines().collect();
        assert_eq!(lines[0], r#"{"end":true,"keys":2,"bytes":70,"since":"AQ"}"#);
        assert_eq!(lines[1], r#"{"end":true,"keys":0,"bytes":0}"#);
        for (line, beginning) in [
            (lines[2], r#"{"error":"unavailable","message":"a part of"#),
            (
                lines[3],
                r#"{"error":"unknown_bucket","message":"the export is incomplete: no such"#,
            ),
        ] {
            assert!(line.starts_with(beginning), "{line}");
            let parsed = ImportLine::parse(line.as_bytes(), NOW);
            assert!(parsed.is_err(), "an import tells that lines are missing");
        }
        for line in &lines[..2] {
            let parsed = ImportLine::parse(line.as_bytes(), NOW);
            assert!(matches!(parsed, Ok(ImportLine::ExportEnd)), "{line}");
        }
    }

    proptest! {
        /// What an import reads is what was exported.
        #[test]
        fn lines_survive_the_way_back(
            key in "\\PC{1,40}",
            value in prop_oneof![
                vec(any::<u8>(), 0..60),
                any::<String>().prop_map(String::into_bytes),
            ],
            content_type in "\\PC{0,60}",
            note in prop_oneof![Just(None), any::<String>().prop_map(Some)],
            expires_at in prop_oneof![Just(None), (NOW + 1..NOW + (1 << 60)).prop_map(Some)],
            time in any::<u64>(),
            region in any::<u32>(),
        ) {
            let metadata = note.map(|note| serde_json::json!({"note": note}).to_string());
            let metadata = metadata.and_then(|json| metadata::compact(&json).ok());
            let stored = StoredValue {
                value: Bytes::from(value),
                content_type: Bytes::from(content_type),
                version: Version { time, region },
                expires_at,
                metadata: metadata.unwrap_or_default(),
            };
            let line = line(&key, &stored);
            let end = line.strip_suffix('\n');
            prop_assert!(end.is_some_and(|line| !line.contains('\n')), "{}", line);
            let Ok(ImportLine::Put(put)) = ImportLine::parse(line.as_bytes(), NOW) else {
                return Err(TestCaseError::fail(line));
            };
            prop_assert_eq!(&put.key, key.as_bytes());
            prop_assert_eq!(put.version, Some(stored.version));
            prop_assert_eq!(put.put.value, stored.value);
            prop_assert_eq!(put.put.content_type, stored.content_type);
            prop_assert_eq!(put.put.metadata, stored.metadata);
            let expiry = expires_at.map_or(Expiry::Never, Expiry::At);
            prop_assert_eq!(put.put.expiry, Some(expiry));
        }
    }
}
