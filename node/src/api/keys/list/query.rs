//! Parameters of a list of keys, and the cursor and the link with which it goes on.

use bytes::Bytes;
use http::HeaderValue;

use crate::api::errors::ApiError;
use crate::api::http::cursor::{self, Cursor, CursorKind, ListHash};
use crate::api::http::paging;
use crate::api::http::query::Query;
use crate::service::{BucketId, ListPosition, ListQuery};

/// Maximum number of keys and common prefixes in one answer, and the default.
pub(crate) const MAX_LISTED_ENTRIES: usize = 1000;
/// Maximum length of `prefix`, `after`, `start`, `end` and `delimiter`, in bytes: that of keys. So a
/// link, in which each byte may take three, is shorter than half of what a request's head may have.
pub(crate) const MAX_LIST_PARAMETER_BYTES: usize = 1024;
/// Maximum size of the values in one answer, in bytes. One is sent in any case.
const MAX_VALUE_BYTES: usize = 1 << 20;
/// All parameters.
pub(crate) const PARAMETERS: [&str; 9] = [
    "prefix",
    "limit",
    "after",
    "cursor",
    "start",
    "end",
    "delimiter",
    "reverse",
    "values",
];
/// Parameters that the link to the next page repeats: `cursor` stands for `after`.
const LINKED_PARAMETERS: [&str; 7] = [
    "prefix",
    "limit",
    "start",
    "end",
    "delimiter",
    "reverse",
    "values",
];

/// Request for a list.
#[derive(Debug)]
pub(super) struct ListRequest<'a> {
    /// Query for the service.
    pub(super) query: ListQuery,
    /// True if it goes on with a list.
    pub(super) has_cursor: bool,
    hash: ListHash,
    parameters: Query<'a>,
}

impl<'a> ListRequest<'a> {
    /// Parses the parameters of a list of a bucket's keys.
    pub(super) fn parse(bucket: &BucketId, parameters: Query<'a>) -> Result<Self, ApiError> {
        // The limit is that of all lists.
        let [
            prefix,
            _,
            after,
            cursor,
            start,
            end,
            delimiter,
            reverse,
            values,
        ] = PARAMETERS;
        let prefix = text(parameters, prefix)?;
        let start = text(parameters, start)?;
        let end = text(parameters, end)?;
        let delimiter = text(parameters, delimiter)?;
        let after = text(parameters, after)?;
        let cursor = parameters.get(cursor)?.filter(|text| !text.is_empty());
        let is_reverse = parameters.get_flag(reverse)?;
        let with_values = parameters.get_flag(values)?;
        let limit = paging::parse_limit(parameters, MAX_LISTED_ENTRIES)?;
        if let (Some(start), Some(end)) = (&start, &end)
            && start >= end
        {
            return Err(ApiError::invalid_parameter(
                "start must come before end, in the order of their bytes: they bound the keys, \
                 with reverse=true, too",
            ));
        }
        if cursor.is_some() && after.is_some() {
            let message = "after and cursor exclude each other: cursor has the place at which the \
                           list goes on";
            return Err(ApiError::invalid_parameter(message));
        }
        let mut query = ListQuery {
            prefix: prefix.unwrap_or_default(),
            from: start,
            to: end,
            delimiter: delimiter.unwrap_or_default(),
            is_reverse,
            with_values,
            limit,
            max_value_bytes: MAX_VALUE_BYTES,
            max_rows: None,
            with_index: false,
        };
        let hash = hash_of(bucket, &query);
        if let Some(cursor) = &cursor {
            parse_cursor(cursor, hash)?.narrow(&mut query);
        }
        if let Some(after) = after {
            position_of(&query, after).narrow(&mut query);
        }
        Ok(Self {
            query,
            has_cursor: cursor.is_some(),
            hash,
            parameters,
        })
    }

    /// Returns the cursor with which the list goes on behind a position.
    pub(super) fn cursor(&self, position: &ListPosition) -> String {
        let (kind, name) = match position {
            ListPosition::Key(name) => (CursorKind::Key, name),
            ListPosition::Prefix(name) => (CursorKind::Prefix, name),
        };
        let name = name.to_vec();
        Cursor { kind, name }.encode(self.hash)
    }

    /// Returns the link to the next page, which begins at a cursor.
    pub(super) fn next_link(
        &self,
        bucket: &BucketId,
        cursor: &str,
    ) -> Result<HeaderValue, ApiError> {
        let path = format!("/kv/{}", bucket.as_str());
        paging::next_link(&path, self.parameters, &LINKED_PARAMETERS, cursor)
    }
}

/// Returns the value of a parameter; `None` if it isn't given, or is empty.
fn text(parameters: Query<'_>, name: &'static str) -> Result<Option<Bytes>, ApiError> {
    let text = parameters.get_text(name, MAX_LIST_PARAMETER_BYTES)?;
    Ok(text.map(|text| Bytes::from(text.into_owned())))
}

/// Returns the position at which a list behind `after` begins.
///
/// A common prefix is listed only if it comes behind `after` itself, as in S3: a client that goes on
/// behind the last line of a page, which may be a common prefix, doesn't get it again.
fn position_of(query: &ListQuery, after: Bytes) -> ListPosition {
    // In descending order, what begins with the common prefix comes before it anyway.
    let prefix = query.common_prefix(&after).filter(|_| !query.is_reverse);
    match prefix.map(|prefix| after.slice_ref(prefix)) {
        Some(prefix) => ListPosition::Prefix(prefix),
        None => ListPosition::Key(after),
    }
}

/// Hashes all that decides which entries a list has, and in which order.
fn hash_of(bucket: &BucketId, query: &ListQuery) -> ListHash {
    let bound = |bound: &Option<Bytes>| bound.clone().unwrap_or_default();
    ListHash::new(&[
        bucket.as_bytes(),
        &query.prefix,
        &bound(&query.from),
        &bound(&query.to),
        &query.delimiter,
        &[u8::from(query.is_reverse)],
    ])
}

fn parse_cursor(text: &str, list: ListHash) -> Result<ListPosition, ApiError> {
    let Cursor { kind, name } = Cursor::decode(text, list)?;
    match kind {
        CursorKind::Key => Ok(ListPosition::Key(name.into())),
        CursorKind::Prefix => Ok(ListPosition::Prefix(name.into())),
        CursorKind::Bucket => Err(cursor::malformed()),
    }
}

#[cfg(test)]
#[path = "query_tests.rs"]
mod tests;
