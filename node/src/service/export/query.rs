//! Keys that an export scans.

use bytes::Bytes;

use crate::background::BackgroundScheduler;
use crate::service::scan::PacedScan;
use crate::shard::{ScanChunk, ShardHandle};
use crate::types::BucketId;

/// Keys that are scanned.
#[derive(Clone, Debug)]
pub(super) struct ScanQuery {
    pub bucket: BucketId,
    /// Prefix of the keys.
    pub prefix: Bytes,
}

impl ScanQuery {
    /// Prepares a scan of a replica.
    pub(super) fn start(
        &self,
        shard: &ShardHandle,
        scheduler: BackgroundScheduler,
    ) -> PacedScan<ScanChunk> {
        let (query, now) = (self.clone(), shard.now());
        PacedScan::start(shard, scheduler, move |view, sink| {
            view.scan_bucket(query.bucket.as_bytes(), &query.prefix, now, sink)
        })
    }
}
