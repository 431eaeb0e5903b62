//! Fuzz target of conditions: headers of reads and writes.

use http::header::{IF_MATCH, IF_MODIFIED_SINCE, IF_NONE_MATCH, IF_UNMODIFIED_SINCE};
use http::{HeaderMap, HeaderName, HeaderValue};

use super::refusal::check_refusal;
use crate::api::http::conditions::{ReadOutcome, evaluate_read, parse_precondition};
use crate::api::http::etag::EntityTags;
use crate::api::http::{accept, etag};
use crate::service::{Precondition, Version};

/// Version of a key, whose tag is `"17979cfe362a0000-3"`.
const VERSION: Version = Version {
    time: 0x1797_9cfe_362a_0000,
    region: 3,
};

/// Parses the headers of a request, a line for each, and evaluates its conditions.
pub fn conditions(data: &[u8]) {
    let headers = parse_lines(data);
    match parse_precondition(&headers) {
        Ok(precondition) => check_precondition(&precondition),
        Err(error) => check_refusal(error),
    }
    let mut versions = vec![VERSION];
    for name in [IF_MATCH, IF_NONE_MATCH] {
        if let Some(tags) = parse_tags(&headers, &name) {
            check_tags(&headers, &name, &tags);
            versions.extend(tags.weak_versions().take(8));
        }
    }
    for version in versions {
        check_read(&headers, version);
    }
    // It has no wrong answers but panics.
    accept::prefers_json(&headers);
}

/// Parses lines of headers; what is none is left out.
fn parse_lines(data: &[u8]) -> HeaderMap {
    let mut headers = HeaderMap::new();
    for line in data.split(|byte| *byte == b'\n') {
        let Some(colon) = line.iter().position(|byte| *byte == b':') else {
            continue;
        };
        let name = HeaderName::from_bytes(&line[..colon]);
        let value = HeaderValue::from_bytes(line[colon + 1..].trim_ascii());
        if let (Ok(name), Ok(value)) = (name, value) {
            // A full map takes no more.
            let _ = headers.try_append(name, value);
        }
    }
    headers
}

fn parse_tags(headers: &HeaderMap, name: &HeaderName) -> Option<EntityTags> {
    EntityTags::parse(headers.get_all(name).iter().map(HeaderValue::as_bytes))
}

/// Checks that a condition survives a round trip.
fn check_precondition(precondition: &Precondition) {
    let line = match precondition {
        Precondition::None => String::new(),
        Precondition::Exists => "if-match: *".to_owned(),
        Precondition::Absent => "if-none-match: *".to_owned(),
        Precondition::Versions(versions) => format!("if-match: {}", write_tags(versions)),
        Precondition::NotVersions(versions) => format!("if-none-match: {}", write_tags(versions)),
    };
    let parsed = parse_precondition(&parse_lines(line.as_bytes()));
    assert_eq!(parsed.ok().as_ref(), Some(precondition));
}

/// Writes a list of tags, and one of another form, which matches nothing.
fn write_tags(versions: &[Version]) -> String {
    let tags = versions.iter().map(|version| etag::text(*version));
    let tags: Vec<String> = tags.chain(["other".to_owned()]).collect();
    format!("\"{}\"", tags.join("\", \""))
}

/// Checks that a tag is read as a version only if it is the text of that version.
fn check_tags(headers: &HeaderMap, name: &HeaderName, tags: &EntityTags) {
    let EntityTags::List(tags) = tags else {
        return;
    };
    let lines: Vec<&[u8]> = headers
        .get_all(name)
        .iter()
        .map(HeaderValue::as_bytes)
        .collect();
    let line = lines.join(&b',');
    // A tag has no quote in it.
    let texts: Vec<&[u8]> = line
        .split(|byte| *byte == b'"')
        .skip(1)
        .step_by(2)
        .collect();
    assert_eq!(tags.len(), texts.len());
    for (tag, text) in tags.iter().zip(texts) {
        match tag.version {
            Some(version) => assert_eq!(etag::text(version).as_bytes(), text),
            None => assert_ne!(etag::text(VERSION).as_bytes(), text),
        }
    }
}

fn check_read(headers: &HeaderMap, version: Version) {
    let has = |name: HeaderName| headers.contains_key(name);
    let is_malformed = |name: HeaderName| has(name.clone()) && parse_tags(headers, &name).is_none();
    let matches = |name: HeaderName, is_strong: bool| match parse_tags(headers, &name) {
        Some(EntityTags::Any) => true,
        Some(tags) if is_strong => tags.strong_versions().any(|tag| tag == version),
        Some(tags) => tags.weak_versions().any(|tag| tag == version),
        None => false,
    };
    match evaluate_read(headers, version) {
        Ok(ReadOutcome::PreconditionFailed) => {
            assert!(has(IF_MATCH) || has(IF_UNMODIFIED_SINCE));
            assert!(!matches(IF_MATCH, true));
        }
        Ok(ReadOutcome::NotModified) => {
            assert!(has(IF_NONE_MATCH) || has(IF_MODIFIED_SINCE));
            assert!(!has(IF_NONE_MATCH) || matches(IF_NONE_MATCH, false));
        }
        Ok(ReadOutcome::SendValue) => assert!(!matches(IF_NONE_MATCH, false)),
        Err(error) => {
            assert!(is_malformed(IF_MATCH) || is_malformed(IF_NONE_MATCH));
            check_refusal(error);
        }
    }
}
