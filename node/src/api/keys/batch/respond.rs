//! Writes the answer to a batch: a line for each operation, in the form of the batch.

use std::borrow::Cow;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use http::StatusCode;
use serde::Serialize;
use serde_json::value::RawValue;
use utoipa::ToSchema;

use super::answer_budget::AnswerBudget;
use super::parse::BatchFormat;
use crate::api::errors::ApiError;
use crate::api::http::{dates, etag};
use crate::api::openapi::values;
use crate::service::{BatchOutcome, StoredValue};

/// Usual size of a line without a value, in bytes.
const USUAL_LINE_BYTES: usize = 128;

/// Error of one operation.
#[derive(Clone, Debug)]
pub(super) struct LineError {
    status: StatusCode,
    code: &'static str,
    message: Cow<'static, str>,
}

impl From<ApiError> for LineError {
    fn from(error: ApiError) -> Self {
        let (status, code, message) = error.into_parts();
        Self {
            status,
            code,
            message,
        }
    }
}

/// Line of the answer; fields without a value are left out.
#[derive(Debug, Default, Serialize, ToSchema)]
#[schema(as = BatchAnswer)]
pub(crate) struct AnswerLine<'a> {
    /// The key of the operation.
    key: Cow<'a, str>,
    /// Status, as a single request would get it.
    status: u16,
    /// The version that was written or read: an `ETag` without quotes.
    #[serde(skip_serializing_if = "Option::is_none")]
    version: Option<String>,
    /// The value of a get, if it is UTF-8.
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
    /// Time of the expiry.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schema(format = DateTime)]
    expires_at: Option<String>,
    /// Stable code of an error.
    #[serde(skip_serializing_if = "Option::is_none")]
    error: Option<&'a str>,
    /// What is wrong, and how to avoid it.
    #[serde(skip_serializing_if = "Option::is_none")]
    message: Option<&'a str>,
}

impl<'a> AnswerLine<'a> {
    fn of_value(key: Cow<'a, str>, stored: &'a StoredValue) -> Self {
        let text = std::str::from_utf8(&stored.value).ok();
        let content_type = &stored.content_type;
        let content_type =
            (!content_type.is_empty()).then(|| String::from_utf8_lossy(content_type));
        Self {
            key,
            status: StatusCode::OK.as_u16(),
            version: Some(etag::text(stored.version)),
            value: text,
            value_base64: match text {
                Some(_) => None,
                None => Some(STANDARD.encode(&stored.value)),
            },
            content_type,
            // It is stored as JSON; empty is none.
            metadata: serde_json::from_slice(&stored.metadata).ok(),
            expires_at: stored.expires_at.map(dates::rfc3339),
            ..Self::default()
        }
    }
}

/// Writer of the answer.
pub(super) struct AnswerWriter {
    format: BatchFormat,
    /// Maximum size of the lines with values.
    value_limit: usize,
    out: Vec<u8>,
}

impl AnswerWriter {
    /// Creates a writer of so many lines, with the values that were admitted.
    pub(super) fn new(format: BatchFormat, values: &AnswerBudget<'_>, lines: usize) -> Self {
        Self {
            format,
            value_limit: values.limit(),
            out: Vec::with_capacity(values.bytes() + USUAL_LINE_BYTES * lines),
        }
    }

    /// Returns the size of what is written.
    pub(super) fn bytes(&self) -> usize {
        self.out.len()
    }

    /// Writes the line of an operation that was executed.
    pub(super) fn write_outcome(
        &mut self,
        key: &[u8],
        outcome: BatchOutcome,
    ) -> Result<(), ApiError> {
        let key_text = || String::from_utf8_lossy(key);
        let error = match outcome {
            BatchOutcome::Written(receipt) => {
                return self.write(&AnswerLine {
                    key: key_text(),
                    status: StatusCode::OK.as_u16(),
                    version: Some(etag::text(receipt.version)),
                    expires_at: receipt.expires_at.map(dates::rfc3339),
                    ..AnswerLine::default()
                });
            }
            BatchOutcome::Value(stored) => {
                return self.write(&AnswerLine::of_value(key_text(), &stored));
            }
            BatchOutcome::NotModified(version) => {
                return self.write(&AnswerLine {
                    key: key_text(),
                    status: StatusCode::NOT_MODIFIED.as_u16(),
                    version: Some(etag::text(version)),
                    ..AnswerLine::default()
                });
            }
            BatchOutcome::ConditionFailed(_) => ApiError::precondition_failed(),
            BatchOutcome::Deleted(_) | BatchOutcome::Missing => ApiError::no_such_key(),
            BatchOutcome::TooLarge => ApiError::response_too_large(self.value_limit),
            BatchOutcome::AfterUnknownOutcome => ApiError::after_unknown_outcome(),
            BatchOutcome::Failed(error) => error.into(),
        };
        self.write_error(key, &error.into())
    }

    /// Writes the line of an operation that failed, or wasn't executed.
    pub(super) fn write_error(&mut self, key: &[u8], error: &LineError) -> Result<(), ApiError> {
        self.write(&AnswerLine {
            key: String::from_utf8_lossy(key),
            status: error.status.as_u16(),
            error: Some(error.code),
            message: Some(&error.message),
            ..AnswerLine::default()
        })
    }

    fn write(&mut self, line: &AnswerLine<'_>) -> Result<(), ApiError> {
        if self.format == BatchFormat::Array {
            let separator: &[u8] = if self.out.is_empty() { b"[" } else { b",\n" };
            self.out.extend_from_slice(separator);
        }
        serde_json::to_writer(&mut self.out, line)
            .map_err(|error| ApiError::internal("serializing an answer failed", &error))?;
        if self.format == BatchFormat::Lines {
            self.out.push(b'\n');
        }
        Ok(())
    }

    /// Returns the complete answer.
    pub(super) fn finish(mut self) -> Vec<u8> {
        if self.format == BatchFormat::Array {
            let end: &[u8] = if self.out.is_empty() { b"[]" } else { b"]" };
            self.out.extend_from_slice(end);
        }
        self.out
    }
}

#[cfg(test)]
mod tests {
    use std::net::{IpAddr, Ipv4Addr};

    use bytes::Bytes;
    use cloudkv_common::server::MemoryBudget;
    use proptest::collection::vec;
    use proptest::prelude::*;
    use serde_json::{Value, json};

    use super::*;
    use crate::api::keys::batch::answer_budget::MAX_LINE_BYTES;
    use crate::service::{
        DiskShortage, KeyError, Unavailable, ValueAdmission, ValueBudget, Version,
    };

    const VERSION: Version = Version {
        time: 16,
        region: 2,
    };

    fn stored(value: &'static [u8]) -> StoredValue {
        StoredValue {
            value: Bytes::from_static(value),
            content_type: Bytes::new(),
            version: VERSION,
            expires_at: None,
            metadata: Bytes::new(),
        }
    }

    const CLIENT: IpAddr = IpAddr::V4(Ipv4Addr::LOCALHOST);

    fn answer(format: BatchFormat, outcomes: Vec<BatchOutcome>) -> String {
        let memory = MemoryBudget::new(0);
        let values = AnswerBudget::new(&memory, CLIENT, std::iter::empty());
        let mut writer = AnswerWriter::new(format, &values, outcomes.len());
        for outcome in outcomes {
            writer.write_outcome("ключ\"".as_bytes(), outcome).unwrap();
        }
        String::from_utf8(writer.finish()).unwrap()
    }

    fn line(outcome: BatchOutcome) -> Value {
        let text = answer(BatchFormat::Lines, vec![outcome]);
        assert_eq!(text.matches('\n').count(), 1, "{text}");
        serde_json::from_str(&text).unwrap()
    }

    #[test]
    fn values_are_text_or_base64() {
        let version = "0000000000000010-2";
        assert_eq!(
            line(BatchOutcome::Value(stored(b"a\nb"))),
            json!({"key": "ключ\"", "status": 200, "version": version, "value": "a\nb"})
        );
        let full = StoredValue {
            content_type: Bytes::from_static(b"text/plain"),
            expires_at: Some(1_000_000_000),
            metadata: Bytes::from_static(br#"{"n":1.50}"#),
            ..stored(b"\x00\xff")
        };
        let text = answer(BatchFormat::Lines, vec![BatchOutcome::Value(full.clone())]);
        assert!(text.contains(r#""metadata":{"n":1.50}"#), "{text}");
        assert_eq!(
            line(BatchOutcome::Value(full)),
            json!({"key": "ключ\"", "status": 200, "version": version, "value_base64": "AP8=",
                   "content_type": "text/plain", "metadata": {"n": 1.50},
                   "expires_at": "1970-01-01T00:00:01.000000Z"})
        );
        assert_eq!(
            line(BatchOutcome::NotModified(VERSION)),
            json!({"key": "ключ\"", "status": 304, "version": version})
        );
    }

    #[test]
    fn errors_have_status_code_and_message() {
        for (outcome, status, code) in [
            (BatchOutcome::Missing, 404, "not_found"),
            (BatchOutcome::Deleted(VERSION), 404, "not_found"),
            (
                BatchOutcome::ConditionFailed(VERSION),
                412,
                "precondition_failed",
            ),
            (BatchOutcome::TooLarge, 413, "response_too_large"),
            (BatchOutcome::AfterUnknownOutcome, 503, "unavailable"),
            (
                BatchOutcome::Failed(KeyError::UnknownOutcome),
                504,
                "unknown_outcome",
            ),
        ] {
            let line = line(outcome);
            assert_eq!(
                (&line["status"], &line["error"]),
                (&json!(status), &json!(code))
            );
            assert!(
                line["message"].is_string() && line["version"].is_null(),
                "{line}"
            );
        }
    }

    #[test]
    fn an_array_is_answered_by_an_array() {
        let outcomes = || vec![BatchOutcome::Missing, BatchOutcome::Missing];
        let array: Value = serde_json::from_str(&answer(BatchFormat::Array, outcomes())).unwrap();
        assert_eq!(array.as_array().unwrap().len(), 2);
        assert_eq!(answer(BatchFormat::Array, vec![]), "[]");
        assert_eq!(answer(BatchFormat::Lines, outcomes()).lines().count(), 2);
        assert_eq!(answer(BatchFormat::Lines, vec![]), "");
    }

    #[test]
    fn what_follows_an_unknown_outcome_says_that_it_was_not_done() {
        let line = line(BatchOutcome::AfterUnknownOutcome);
        let message = line["message"].as_str().unwrap();
        assert!(message.contains("unknown outcome"), "{message}");
        assert!(message.contains("was not done"), "{message}");
    }

    #[test]
    fn no_line_without_a_value_is_longer_than_the_answer_budget_says() {
        let shortage = |elsewhere, refuses_all| {
            KeyError::DiskFull(DiskShortage {
                elsewhere,
                refuses_all,
            })
        };
        let io = || std::io::Error::other("fails");
        let queue = "writes";
        let failures = vec![
            KeyError::UnknownOutcome,
            KeyError::PreconditionFailed,
            KeyError::NoSuchKey,
            KeyError::TooManyKeys { limit: u64::MAX },
            KeyError::TooManyBytes { limit: u64::MAX },
            shortage(true, true),
            shortage(true, false),
            shortage(false, true),
            shortage(false, false),
            KeyError::BucketDeleted,
            KeyError::Damaged(io()),
            KeyError::Storage(io()),
            Unavailable::Overloaded { queue }.into(),
            Unavailable::Behind.into(),
            Unavailable::Upgrading.into(),
        ];
        let mut outcomes: Vec<BatchOutcome> =
            failures.into_iter().map(BatchOutcome::Failed).collect();
        outcomes.push(BatchOutcome::TooLarge);
        outcomes.push(BatchOutcome::AfterUnknownOutcome);
        outcomes.push(BatchOutcome::Missing);
        for outcome in outcomes {
            let line = answer(BatchFormat::Array, vec![outcome]);
            assert!(line.len() <= MAX_LINE_BYTES, "{} bytes: {line}", line.len());
        }
    }

    proptest! {
        #[test]
        fn lines_with_values_are_not_longer_than_what_is_counted(
            key in any::<String>(),
            text in any::<String>(),
            bytes in vec(any::<u8>(), 0..100),
            content_type in vec(any::<u8>(), 0..40),
            is_text in any::<bool>(),
        ) {
            let memory = MemoryBudget::new(1 << 30);
            let stored = StoredValue {
                value: if is_text { Bytes::from(text) } else { Bytes::from(bytes) },
                content_type: Bytes::from(content_type),
                version: Version {
                    time: u64::MAX,
                    region: u32::MAX,
                },
                expires_at: Some(u64::MAX),
                metadata: Bytes::from_static(br#"{"n":1}"#),
            };
            let keys = std::iter::once(key.as_bytes());
            let values = AnswerBudget::new(&memory, CLIENT, keys);
            let admission = values.admit(key.as_bytes(), &stored);
            prop_assert_eq!(admission, ValueAdmission::Admitted);
            let counted = values.bytes();
            let mut writer = AnswerWriter::new(BatchFormat::Array, &values, 1);
            writer.write_outcome(key.as_bytes(), BatchOutcome::Value(stored)).unwrap();
            let written = writer.finish().len();
            prop_assert!(written <= counted, "{} > {}", written, counted);
            prop_assert!(counted - written < MAX_LINE_BYTES, "{} < {}", written, counted);
        }
    }
}
