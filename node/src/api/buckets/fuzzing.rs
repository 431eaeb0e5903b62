//! Fuzz target of the parameters of buckets: queries, forms and JSON.

use bytes::Bytes;
use futures_util::FutureExt;
use serde_json::{Map, Value};

use super::forms;
use super::params::BucketParams;
use crate::api::errors::ApiError;
use crate::api::fuzzing::refusal::check_refusal;
use crate::api::http::ttl::MAX_TTL;

/// Types that a request may declare.
const DECLARED_TYPES: [Option<&str>; 4] = [
    None,
    Some("application/x-www-form-urlencoded"),
    Some("application/json"),
    Some("multipart/form-data; boundary=7kQ"),
];
/// Boundary of a multipart form.
const BOUNDARY: &str = "7kQ";
/// Maximum size of a body, in bytes.
const MAX_BODY_BYTES: usize = 64 << 10;

/// Parses a body after a byte that chooses its declared type; then the lines of the body, as
/// values of parameters, in each of the three formats.
pub fn forms(data: &[u8]) {
    let Some((declared, body)) = data.split_first() else {
        return;
    };
    let declared = DECLARED_TYPES[usize::from(*declared) % DECLARED_TYPES.len()];
    let body = &body[..body.len().min(MAX_BODY_BYTES)];
    match parse(declared, body.to_vec()) {
        Ok(params) => {
            check_meaning(body, &params);
            check_values(params);
        }
        Err(error) => check_refusal(error),
    }
    if let Ok(text) = std::str::from_utf8(body) {
        check_formats(text);
    }
}

fn parse(declared: Option<&str>, body: Vec<u8>) -> Result<BucketParams, ApiError> {
    let parsed = forms::parse(declared, Bytes::from(body)).now_or_never();
    assert!(parsed.is_some(), "a parser waits for more than the body");
    parsed.unwrap_or_else(|| Ok(BucketParams::default()))
}

/// Compares the parameters of a body with those by another decoder.
fn check_meaning(body: &[u8], params: &BucketParams) {
    let start = body.trim_ascii_start();
    if start.starts_with(b"--") {
        // A multipart form, or one that only looks so: see `check_formats`.
        return;
    }
    let mut expected = BucketParams::default();
    if start.starts_with(b"{") {
        let fields: Map<String, Value> = serde_json::from_slice(body).unwrap_or_default();
        for name in BucketParams::NAMES {
            if let Some(text) = fields.get(name).and_then(|value| text_of(name, value)) {
                set(&mut expected, name, &text);
            }
        }
    } else {
        for (name, value) in form_urlencoded::parse(body.trim_ascii()) {
            set(&mut expected, &name, &value);
        }
    }
    assert_eq!(*params, expected);
}

/// Returns the text that a parameter has in JSON, which was accepted; `None` if it counts as not
/// given.
fn text_of(name: &str, value: &Value) -> Option<String> {
    let is_ttl = name == "default_ttl";
    match value {
        Value::Null => is_ttl.then(String::new),
        Value::String(text) => Some(text.clone()),
        other => {
            let is_whole = other.is_u64() || other.is_i64();
            assert!(is_ttl && is_whole, "{name} is {other}, and was accepted");
            Some(other.to_string())
        }
    }
}

fn set(params: &mut BucketParams, name: &str, value: &str) {
    let result = params.set(name, value.to_owned());
    assert!(result.is_ok(), "{name} is given twice, and was accepted");
}

fn check_values(params: BucketParams) {
    match params.clone().into_create(None) {
        Ok(create) => {
            let comment_bytes = create.comment.map_or(1, |comment| comment.len());
            assert!((1..=1024).contains(&comment_bytes));
            assert!(
                create
                    .default_ttl
                    .is_none_or(|ttl| !ttl.is_zero() && ttl <= MAX_TTL)
            );
        }
        Err(error) => check_refusal(error),
    }
    if let Err(error) = params.into_modify() {
        check_refusal(error);
    }
}

/// Checks that parameters survive a round trip in all three formats.
fn check_formats(text: &str) {
    let mut params = BucketParams::default();
    let mut fields = Map::new();
    let mut form = form_urlencoded::Serializer::new(String::new());
    let mut multipart = String::new();
    for (name, value) in BucketParams::NAMES.into_iter().zip(text.splitn(4, '\n')) {
        set(&mut params, name, value);
        fields.insert(name.to_owned(), Value::from(value));
        form.append_pair(name, value);
        let disposition = format!("Content-Disposition: form-data; name=\"{name}\"");
        multipart += &format!("--{BOUNDARY}\r\n{disposition}\r\n\r\n{value}\r\n");
    }
    multipart += &format!("--{BOUNDARY}--\r\n");
    let json = Value::Object(fields).to_string();
    for body in [json, form.finish()] {
        assert_eq!(parse(None, body.into_bytes()).ok().as_ref(), Some(&params));
    }
    // A value with a boundary would end there.
    if !text.contains(BOUNDARY) {
        let parsed = parse(None, multipart.into_bytes());
        assert_eq!(parsed.ok().as_ref(), Some(&params));
    }
}
