//! Scans of other nodes of the region, as frames on a stream.
//!
//! Invariant: a scan is complete only with its last frame, which has the index of the first one
//! again. A stream that just ends, since its node stops, isn't taken for a scan of few keys.

use std::sync::Arc;

use bytes::Bytes;
use cloudkv_proto::v1 as pb;
use tokio::sync::{OwnedSemaphorePermit, Semaphore, mpsc};
use tonic::Status;

use super::query::ScanQuery;
use crate::background::BackgroundScheduler;
use crate::rpc::ScanStream;
use crate::service::scan::PacedScan;
use crate::service::shards::Shards;
use crate::shard::ScanChunk;
use crate::types::{BucketId, StoredValue, Version};

/// Maximum number of scans that this node makes for others at a time.
const MAX_SCANS: usize = 16;
/// Frames read ahead of the connection that sends them.
const READAHEAD_FRAMES: usize = 1;

/// Maker of the scans that other nodes ask for. Cheap to clone.
#[derive(Clone)]
pub(super) struct ScanServer {
    shards: Shards,
    scheduler: BackgroundScheduler,
    permits: Arc<Semaphore>,
}

impl ScanServer {
    pub(super) fn new(shards: Shards, scheduler: BackgroundScheduler) -> Self {
        Self {
            shards,
            scheduler,
            permits: Arc::new(Semaphore::new(MAX_SCANS)),
        }
    }

    /// Streams a bucket's live keys in a shard that this node leads.
    pub(super) fn scan(&self, request: &pb::ScanRequest) -> Result<ScanStream, Status> {
        let bucket = BucketId::parse(&request.bucket);
        let bucket = bucket.ok_or_else(|| Status::invalid_argument("malformed bucket"))?;
        let shard = u16::try_from(request.shard).ok();
        let shard = shard.and_then(|shard| self.shards.local(shard));
        let shard = shard.filter(|shard| shard.is_serving());
        let shard =
            shard.ok_or_else(|| Status::unavailable("this node does not lead the shard"))?;
        let permit = self.permits.clone().try_acquire_owned();
        let permit = permit.map_err(|_| Status::unavailable("too many scans are under way"))?;
        let query = ScanQuery {
            bucket,
            prefix: request.prefix.clone(),
        };
        let scan = query.start(shard, self.scheduler.clone());
        let (frames, stream) = mpsc::channel(READAHEAD_FRAMES);
        tokio::spawn(send_scan(scan, frames, permit));
        Ok(ScanStream::new(stream))
    }
}

async fn send_scan(
    mut scan: PacedScan<ScanChunk>,
    frames: mpsc::Sender<Result<pb::ScanFrame, Status>>,
    _permit: OwnedSemaphorePermit,
) {
    let mut applied_index = 0;
    loop {
        let (frame, is_last) = match scan.next().await {
            Ok(Some(ScanChunk::Start {
                applied_index: index,
            })) => {
                applied_index = index;
                (Ok(index_frame(index)), false)
            }
            Ok(Some(ScanChunk::Records(records))) => (Ok(encode(records)), false),
            Ok(None) => (Ok(index_frame(applied_index)), true),
            Err(error) => (Err(Status::aborted(error.to_string())), true),
        };
        // Sending fails if the receiver has disconnected.
        if frames.send(frame).await.is_err() || is_last {
            return;
        }
    }
}

/// Returns the first frame of a scan, which is also the last one.
fn index_frame(applied_index: u64) -> pb::ScanFrame {
    pb::ScanFrame {
        applied_index,
        records: Vec::new(),
    }
}

/// Encodes records, without their bucket: it is the request's.
fn encode(records: Vec<(Bytes, StoredValue)>) -> pb::ScanFrame {
    let records = records.into_iter().map(|(key, stored)| pb::KeyRecord {
        bucket: Bytes::new(),
        key,
        record: Some(pb::Record {
            version: Some(stored.version.into()),
            expires_at: stored.expires_at.unwrap_or(0),
            content_type: stored.content_type,
            metadata: stored.metadata,
            value: stored.value,
            ..Default::default()
        }),
    });
    pb::ScanFrame {
        applied_index: 0,
        records: records.collect(),
    }
}

/// Decodes the records of a frame.
pub(super) fn decode(frame: pb::ScanFrame) -> Vec<(Bytes, StoredValue)> {
    let records = frame.records.into_iter().map(|record| {
        let stored = record.record.unwrap_or_default();
        let value = StoredValue {
            value: stored.value,
            content_type: stored.content_type,
            version: stored.version.map(Version::from).unwrap_or_default(),
            expires_at: (stored.expires_at != 0).then_some(stored.expires_at),
            metadata: stored.metadata,
        };
        (record.key, value)
    });
    records.collect()
}

#[cfg(test)]
mod tests {
    use proptest::collection::vec;
    use proptest::prelude::*;

    use super::*;

    proptest! {
        #[test]
        fn records_survive_encoding(
            records in vec(
                (vec(any::<u8>(), 1..20), vec(any::<u8>(), 0..20), any::<(u64, u32)>(), 0..3_u64),
                0..5,
            )
        ) {
            let records = records.into_iter().map(|(key, value, (time, region), expires_at)| {
                let stored = StoredValue {
                    value: Bytes::from(value.clone()),
                    content_type: Bytes::from(value),
                    version: Version { time, region },
                    expires_at: (expires_at > 0).then_some(expires_at),
                    metadata: Bytes::from(key.clone()),
                };
                (Bytes::from(key), stored)
            });
            let records: Vec<_> = records.collect();
            let frame = encode(records.clone());
            prop_assert_eq!(frame.applied_index, 0);
            prop_assert_eq!(decode(frame), records);
        }
    }
}
