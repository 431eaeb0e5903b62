//! Drops buckets, and counts their reads.

use std::io;

use bytes::Bytes;
use cloudkv_proto::v1 as pb;

use super::state::{Response, ShardState, is_bucket_name};
use crate::store::Batch;
use crate::store::keys;

impl ShardState {
    /// Removes a bucket's records as one range and leaves a marker that refuses every later write.
    /// Rows of its keys in the expiry index are removed when they expire.
    pub(super) fn apply_drop_bucket(
        &mut self,
        id: &Bytes,
        batch: &mut Batch,
    ) -> io::Result<Response> {
        if !is_bucket_name(id) {
            return Ok(Response::Done);
        }
        let from = self.rows.record(id, b"");
        let bucket = self.bucket(id)?;
        let (count, digest) = (bucket.keys, bucket.digest);
        // The digest covers tombstones as well; an empty bucket needs no range deletion.
        if count != 0 || digest != 0 {
            batch.delete_range(&from, &keys::after_prefix(&from));
            self.recent.clear();
        }
        *self.bucket(id)? = pb::BucketState {
            dropped: true,
            ..Default::default()
        };
        self.header.digest = self.header.digest.wrapping_sub(digest);
        Ok(Response::Done)
    }

    pub(super) fn apply_count_reads(&mut self, counts: &pb::CountReads) -> io::Result<Response> {
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
        Ok(Response::Done)
    }
}
