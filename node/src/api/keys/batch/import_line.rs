//! A line of an import: a put or a delete, as in a batch, which may have the version that an export
//! wrote; or the last line of an export.

use bytes::Bytes;
use http::HeaderValue;
use serde::Deserialize;
use serde::de::IgnoredAny;

use super::fields::{Field, Fields, InvalidOperation, VersionedFields, quote};
use super::operation::{
    Kind, PutAction, into_bytes, parse_expiry, parse_kind, parse_metadata, parse_value,
};
use crate::api::errors::ApiError;
use crate::api::http::{etag, expiry};
use crate::api::keys::parameters::MAX_CONTENT_TYPE_BYTES;
use crate::service::{Nanos, Precondition, Version};

/// Line of an import.
#[derive(Clone, Debug)]
pub(crate) enum ImportLine {
    /// A put.
    Put(ImportPut),
    /// A delete.
    Delete(ImportDelete),
    /// A put of a key that has expired since the line was written.
    Expired(ImportDelete),
    /// The last line of an export.
    ExportEnd,
}

/// A put. Key and value aren't checked yet against the limits of the bucket.
#[derive(Clone, Debug)]
pub(crate) struct ImportPut {
    /// The key.
    pub key: Bytes,
    /// The write.
    pub put: PutAction,
    /// Version that the key had where it was exported.
    pub version: Option<Version>,
}

/// A key that is gone. It isn't checked yet against the limits of the bucket.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct ImportDelete {
    /// The key.
    pub key: Bytes,
    /// Version of the key, or of its deletion, where it was exported.
    pub version: Option<Version>,
}

/// What the last line of an export has, whole or not.
#[derive(Deserialize)]
struct ExportMark {
    #[serde(default)]
    end: bool,
    error: Option<String>,
    key: Option<IgnoredAny>,
}

impl ImportLine {
    /// Parses a JSON object. A key whose time of expiry isn't after `now` has expired.
    pub(crate) fn parse(json: &[u8], now: Nanos) -> Result<Self, ApiError> {
        let invalid = match parse_operation(json, now) {
            Ok(line) => return Ok(line),
            Err(invalid) => invalid,
        };
        match serde_json::from_slice::<ExportMark>(json) {
            Ok(mark) if mark.key.is_none() && mark.end => Ok(Self::ExportEnd),
            Ok(ExportMark {
                key: None,
                error: Some(error),
                ..
            }) => Err(ApiError::invalid_batch(format!(
                "the export that has this line is incomplete: it broke off with {}",
                quote(&error)
            ))),
            Ok(_) | Err(_) => Err(ApiError::invalid_batch(invalid.to_string())),
        }
    }
}

fn parse_operation(json: &[u8], now: Nanos) -> Result<ImportLine, InvalidOperation> {
    let line = VersionedFields::parse(json)?;
    let fields = &line.fields;
    let kind = parse_kind(fields)?;
    if !matches!(kind, Kind::Put | Kind::Delete) {
        return Err(InvalidOperation::new(format!(
            "a line of an import is a put or a delete, and not a {}",
            kind.name()
        )));
    }
    if let Some(field) = fields.given().find(|field| is_condition(*field)) {
        return Err(InvalidOperation::new(format!(
            "{} is no field of an import: see its parameter mode",
            field.name()
        )));
    }
    if let Some(field) = fields.given().find(|field| !kind.has_field(*field)) {
        let (kind, field) = (kind.name(), field.name());
        let message = format!("{field} is no field of a {kind}");
        return Err(InvalidOperation::new(message));
    }
    let Some(key) = fields.text(Field::Key)? else {
        return Err(InvalidOperation::new("key is missing"));
    };
    let (key, version) = (into_bytes(key), parse_version(&line)?);
    if kind == Kind::Delete {
        return Ok(ImportLine::Delete(ImportDelete { key, version }));
    }
    let (value, metadata) = (parse_value(fields)?, parse_metadata(fields)?);
    let content_type = parse_content_type(fields)?;
    if has_expired(fields, now)? {
        return Ok(ImportLine::Expired(ImportDelete { key, version }));
    }
    Ok(ImportLine::Put(ImportPut {
        key,
        put: PutAction {
            value,
            content_type,
            metadata: metadata.unwrap_or_default(),
            expiry: parse_expiry(fields, now)?,
            precondition: Precondition::None,
        },
        version,
    }))
}

fn is_condition(field: Field) -> bool {
    matches!(field, Field::IfMatch | Field::IfNoneMatch)
}

fn parse_version(line: &VersionedFields<'_>) -> Result<Option<Version>, InvalidOperation> {
    let Some(text) = line.version_text()? else {
        return Ok(None);
    };
    let version = etag::parse(text.as_bytes()).ok_or_else(|| {
        InvalidOperation::new("version must be a version as an export or a list writes it")
    })?;
    Ok(Some(version))
}

/// Parses a content type. What a header of a PUT may have, beyond ASCII, comes back from an export.
fn parse_content_type(fields: &Fields<'_>) -> Result<Bytes, InvalidOperation> {
    let Some(text) = fields.text(Field::ContentType)? else {
        return Ok(Bytes::new());
    };
    if text.len() > MAX_CONTENT_TYPE_BYTES || HeaderValue::from_bytes(text.as_bytes()).is_err() {
        return Err(InvalidOperation::new(format!(
            "content_type must have at most {MAX_CONTENT_TYPE_BYTES} bytes, and no control \
             characters"
        )));
    }
    Ok(into_bytes(text))
}

/// Returns whether the line names a time of expiry that has passed.
fn has_expired(fields: &Fields<'_>, now: Nanos) -> Result<bool, InvalidOperation> {
    let expires_at = if fields.is_null(Field::ExpiresAt) {
        None
    } else {
        fields.seconds(Field::ExpiresAt, true)?
    };
    let expiration = fields.seconds(Field::Expiration, false)?;
    let mut times = [expires_at, expiration].into_iter().flatten();
    Ok(times.any(|text| expiry::parse_time(&text).is_some_and(|time| time <= now)))
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::service::Expiry;

    /// 2030-01-31 12:00:00.
    const NOON: Nanos = 1_896_091_200_000_000_000;
    const SECOND: Nanos = 1_000_000_000;

    fn parse(json: &str) -> Result<ImportLine, String> {
        ImportLine::parse(json.as_bytes(), NOON).map_err(ApiError::into_message)
    }

    fn put(json: &str) -> ImportPut {
        match parse(json).unwrap() {
            ImportLine::Put(put) => put,
            other => panic!("{other:?}"),
        }
    }

    #[test]
    fn a_line_is_a_put_with_or_without_a_version() {
        let line = put(
            r#"{"op":"put","key":"a/ü","value_base64":"AP8=","content_type":"text/plain",
                "metadata":{"a":1},"expires_at":"2030-01-31T12:00:01Z",
                "version":"0000000000000010-2"}"#,
        );
        assert_eq!(line.key, "a/ü");
        assert_eq!(&line.put.value[..], [0, 0xff]);
        assert_eq!(line.put.content_type, "text/plain");
        assert_eq!(line.put.metadata, r#"{"a":1}"#);
        assert_eq!(line.put.expiry, Some(Expiry::At(NOON + SECOND)));
        let version = Version {
            time: 16,
            region: 2,
        };
        assert_eq!(line.version, Some(version));
        let simple = put(r#"{"key":"k","value":"v"}"#);
        assert_eq!((simple.version, simple.put.expiry), (None, None));
        let never = put(r#"{"key":"k","value":"v","expires_at":null}"#);
        assert_eq!(never.put.expiry, Some(Expiry::Never));
    }

    #[test]
    fn bulk_writes_of_workers_kv_are_lines() {
        let line = r#"{"key":"k","value":"aGk=","base64":true,"expiration_ttl":60}"#;
        assert_eq!(put(line).put.value, "hi");
        let line = r#"{"key":"k","value":"v","expiration":1896091201,"metadata":null}"#;
        assert_eq!(put(line).put.expiry, Some(Expiry::At(NOON + SECOND)));
    }

    #[test]
    fn keys_that_have_expired_are_told_apart() {
        for expiry in [
            r#""expires_at":"2030-01-31T12:00:00Z""#,
            r#""expires_at":1"#,
            r#""expiration":1896091200"#,
        ] {
            let line = format!(r#"{{"key":"k","value":"v",{expiry}}}"#);
            assert!(matches!(parse(&line), Ok(ImportLine::Expired(_))), "{line}");
        }
        let message = parse(r#"{"key":"k","value":"v","expires_at":"soon"}"#).unwrap_err();
        assert!(message.starts_with("expires_at must be"), "{message}");
    }

    #[test]
    fn a_delete_has_a_key_and_a_version() {
        let version = Some(Version {
            time: 16,
            region: 2,
        });
        for (line, version) in [
            (
                r#"{"op":"delete","key":"k","version":"0000000000000010-2"}"#,
                version,
            ),
            (r#"{"op":"delete","key":"k"}"#, None),
        ] {
            let key = Bytes::from("k");
            match parse(line).unwrap() {
                ImportLine::Delete(delete) => assert_eq!(delete, ImportDelete { key, version }),
                other => panic!("{other:?}"),
            }
        }
    }

    #[test]
    fn the_end_of_an_export_is_no_put() {
        let end = r#"{"end":true,"keys":2,"bytes":200,"since":"AQ"}"#;
        assert!(matches!(parse(end), Ok(ImportLine::ExportEnd)));
        let broken = parse(r#"{"error":"unavailable","message":"..."}"#).unwrap_err();
        assert_eq!(
            broken,
            "the export that has this line is incomplete: it broke off with `unavailable`"
        );
        for line in [
            r#"{"key":"k","value":"v","end":true}"#,
            r#"{"end":false}"#,
            r#"{"end":1}"#,
        ] {
            let message = parse(line).unwrap_err();
            assert!(message.starts_with("no field is called `end`"), "{message}");
        }
    }

    #[test]
    fn other_lines_say_what_is_wrong() {
        for (line, message) in [
            (
                r#"{"op":"get","key":"k"}"#,
                "a line of an import is a put or a delete, and not a get",
            ),
            (
                r#"{"op":"delete","key":"k","value":"v"}"#,
                "value is no field of a delete",
            ),
            (
                r#"{"op":"delete","key":"k","if_match":"*"}"#,
                "if_match is no field of an import: see its parameter mode",
            ),
            (r#"{"op":"delete"}"#, "key is missing"),
            (
                r#"{"key":"k","value":"v","if_none_match":"*"}"#,
                "if_none_match is no field of an import: see its parameter mode",
            ),
            (r#"{"value":"v"}"#, "key is missing"),
            (
                r#"{"key":"k"}"#,
                "a put needs value, a string, or value_base64",
            ),
            (
                r#"{"key":"k","value":"v","version":"7"}"#,
                "version must be a version as an export or a list writes it",
            ),
            (r#"{"key":"k","value":"#, "EOF while parsing a value"),
        ] {
            let error = parse(line).unwrap_err();
            assert!(error.starts_with(message), "{line}: {error}");
        }
    }

    #[test]
    fn content_types_may_have_what_headers_may_have() {
        let line = |content_type: &str| {
            let line = serde_json::json!({"key": "k", "value": "v", "content_type": content_type});
            parse(&line.to_string())
        };
        assert!(line("text/plain; name=ü").is_ok());
        assert!(line("a\nb").is_err());
        assert!(line(&"x".repeat(MAX_CONTENT_TYPE_BYTES + 1)).is_err());
    }

    proptest! {
        #[test]
        fn never_panics(
            bytes in any::<Vec<u8>>(),
            text in "\\{(\"(key|value|version|end|error|op)\":[a-z0-9\",{}]{0,9},?){0,4}\\}",
        ) {
            for line in [&bytes[..], text.as_bytes()] {
                let _ = ImportLine::parse(line, NOON);
            }
        }
    }
}
