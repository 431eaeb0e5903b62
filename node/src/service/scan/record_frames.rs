//! Scans of shards for other nodes of the region, as frames on a stream.
//!
//! Invariant: a scan is complete only with its last frame, which has the number of records. A stream
//! that just ends, since its node stops, isn't taken for a scan of few records.

use std::sync::Arc;

use cloudkv_proto::v1 as pb;
use tokio::sync::{OwnedSemaphorePermit, Semaphore, mpsc};
use tonic::Status;

use super::paced::PacedScan;
use crate::background::BackgroundScheduler;
use crate::rpc::ShardScanStream;
use crate::service::shards::Shards;
use crate::shard::{RecordChunk, ShardHandle};

/// Maximum number of scans that this node makes for others at a time.
const MAX_SCANS: usize = 4;
/// Frames read ahead of the connection that sends them.
const READAHEAD_FRAMES: usize = 1;

/// Maker of the scans that other nodes ask for. Cheap to clone.
#[derive(Clone)]
pub(super) struct RecordScanServer {
    shards: Shards,
    scheduler: BackgroundScheduler,
    permits: Arc<Semaphore>,
}

impl RecordScanServer {
    pub(super) fn new(shards: Shards, scheduler: BackgroundScheduler) -> Self {
        Self {
            shards,
            scheduler,
            permits: Arc::new(Semaphore::new(MAX_SCANS)),
        }
    }

    /// Streams the records of a shard that this node leads.
    pub(super) fn scan(&self, request: pb::ShardScanRequest) -> Result<ShardScanStream, Status> {
        let shard = u16::try_from(request.shard).ok();
        let shard = shard.and_then(|shard| self.shards.local(shard));
        let shard = shard.filter(|shard| shard.is_serving());
        let shard =
            shard.ok_or_else(|| Status::unavailable("this node does not lead the shard"))?;
        let permit = self.permits.clone().try_acquire_owned();
        let permit = permit.map_err(|_| Status::unavailable("too many scans are under way"))?;
        let scan = start_paced(shard, self.scheduler.clone());
        let (frames, stream) = mpsc::channel(READAHEAD_FRAMES);
        tokio::spawn(send_scan(scan, frames, permit));
        Ok(ShardScanStream::new(stream))
    }
}

/// Prepares a scan of all records that are live now.
pub(super) fn start_paced(
    shard: &ShardHandle,
    scheduler: BackgroundScheduler,
) -> PacedScan<RecordChunk> {
    let now = shard.now();
    PacedScan::start(shard, scheduler, move |view, sink| {
        view.scan_records(now, sink)
    })
}

async fn send_scan(
    mut scan: PacedScan<RecordChunk>,
    frames: mpsc::Sender<Result<pb::ShardScanFrame, Status>>,
    _permit: OwnedSemaphorePermit,
) {
    let mut count = 0;
    loop {
        let (frame, is_last) = match scan.next().await {
            Ok(Some(RecordChunk::Start {
                applied_index,
                last_version,
            })) => {
                let first = pb::ShardScanFrame {
                    applied_index,
                    last_version,
                    ..Default::default()
                };
                (Ok(first), false)
            }
            Ok(Some(RecordChunk::Records(records))) => {
                count += records.len() as u64;
                let records = pb::ShardScanFrame {
                    records,
                    ..Default::default()
                };
                (Ok(records), false)
            }
            Ok(None) => {
                let last = pb::ShardScanFrame {
                    end: Some(count),
                    ..Default::default()
                };
                (Ok(last), true)
            }
            Err(error) => (Err(Status::aborted(error.to_string())), true),
        };
        // Sending fails if the receiver has disconnected.
        if frames.send(frame).await.is_err() || is_last {
            return;
        }
    }
}
