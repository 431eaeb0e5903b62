//! Drops buckets, and counts their reads.

use std::io;

use bytes::Bytes;
use cloudkv_proto::v1 as pb;

use super::response::ShardResponse;
use super::rows::is_bucket_name;
use super::state::ShardState;
use crate::store::RowBatch;
use crate::store::keys;

impl ShardState {
    /// Removes a bucket's records as one range and leaves a marker that refuses every later write.
    /// Rows of its keys in the expiry index are removed when they expire.
    pub(super) fn apply_drop_bucket(
        &mut self,
        id: &Bytes,
        batch: &mut RowBatch,
    ) -> io::Result<ShardResponse> {
        if !is_bucket_name(id) {
            return Ok(ShardResponse::Done);
        }
        let from = self.rows.record(id, b"");
        let bucket = self.bucket(id)?;
        let (count, digest, was_dropped) = (bucket.keys, bucket.digest, bucket.dropped);
        // The digest covers tombstones as well; an empty bucket needs no range deletion.
        if count != 0 || digest != 0 {
            batch.delete_range(&from, &keys::prefix_end(&from));
            self.record_cache.clear();
        }
        *self.bucket(id)? = pb::BucketState {
            dropped: true,
            ..Default::default()
        };
        self.header.digest = self.header.digest.wrapping_sub(digest);
        if !was_dropped {
            self.record_dropped_bucket(id);
        }
        Ok(ShardResponse::Done)
    }

    pub(super) fn apply_count_reads(
        &mut self,
        counts: &pb::CountReads,
    ) -> io::Result<ShardResponse> {
        for count in &counts.counts {
            if !is_bucket_name(&count.bucket) {
                continue;
            }
            let bucket = self.bucket(&count.bucket)?;
            if !bucket.dropped {
                bucket.hits += count.hits;
                bucket.misses += count.misses;
            }
        }
        Ok(ShardResponse::Done)
    }
}
