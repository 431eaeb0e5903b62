//! Checks a plan's number of bytes in a bucket when the byte quota at hand is used up
//! (`quota::ByteQuota`).
//!
//! A write is refused only when the bytes that were counted, without what has expired, and those of
//! the value exceed the limit. A value no larger than the one that it replaces always fits.

use std::time::{Duration, Instant};

use super::errors::{KeyError, Unavailable};
use super::operation::ShardError;
use super::shards::Shards;
use crate::meta::Bucket;
use crate::shard::ShardHandle;
use crate::types::ReadResult;

/// Key and size of what is to be written.
#[derive(Clone, Copy, Debug)]
pub(super) struct WriteSize<'a> {
    pub key: &'a [u8],
    /// Size of key, value and metadata, as far as they are written, in bytes.
    pub bytes: u64,
    /// True if key and value of a live record are replaced, false if its metadata only.
    pub replaces_value: bool,
    /// The plan's number of bytes.
    pub limit: u64,
}

/// Counts the bucket's bytes, and returns whether the value fits. Fails as overloaded after
/// `timeout`.
pub(super) async fn admit(
    shards: &Shards,
    shard: &ShardHandle,
    bucket: &Bucket,
    put: WriteSize<'_>,
    timeout: Duration,
) -> Result<bool, ShardError> {
    let count = async {
        let replaced = match shard.get(bucket.id.as_bytes(), put.key).await? {
            ReadResult::Live(entry) if put.replaces_value => {
                (put.key.len() + entry.value.len() + entry.metadata.len()) as u64
            }
            ReadResult::Live(entry) => entry.metadata.len() as u64,
            ReadResult::Deleted(_) | ReadResult::Missing if put.replaces_value => 0,
            // Nothing is written then.
            ReadResult::Deleted(_) | ReadResult::Missing => return Ok(true),
        };
        let added = put.bytes.saturating_sub(replaced);
        if added == 0 {
            return Ok(true);
        }
        let quota = &bucket.usage.byte_quota;
        let _exclusive = quota.count_lock.lock().await;
        if quota.consume(added, Instant::now()) {
            return Ok(true);
        }
        // Expired keys are counted until they are removed.
        for exact in [false, true] {
            let started_at = Instant::now();
            let states = shards.bucket_states(&bucket.id, exact).await?;
            let used: u64 = states.iter().map(|state| state.bytes).sum();
            let after = used.saturating_add(added);
            if after <= put.limit {
                let shard_count = shards.len() as u64;
                quota.renew(put.limit - after, put.limit, shard_count, started_at);
                return Ok(true);
            }
        }
        Ok(false)
    };
    let queue = "writes near the bucket's limit";
    let overloaded = KeyError::from(Unavailable::Overloaded { queue });
    let admitted = tokio::time::timeout(timeout, count).await;
    admitted.unwrap_or(Err(overloaded.into()))
}
