//! Reads the recent changes of a shard, or waits for the next one.
//!
//! Positions are indexes of the shard's log, so it doesn't matter which replica is asked. The
//! leader is, where this node has none.

use std::time::Duration;

use bytes::Bytes;
use cloudkv_proto::v1 as pb;
use cloudkv_proto::v1::key_change::Kind;
use cloudkv_proto::v1::{call, reply};
use tokio::time::{Instant, timeout_at};

use super::operation::{Operation, ShardError};
use crate::shard::{ChangesPage, ChangesRange, RecentChanges, ShardHandle, TooOld};
use crate::types::{BucketId, KeyChange, KeyChangeKind, KeyFilter, PutDetails, Version};

/// Maximum time for which a leader waits for a change: shorter than the timeout of a call.
pub(super) const MAX_CHANGES_WAIT: Duration = Duration::from_millis(500);
/// Maximum number of changes of a page, whatever another node asks for.
const MAX_PAGE_CHANGES: usize = 1000;

/// Reads the changes of a range. If there are none, it waits for the first one, but not for long.
pub(super) struct ReadChanges<'a> {
    pub range: ChangesRange<'a>,
    /// Maximum time to wait.
    pub wait: Duration,
}

impl Operation for ReadChanges<'_> {
    /// A page, or the refusal of a memory that doesn't reach back.
    type Output = Result<ChangesPage, TooOld>;
    const RETRYABLE: bool = true;

    async fn execute(&self, shard: &ShardHandle) -> Result<Self::Output, ShardError> {
        let wait = self.wait.min(MAX_CHANGES_WAIT);
        let changes = shard.view().recent_changes();
        Ok(wait_for_changes(changes, &self.range, wait).await)
    }

    fn to_call(&self, shard: u16) -> call::Body {
        let range = &self.range;
        let bucket = range.bucket.map(BucketId::as_bytes);
        let (prefix, is_key) = match range.filter {
            Some(KeyFilter::Key(key)) => (key.clone(), true),
            Some(KeyFilter::Prefix(prefix)) => (prefix.clone(), false),
            None => (Bytes::new(), false),
        };
        call::Body::Changes(pb::ChangesQuery {
            shard: u32::from(shard),
            after: range.after,
            up_to: if range.up_to == u64::MAX {
                0
            } else {
                range.up_to
            },
            bucket: bucket.map_or_else(Bytes::new, |bucket| Bytes::copy_from_slice(bucket)),
            prefix,
            is_key,
            limit: u32::try_from(range.limit).unwrap_or(u32::MAX),
            wait_ms: u32::try_from(self.wait.as_millis()).unwrap_or(u32::MAX),
        })
    }

    fn encode(output: Self::Output) -> reply::Body {
        reply::Body::Changes(match output {
            Ok(page) => pb::ChangesReply {
                changes: page.changes.into_iter().map(encode_change).collect(),
                up_to: page.up_to,
                is_too_old: false,
            },
            Err(too_old) => pb::ChangesReply {
                changes: Vec::new(),
                up_to: too_old.last_index,
                is_too_old: true,
            },
        })
    }

    fn decode(reply: reply::Body) -> Option<Self::Output> {
        let reply::Body::Changes(reply) = reply else {
            return None;
        };
        if reply.is_too_old {
            return Some(Err(TooOld {
                last_index: reply.up_to,
            }));
        }
        let changes = reply.changes.into_iter().map(decode_change);
        Some(Ok(ChangesPage {
            changes: changes.collect::<Option<_>>()?,
            up_to: reply.up_to,
        }))
    }
}

/// Query of another node.
pub(super) struct ChangesQuery {
    /// Number of the shard.
    pub shard: u32,
    after: u64,
    up_to: u64,
    bucket: Option<BucketId>,
    filter: Option<KeyFilter>,
    limit: usize,
    wait: Duration,
}

impl ChangesQuery {
    /// Decodes the query of a call; `None` if no bucket can have that name.
    pub(super) fn decode(query: pb::ChangesQuery) -> Option<Self> {
        let bucket = if query.bucket.is_empty() {
            None
        } else {
            Some(BucketId::parse(&query.bucket)?)
        };
        let filter = match (query.is_key, query.prefix) {
            (true, key) => Some(KeyFilter::Key(key)),
            (false, prefix) if prefix.is_empty() => None,
            (false, prefix) => Some(KeyFilter::Prefix(prefix)),
        };
        let limit = usize::try_from(query.limit).unwrap_or(MAX_PAGE_CHANGES);
        Some(Self {
            shard: query.shard,
            after: query.after,
            up_to: if query.up_to == 0 {
                u64::MAX
            } else {
                query.up_to
            },
            bucket,
            filter,
            limit: limit.min(MAX_PAGE_CHANGES),
            wait: Duration::from_millis(query.wait_ms.into()),
        })
    }

    /// Returns the operation that answers it.
    pub(super) fn operation(&self) -> ReadChanges<'_> {
        ReadChanges {
            range: ChangesRange {
                after: self.after,
                up_to: self.up_to,
                bucket: self.bucket.as_ref(),
                filter: self.filter.as_ref(),
                limit: self.limit,
            },
            wait: self.wait,
        }
    }
}

/// Reads the changes of a range from this node's replica. Returns as soon as there are some, or the
/// range is complete, else after `wait`. Cancel safe.
pub(super) async fn wait_for_changes(
    changes: &RecentChanges,
    range: &ChangesRange<'_>,
    wait: Duration,
) -> Result<ChangesPage, TooOld> {
    let deadline = Instant::now() + wait;
    let mut applied = (!wait.is_zero()).then(|| changes.subscribe());
    let mut range = *range;
    loop {
        if let Some(applied) = &mut applied {
            // What is applied after this ends the wait below.
            applied.mark_unchanged();
        }
        let page = changes.read(&range)?;
        let is_complete = !page.changes.is_empty() || page.up_to >= range.up_to;
        let Some(applied) = applied.as_mut().filter(|_| !is_complete) else {
            return Ok(page);
        };
        // Entries without a change that matches are not read again.
        range.after = page.up_to.max(range.after);
        match timeout_at(deadline, applied.changed()).await {
            Ok(Ok(())) => {}
            // The sender is in the replica's view, which is still there.
            Ok(Err(_)) | Err(_) => return Ok(page),
        }
    }
}

fn encode_change(change: KeyChange) -> pb::KeyChange {
    let (kind, details) = match change.kind {
        KeyChangeKind::Put(details) => (Kind::Put, details),
        KeyChangeKind::Deleted => (Kind::Deleted, PutDetails::default()),
        KeyChangeKind::Expired => (Kind::Expired, PutDetails::default()),
        KeyChangeKind::BucketDropped => (Kind::BucketDropped, PutDetails::default()),
    };
    pb::KeyChange {
        index: change.index,
        bucket: Bytes::copy_from_slice(change.bucket.as_bytes()),
        key: change.key,
        version: Some(change.version.into()),
        kind: kind.into(),
        size: details.size,
        expires_at: details.expires_at.unwrap_or(0),
        content_type: details.content_type,
        metadata: details.metadata,
    }
}

/// Decodes a change; `None` if its kind isn't known.
fn decode_change(change: pb::KeyChange) -> Option<KeyChange> {
    let kind = match change.kind() {
        Kind::Put => KeyChangeKind::Put(PutDetails {
            size: change.size,
            expires_at: (change.expires_at != 0).then_some(change.expires_at),
            content_type: change.content_type,
            metadata: change.metadata,
        }),
        Kind::Deleted => KeyChangeKind::Deleted,
        Kind::Expired => KeyChangeKind::Expired,
        Kind::BucketDropped => KeyChangeKind::BucketDropped,
        Kind::Unspecified => return None,
    };
    Some(KeyChange {
        index: change.index,
        bucket: BucketId::parse(&change.bucket)?,
        key: change.key,
        version: change.version.map(Version::from).unwrap_or_default(),
        kind,
    })
}

#[cfg(test)]
#[path = "read_changes_tests.rs"]
mod tests;
