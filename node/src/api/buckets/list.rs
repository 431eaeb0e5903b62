//! `GET /buckets`: lists an account's buckets, oldest first, in pages.

use axum::extract::{RawQuery, State};
use axum::response::Response;
use http::StatusCode;
use http::header::LINK;
use serde::Serialize;
use utoipa::ToSchema;

use crate::api::buckets::extract::Owner;
use crate::api::buckets::handlers::json_response;
use crate::api::buckets::state::BucketsState;
use crate::api::errors::ApiError;
use crate::api::http::cursor::{self, Cursor, CursorKind, ListHash};
use crate::api::http::query::Query;
use crate::api::http::{dates, paging};
use crate::api::openapi::values;
use crate::service::{BucketId, BucketPosition, BucketSummary, Nanos};

/// Maximum number of buckets in one answer, and the default.
const MAX_LISTED_BUCKETS: usize = 1000;
/// All parameters.
pub(crate) const PARAMETERS: [&str; 2] = ["limit", "cursor"];
/// Parameters that the link to the next page repeats.
const LINKED_PARAMETERS: [&str; 1] = ["limit"];

/// A page of a list of buckets.
#[derive(Serialize, ToSchema)]
pub(crate) struct BucketList<'a> {
    /// The buckets.
    buckets: Vec<BucketListEntry>,
    /// True if nothing follows.
    list_complete: bool,
    /// Position at which the list goes on, unless it is complete.
    #[serde(skip_serializing_if = "Option::is_none")]
    cursor: Option<&'a str>,
}

#[derive(Serialize, ToSchema)]
#[schema(as = ListedBucket)]
struct BucketListEntry {
    /// ID of the bucket.
    id: String,
    #[schema(schema_with = values::access)]
    mode: &'static str,
    #[schema(schema_with = values::plan)]
    plan: &'static str,
    /// Time of the creation.
    #[schema(format = DateTime)]
    created_at: String,
    /// Comment.
    #[schema(required)]
    comment: Option<String>,
    /// Time to live of writes that name no expiry, in seconds.
    #[schema(required)]
    default_ttl: Option<u64>,
    /// Number of keys, up to 5 seconds old.
    estimated_keys: u64,
    /// Number of reads of keys that were found.
    key_get_success: u64,
    /// Number of reads of keys that were not found.
    key_get_failed: u64,
}

impl From<BucketSummary> for BucketListEntry {
    fn from(bucket: BucketSummary) -> Self {
        Self {
            id: bucket.id.as_str().to_owned(),
            mode: bucket.access.name(),
            plan: bucket.plan.name(),
            created_at: dates::rfc3339(bucket.created_at),
            comment: bucket.comment.filter(|text| !text.is_empty()),
            default_ttl: bucket.default_ttl.map(|ttl| ttl.as_secs()),
            estimated_keys: bucket.estimated_keys,
            key_get_success: bucket.key_get_success,
            key_get_failed: bucket.key_get_failed,
        }
    }
}

/// Handles `GET /buckets`.
pub(crate) async fn list(
    State(state): State<BucketsState>,
    Owner(account): Owner,
    RawQuery(query): RawQuery,
) -> Result<Response, ApiError> {
    let query = Query::new(query.as_deref());
    let hash = ListHash::new(&[&account.0]);
    let limit = paging::parse_limit(query, MAX_LISTED_BUCKETS)?;
    let after = parse_cursor(query, hash)?;
    let listing = state.directory.list_buckets(account, after, limit).await?;
    let cursor = listing.next.map(|position| encode_cursor(position, hash));
    let body = BucketList {
        buckets: listing.buckets.into_iter().map(Into::into).collect(),
        list_complete: cursor.is_none(),
        cursor: cursor.as_deref(),
    };
    let mut response = json_response(StatusCode::OK, body);
    if let Some(cursor) = &cursor {
        let link = paging::next_link("/buckets", query, &LINKED_PARAMETERS, cursor)?;
        response.headers_mut().insert(LINK, link);
    }
    Ok(response)
}

/// Encodes a cursor that names a bucket: its time of creation, big-endian, and its ID.
fn encode_cursor(position: BucketPosition, list: ListHash) -> String {
    let created_at = position.created_at.to_be_bytes();
    let cursor = Cursor {
        kind: CursorKind::Bucket,
        name: [&created_at[..], position.id.as_bytes()].concat(),
    };
    cursor.encode(list)
}

/// Parses the cursor of a request, if it has one.
fn parse_cursor(query: Query<'_>, list: ListHash) -> Result<Option<BucketPosition>, ApiError> {
    let [_, cursor] = PARAMETERS;
    let text = query.get(cursor)?.filter(|text| !text.is_empty());
    let Some(text) = text else {
        return Ok(None);
    };
    let Cursor { kind, name } = Cursor::decode(&text, list)?;
    match (kind, parse_position(&name)) {
        (CursorKind::Bucket, Some(position)) => Ok(Some(position)),
        (CursorKind::Bucket, None) | (CursorKind::Key | CursorKind::Prefix, _) => {
            Err(cursor::malformed())
        }
    }
}

fn parse_position(name: &[u8]) -> Option<BucketPosition> {
    let (created_at, id) = name.split_first_chunk()?;
    Some(BucketPosition {
        created_at: Nanos::from_be_bytes(*created_at),
        id: BucketId::parse(id)?,
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::service::AccountId;

    fn parse(text: &str, list: ListHash) -> Result<Option<BucketPosition>, &'static str> {
        parse_cursor(Query::new(Some(text)), list).map_err(|error| error.code())
    }

    #[test]
    fn a_cursor_names_a_bucket_of_its_account() {
        let hash_of = |account: AccountId| ListHash::new(&[&account.0]);
        let (list, other) = (hash_of(AccountId([1; 32])), hash_of(AccountId([2; 32])));
        let position = BucketPosition {
            created_at: 1 << 60,
            id: BucketId::parse(b"aArigQkIoMOGqG").unwrap(),
        };
        let text = format!("limit=3&cursor={}", encode_cursor(position, list));
        assert_eq!(parse(&text, list), Ok(Some(position)));
        assert_eq!(parse(&text, other), Err("invalid_cursor"));
        assert_eq!(parse("cursor=", list), Ok(None));
        assert_eq!(parse("", list), Ok(None));
        let of_key = Cursor {
            kind: CursorKind::Key,
            name: b"k".to_vec(),
        };
        let text = format!("cursor={}", of_key.encode(list));
        assert_eq!(parse(&text, list), Err("invalid_cursor"));
    }
}
