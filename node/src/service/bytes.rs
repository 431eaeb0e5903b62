//! Checks a plan's number of bytes in a bucket when the allowance at hand is used up
//! (`budget::ByteQuota`).
//!
//! Nobody is refused but when the bytes that were counted, without what has expired, and those of
//! the value are more than there may be. A value no larger than the one that it replaces always
//! fits.

use std::time::{Duration, Instant};

use super::errors::{KeyError, Unavailable};
use super::operation::Missed;
use super::shards::Shards;
use crate::meta::Bucket;
use crate::shard::ShardHandle;
use crate::types::ReadResult;

/// A value to be written.
#[derive(Clone, Copy, Debug)]
pub(super) struct Addition<'a> {
    pub key: &'a [u8],
    /// Size of key and value, in bytes.
    pub bytes: u64,
    /// The plan's number of bytes.
    pub limit: u64,
}

/// Counts the bucket, and returns whether the value fits.
pub(super) async fn admit(
    shards: &Shards,
    shard: &ShardHandle,
    bucket: &Bucket,
    put: Addition<'_>,
    timeout: Duration,
) -> Result<bool, Missed> {
    let count = async {
        let replaced = match shard.get(bucket.id.as_bytes(), put.key).await? {
            ReadResult::Found(entry) => (put.key.len() + entry.value.len()) as u64,
            ReadResult::Gone(_) | ReadResult::Nothing => 0,
        };
        let added = put.bytes.saturating_sub(replaced);
        if added == 0 {
            return Ok(true);
        }
        let quota = &bucket.usage.byte_quota;
        let _alone = quota.counting.lock().await;
        if quota.take(added, Instant::now()) {
            return Ok(true);
        }
        // What has expired is counted until it is removed.
        for exact in [false, true] {
            let begun = Instant::now();
            let states = shards.states(&bucket.id, exact).await?;
            let used: u64 = states.iter().map(|state| state.bytes).sum();
            let after = used.saturating_add(added);
            if after <= put.limit {
                let parts = shards.len() as u64;
                quota.renew(put.limit - after, put.limit, parts, begun);
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
