//! Parameters of a watch.

use std::borrow::Cow;

use bytes::Bytes;
use http::{HeaderMap, HeaderName};

use crate::api::errors::ApiError;
use crate::api::http::query::Query;
use crate::api::http::request_headers::single;
use crate::api::keys::list::{MAX_LIST_PARAMETER_BYTES, PARAMETERS as LIST_PARAMETERS};
use crate::service::{BucketId, KeyFilter, ResumeToken, ResumeTokenError};

/// Parameters of a watch of a bucket.
pub(crate) const WATCH_PARAMETERS: [&str; 4] = ["initial", "values", "since", "prefix"];
/// Parameters of a watch of one key.
pub(crate) const KEY_WATCH_PARAMETERS: [&str; 3] = ["initial", "values", "since"];

/// Header of a client that connects again: the ID of the last event that it has got.
pub(super) static LAST_EVENT_ID: HeaderName = HeaderName::from_static("last-event-id");

/// Parameters of a watch.
#[derive(Debug)]
pub(super) struct WatchParameters {
    /// Keys that are watched.
    pub(super) filter: KeyFilter,
    /// True if the keys that there are come first.
    pub(super) initial: bool,
    /// True if events have values.
    pub(super) with_values: bool,
    /// Token of the last event that the client has got.
    pub(super) since: Option<ResumeToken>,
}

impl WatchParameters {
    /// Parses the parameters of a watch of a bucket, or of one key.
    pub(super) fn parse(
        bucket: &BucketId,
        key: Option<&[u8]>,
        query: Query<'_>,
        headers: &HeaderMap,
    ) -> Result<Self, ApiError> {
        let known = match key {
            Some(_) => &KEY_WATCH_PARAMETERS[..],
            None => &WATCH_PARAMETERS[..],
        };
        refuse_list_parameters(query, known)?;
        query.refuse_unknown(known)?;
        let [initial, values, since, prefix] = WATCH_PARAMETERS;
        let filter = match key {
            Some(key) => KeyFilter::Key(Bytes::copy_from_slice(key)),
            None => {
                let prefix = query.get_text(prefix, MAX_LIST_PARAMETER_BYTES)?;
                let prefix = prefix.map(Cow::into_owned).unwrap_or_default();
                KeyFilter::Prefix(prefix.into())
            }
        };
        Ok(Self {
            filter,
            initial: query.get_flag(initial)?,
            with_values: query.get_flag(values)?,
            since: resume_token(bucket, query, since, headers)?,
        })
    }
}

/// Refuses parameters that only lists have, with a reason.
fn refuse_list_parameters(query: Query<'_>, known: &[&'static str]) -> Result<(), ApiError> {
    for name in LIST_PARAMETERS {
        if !known.contains(&name) && query.get(name)?.is_some() {
            let known = known.join(", ");
            return Err(ApiError::invalid_parameter(format!(
                "{name} is a parameter of lists, and this request asks for an event stream by its \
                 Accept header: there is {known}"
            )));
        }
    }
    Ok(())
}

/// Returns the token of `Last-Event-ID`, or else of the query: a browser repeats the query when it
/// connects again.
fn resume_token(
    bucket: &BucketId,
    query: Query<'_>,
    since: &'static str,
    headers: &HeaderMap,
) -> Result<Option<ResumeToken>, ApiError> {
    let last_event_id = match single(headers, &LAST_EVENT_ID)? {
        Some(value) => value.to_str().map_err(|_| ResumeTokenError::Malformed)?,
        None => "",
    };
    let token = match last_event_id.trim() {
        "" => query.get(since)?.filter(|token| !token.is_empty()),
        id => Some(Cow::Borrowed(id)),
    };
    let token = token.map(|token| ResumeToken::parse(&token, bucket));
    Ok(token.transpose()?)
}

#[cfg(test)]
#[path = "parameters_tests.rs"]
mod tests;
