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
use crate::api::http::etag::EntityTags;
use crate::service::{Precondition, Version};

/// Parses the precondition of a write.
pub(crate) fn parse_precondition(headers: &HeaderMap) -> Result<Precondition, ApiError> {
    if headers.contains_key(IF_UNMODIFIED_SINCE) {
        let message = "If-Unmodified-Since does not work on writes: use If-Match with an ETag";
        return Err(ApiError::invalid_header(message));
    }
    let (if_match, if_none_match) = (
        parse_tags(headers, &IF_MATCH)?,
        parse_tags(headers, &IF_NONE_MATCH)?,
    );
    let both = || ApiError::invalid_header("give If-Match or If-None-Match, not both of them");
    precondition_of(if_match.as_ref(), if_none_match.as_ref()).ok_or_else(both)
}

/// Returns the precondition of the tags of `If-Match` or `If-None-Match`; `None` if both are given.
pub(crate) fn precondition_of(
    if_match: Option<&EntityTags>,
    if_none_match: Option<&EntityTags>,
) -> Option<Precondition> {
    Some(match (if_match, if_none_match) {
        (None, None) => Precondition::None,
        (Some(EntityTags::Any), None) => Precondition::Exists,
        (Some(tags), None) => Precondition::Versions(tags.strong_versions().collect()),
        (None, Some(EntityTags::Any)) => Precondition::Absent,
        (None, Some(tags)) => Precondition::NotVersions(tags.weak_versions().collect()),
        (Some(_), Some(_)) => return None,
    })
}

/// Outcome of a read of a key that exists.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum ReadOutcome {
    /// The value is sent.
    SendValue,
    /// 304: the client has the current version.
    NotModified,
    /// 412: the current version isn't one that the client requires.
    PreconditionFailed,
}

/// Evaluates the conditions of a read against the key's version, in the order of RFC 9110, 13.2.2.
pub(crate) fn evaluate_read(
    headers: &HeaderMap,
    version: Version,
) -> Result<ReadOutcome, ApiError> {
    let modified = dates::seconds(version.time);
    if let Some(tags) = parse_tags(headers, &IF_MATCH)? {
        if tags != EntityTags::Any && !tags.strong_versions().any(|tag| tag == version) {
            return Ok(ReadOutcome::PreconditionFailed);
        }
    } else if parse_date(headers, &IF_UNMODIFIED_SINCE).is_some_and(|since| modified > since) {
        return Ok(ReadOutcome::PreconditionFailed);
    }
    let is_fresh = match parse_tags(headers, &IF_NONE_MATCH)? {
        Some(tags) => tags == EntityTags::Any || tags.weak_versions().any(|tag| tag == version),
        None => parse_date(headers, &IF_MODIFIED_SINCE).is_some_and(|since| modified <= since),
    };
    Ok(if is_fresh {
        ReadOutcome::NotModified
    } else {
        ReadOutcome::SendValue
    })
}

fn parse_tags(headers: &HeaderMap, name: &HeaderName) -> Result<Option<EntityTags>, ApiError> {
    if !headers.contains_key(name) {
        return Ok(None);
    }
    match EntityTags::parse(headers.get_all(name).iter().map(HeaderValue::as_bytes)) {
        Some(tags) => Ok(Some(tags)),
        None => Err(ApiError::invalid_header(format!(
            "header {name} must be * or a list of quoted ETags"
        ))),
    }
}

/// Parses a date header. An invalid date is ignored, as RFC 9110 requires.
fn parse_date(headers: &HeaderMap, name: &HeaderName) -> Option<u64> {
    headers.get(name).and_then(dates::parse)
}

#[cfg(test)]
#[path = "conditions_tests.rs"]
mod tests;
