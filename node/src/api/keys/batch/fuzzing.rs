//! Fuzz target of the bodies of batches.

use std::time::{Duration, UNIX_EPOCH};

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use serde_json::Value;

use super::operation::{Action, Operation};
use super::parse::{BatchFormat, BatchParser};
use crate::api::errors::ApiError;
use crate::api::fuzzing::refusal::check_refusal;
use crate::api::http::etag;
use crate::service::{Expiry, Nanos, Precondition, Version};

/// Time of the batches: in March 2030.
const NOW: Nanos = 1_900_000_000_000_000_000;
const MAX_OPERATIONS: usize = 100;
/// Size of a step of a parser, in bytes.
const STEP_BYTES: usize = 16;

/// Parses a body in each form, which it may be declared as. An operation that is accepted survives
/// a round trip, and means the same to another parser of JSON.
pub fn batch_lines(data: &[u8]) {
    let formats = [None, Some(BatchFormat::Lines), Some(BatchFormat::Array)];
    for declared in formats {
        let parsed = parse(declared, data, usize::MAX);
        let in_steps = parse(declared, data, STEP_BYTES);
        assert_eq!(format!("{parsed:?}"), format!("{in_steps:?}"));
        match parsed {
            Ok(operations) => {
                assert!((1..=MAX_OPERATIONS).contains(&operations.len()));
                operations.iter().for_each(check_operation);
                if declared == Some(BatchFormat::Lines) {
                    check_lines(data, &operations);
                }
            }
            Err(error) => check_refusal(error),
        }
    }
}

fn parse(
    declared: Option<BatchFormat>,
    body: &[u8],
    step_bytes: usize,
) -> Result<Vec<Operation>, ApiError> {
    let mut parser = BatchParser::new(declared, body, MAX_OPERATIONS, NOW)?;
    while !parser.advance(step_bytes)? {}
    parser.finish()
}

/// Compares operations with the lines that they come from, and with the same as an array.
fn check_lines(body: &[u8], operations: &[Operation]) {
    let lines = body.split(|byte| *byte == b'\n');
    let lines: Vec<&[u8]> = lines.filter(|line| !line.trim_ascii().is_empty()).collect();
    assert_eq!(lines.len(), operations.len());
    for (line, operation) in lines.iter().zip(operations) {
        let object = serde_json::from_slice::<Value>(line).unwrap_or_default();
        let text = |name: &str| object.get(name)?.as_str();
        assert_eq!(text("key").map(str::as_bytes), Some(&*operation.key));
        if let Action::Put(put) = &operation.action
            && object.get("base64").is_none()
            && let Some(value) = text("value")
        {
            assert_eq!(put.value, value.as_bytes());
        }
    }
    let array = [&b"["[..], &lines.join(&b',')[..], &b"]"[..]].concat();
    let array = parse(Some(BatchFormat::Array), &array, usize::MAX);
    assert_eq!(
        format!("{array:?}"),
        format!("{:?}", Ok::<_, ()>(operations))
    );
}

/// Checks that an operation survives a round trip.
fn check_operation(operation: &Operation) {
    let line = format!("{{{}}}", fields_of(operation).join(","));
    let read = Operation::parse(line.as_bytes(), NOW);
    let expected = Ok::<_, ()>(operation);
    assert_eq!(format!("{read:?}"), format!("{expected:?}"), "{line}");
}

fn fields_of(operation: &Operation) -> Vec<String> {
    let key = String::from_utf8_lossy(&operation.key);
    let mut fields = vec![text_field("key", &key)];
    let (name, precondition) = match &operation.action {
        Action::Put(put) => {
            fields.push(text_field("value_base64", &STANDARD.encode(&put.value)));
            if !put.content_type.is_empty() {
                let content_type = String::from_utf8_lossy(&put.content_type);
                fields.push(text_field("content_type", &content_type));
            }
            if !put.metadata.is_empty() {
                fields.push(metadata_field(&put.metadata));
            }
            fields.extend(put.expiry.map(expiry_field));
            ("put", &put.precondition)
        }
        Action::Touch(touch) => {
            fields.extend(touch.metadata.as_deref().map(metadata_field));
            fields.extend(touch.expiry.map(expiry_field));
            ("touch", &touch.precondition)
        }
        Action::Get(precondition) => ("get", precondition),
        Action::Delete(precondition) => ("delete", precondition),
    };
    fields.push(text_field("op", name));
    fields.extend(precondition_field(precondition));
    fields
}

fn text_field(name: &str, text: &str) -> String {
    format!("\"{name}\":{}", Value::from(text))
}

/// Writes metadata in its stored form.
fn metadata_field(stored: &[u8]) -> String {
    let stored = String::from_utf8_lossy(stored);
    let object = if stored.is_empty() { "{}" } else { &*stored };
    format!("\"metadata\":{object}")
}

fn expiry_field(expiry: Expiry) -> String {
    match expiry {
        Expiry::Never => "\"persist\":true".to_owned(),
        Expiry::After(ttl) => format!("\"ttl\":{}", ttl.as_secs()),
        Expiry::At(time) => {
            let time = UNIX_EPOCH + Duration::from_nanos(time);
            let time = humantime::format_rfc3339_nanos(time).to_string();
            text_field("expires_at", &time)
        }
    }
}

fn precondition_field(precondition: &Precondition) -> Option<String> {
    match precondition {
        Precondition::None => None,
        Precondition::Exists => Some(text_field("if_match", "*")),
        Precondition::Absent => Some(text_field("if_none_match", "*")),
        Precondition::Versions(versions) => Some(text_field("if_match", &write_tags(versions))),
        Precondition::NotVersions(versions) => {
            Some(text_field("if_none_match", &write_tags(versions)))
        }
    }
}

/// Writes a list of tags, no longer than it was; where it is empty, a tag that matches nothing.
fn write_tags(versions: &[Version]) -> String {
    if versions.is_empty() {
        return "other".to_owned();
    }
    let tags: Vec<String> = versions
        .iter()
        .map(|version| format!("\"{}\"", etag::text(*version)))
        .collect();
    tags.join(",")
}
