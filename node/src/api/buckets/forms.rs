//! The three formats of parameters in a body, which are detected by the body's content.
//!
//! Clients' headers can't be trusted: the documented request for modifying a bucket sends a
//! multipart form and declares it as urlencoded, and `curl -d '{...}'` declares JSON as that, too.
//! So the first bytes decide, and the header only where they are ambiguous.

use std::convert::Infallible;

use bytes::Bytes;
use futures_util::{future, stream};
use multer::Multipart;
use serde_json::{Map, Value};

use crate::api::buckets::params::BucketParams;
use crate::api::errors::ApiError;
use crate::api::http::query::Query;

/// Maximum length of a multipart form's boundary (RFC 2046), in bytes.
const MAX_BOUNDARY_BYTES: usize = 70;

/// Parameter that is a number of seconds in JSON, too, and that `null` removes.
const DEFAULT_TTL: &str = "default_ttl";

/// Format of a body.
#[derive(Debug, PartialEq, Eq)]
enum BodyFormat {
    Empty,
    Json,
    Multipart { boundary: String },
    Urlencoded,
}

/// Parses the parameters in a body with the `Content-Type` that its header declares.
pub(crate) async fn parse(declared: Option<&str>, body: Bytes) -> Result<BucketParams, ApiError> {
    match detect_format(declared, &body)? {
        BodyFormat::Empty => Ok(BucketParams::default()),
        BodyFormat::Json => parse_json(&body),
        BodyFormat::Multipart { boundary } => parse_multipart(body, boundary).await,
        BodyFormat::Urlencoded => parse_urlencoded(&body),
    }
}

fn detect_format(declared: Option<&str>, body: &[u8]) -> Result<BodyFormat, ApiError> {
    let start = body.trim_ascii_start();
    if start.is_empty() {
        return Ok(BodyFormat::Empty);
    }
    if let Some(boundary) = leading_boundary(start) {
        return Ok(BodyFormat::Multipart { boundary });
    }
    let declared = declared.unwrap_or_default().trim().to_ascii_lowercase();
    if start.starts_with(b"{") || declared.starts_with("application/json") {
        return Ok(BodyFormat::Json);
    }
    if start.contains(&b'=') || declared.starts_with("application/x-www-form-urlencoded") {
        return Ok(BodyFormat::Urlencoded);
    }
    Err(ApiError::invalid_body(
        "a body must be a multipart form, an urlencoded form, or a JSON object",
    ))
}

/// Returns the boundary of a multipart form from its first line; `None` if the body doesn't start
/// like one.
fn leading_boundary(body: &[u8]) -> Option<String> {
    let rest = body.strip_prefix(b"--")?;
    let end = rest.iter().position(|byte| matches!(byte, b'\r' | b'\n'))?;
    let (line, rest) = rest.split_at(end);
    let line = std::str::from_utf8(line).ok()?.trim_end();
    let part = rest.trim_ascii_start();
    if part
        .get(..8)
        .is_some_and(|name| name.eq_ignore_ascii_case(b"content-"))
    {
        return checked_boundary(line);
    }
    // A form without fields is its closing line alone.
    part.is_empty()
        .then(|| line.strip_suffix("--").and_then(checked_boundary))
        .flatten()
}

fn checked_boundary(text: &str) -> Option<String> {
    let is_legal = |byte: u8| byte.is_ascii_alphanumeric() || b"'()+_,-./:=? ".contains(&byte);
    let is_valid = (1..=MAX_BOUNDARY_BYTES).contains(&text.len()) && text.bytes().all(is_legal);
    is_valid.then(|| text.to_owned())
}

fn parse_json(body: &[u8]) -> Result<BucketParams, ApiError> {
    let fields: Map<String, Value> = serde_json::from_slice(body)
        .map_err(|_| ApiError::invalid_body("a JSON body must be an object of parameters"))?;
    let mut params = BucketParams::default();
    for (name, value) in fields {
        let is_ttl = name == DEFAULT_TTL;
        match value {
            Value::Null if is_ttl => params.set(&name, String::new())?,
            Value::Null => {}
            Value::String(text) => params.set(&name, text)?,
            Value::Number(seconds) if is_ttl && !seconds.is_f64() => {
                params.set(&name, seconds.to_string())?;
            }
            Value::Bool(_) | Value::Number(_) | Value::Array(_) | Value::Object(_) => {
                if BucketParams::NAMES.contains(&name.as_str()) {
                    return Err(wrong_type(&name));
                }
            }
        }
    }
    Ok(params)
}

fn wrong_type(name: &str) -> ApiError {
    let or_number = if name == DEFAULT_TTL {
        ", or a whole number of seconds"
    } else {
        ""
    };
    ApiError::invalid_parameter(format!("parameter {name} must be a string{or_number}"))
}

fn parse_urlencoded(body: &[u8]) -> Result<BucketParams, ApiError> {
    let text = std::str::from_utf8(body.trim_ascii())
        .map_err(|_| ApiError::invalid_body("an urlencoded form must be text"))?;
    BucketParams::from_query(Query::new(Some(text)))
}

async fn parse_multipart(body: Bytes, boundary: String) -> Result<BucketParams, ApiError> {
    let malformed = |_| ApiError::invalid_body("the multipart form is malformed");
    let mut form = Multipart::new(single_chunk(body), boundary);
    let mut params = BucketParams::default();
    while let Some(field) = form.next_field().await.map_err(malformed)? {
        let Some(name) = field.name().map(str::to_owned) else {
            continue;
        };
        let value = field.bytes().await.map_err(malformed)?;
        let value = String::from_utf8(value.into())
            .map_err(|_| ApiError::invalid_body("a multipart form must hold UTF-8 text"))?;
        params.set(&name, value)?;
    }
    Ok(params)
}

fn single_chunk(body: Bytes) -> impl stream::Stream<Item = Result<Bytes, Infallible>> + Send {
    stream::once(future::ready(Ok(body.slice_ref(body.trim_ascii_start()))))
}

#[cfg(test)]
#[path = "forms_tests.rs"]
mod tests;
