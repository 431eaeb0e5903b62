//! Conditional requests: preconditions of writes, and validation of a reader's cached value.
//!
//! Writes support `If-Match` and `If-None-Match`, one at a time: the service evaluates one
//! condition atomically with the write, and two could only be evaluated one after the other.
//! `If-Unmodified-Since` on a write is refused rather than ignored, because its sender relies on
//! it, and seconds are too coarse to guarantee it.

use http::header::{IF_MATCH, IF_MODIFIED_SINCE, IF_NONE_MATCH, IF_UNMODIFIED_SINCE};
use http::{HeaderMap, HeaderName, HeaderValue};

use crate::api::errors::ApiError;
use crate::api::http::dates;
use crate::api::http::etag::Tags;
use crate::service::{Precondition, Version};

/// Parses the precondition of a write.
pub fn of_write(headers: &HeaderMap) -> Result<Precondition, ApiError> {
    if headers.contains_key(IF_UNMODIFIED_SINCE) {
        let message = "If-Unmodified-Since does not work on writes: use If-Match with an ETag";
        return Err(ApiError::header(message));
    }
    match (tags(headers, &IF_MATCH)?, tags(headers, &IF_NONE_MATCH)?) {
        (None, None) => Ok(Precondition::None),
        (Some(Tags::Any), None) => Ok(Precondition::Exists),
        (Some(tags), None) => Ok(Precondition::Versions(tags.strong().collect())),
        (None, Some(Tags::Any)) => Ok(Precondition::Absent),
        (None, Some(tags)) => Ok(Precondition::NotVersions(tags.weak().collect())),
        (Some(_), Some(_)) => Err(ApiError::header(
            "give If-Match or If-None-Match, not both of them",
        )),
    }
}

/// Outcome of a read of a key that exists.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Reading {
    /// The value is sent.
    Full,
    /// 304: the client has the current version.
    NotModified,
    /// 412: the current version isn't one that the client requires.
    Failed,
}

/// Evaluates the conditions of a read against the key's version, in the order of RFC 9110, 13.2.2.
pub fn of_read(headers: &HeaderMap, version: Version) -> Result<Reading, ApiError> {
    let modified = dates::seconds(version.time);
    if let Some(tags) = tags(headers, &IF_MATCH)? {
        if tags != Tags::Any && !tags.strong().any(|tag| tag == version) {
            return Ok(Reading::Failed);
        }
    } else if date(headers, &IF_UNMODIFIED_SINCE).is_some_and(|since| modified > since) {
        return Ok(Reading::Failed);
    }
    let is_fresh = match tags(headers, &IF_NONE_MATCH)? {
        Some(tags) => tags == Tags::Any || tags.weak().any(|tag| tag == version),
        None => date(headers, &IF_MODIFIED_SINCE).is_some_and(|since| modified <= since),
    };
    Ok(if is_fresh {
        Reading::NotModified
    } else {
        Reading::Full
    })
}

fn tags(headers: &HeaderMap, name: &HeaderName) -> Result<Option<Tags>, ApiError> {
    if !headers.contains_key(name) {
        return Ok(None);
    }
    match Tags::parse(headers.get_all(name).iter().map(HeaderValue::as_bytes)) {
        Some(tags) => Ok(Some(tags)),
        None => Err(ApiError::header(format!(
            "header {name} must be * or a list of quoted ETags"
        ))),
    }
}

/// Parses a date header. An invalid date is ignored, as RFC 9110 requires.
fn date(headers: &HeaderMap, name: &HeaderName) -> Option<u64> {
    headers.get(name).and_then(dates::parse)
}

#[cfg(test)]
#[path = "conditions_tests.rs"]
mod tests;
