//! Scans of all live records of a shard, at its leader, wherever that is in the region.

use std::io;
use std::time::Duration;

use cloudkv_proto::v1 as pb;
use tokio::time::timeout;
use tonic::{Status, Streaming};

use super::leader::{LeaderSearch, ScanPlace, await_begin};
use super::paced::PacedScan;
use super::record_frames::{RecordScanServer, start_paced};
use crate::background::BackgroundScheduler;
use crate::raft::NodeId;
use crate::rpc::ShardScanStream;
use crate::service::errors::KeyError;
use crate::service::shards::{Shards, no_leader};
use crate::shard::RecordChunk;
use crate::types::Nanos;

/// A scan from which nothing arrives for this long is given up.
const STALL_TIMEOUT: Duration = Duration::from_secs(30);

/// Scans of shards. Cheap to clone.
#[derive(Clone)]
pub struct RecordScans {
    shards: Shards,
    scheduler: BackgroundScheduler,
    server: RecordScanServer,
}

/// Position of a scan's view.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct ScanStart {
    /// Index of the last entry whose effects it has.
    pub applied_index: u64,
    /// Time of the newest version that the shard has ever applied.
    pub last_version: Nanos,
}

/// Scan of one shard that has begun.
pub(crate) struct RecordScan {
    shard: u16,
    source: ScanSource,
    /// Number of records so far.
    count: u64,
}

enum ScanSource {
    Here(PacedScan<RecordChunk>),
    Leader(Box<Streaming<pb::ShardScanFrame>>),
}

impl RecordScans {
    /// Creates the scans of this node. All of them, for itself and for other nodes, share
    /// `scheduler`.
    pub fn new(shards: Shards, scheduler: BackgroundScheduler) -> Self {
        Self {
            server: RecordScanServer::new(shards.clone(), scheduler.clone()),
            shards,
            scheduler,
        }
    }

    /// Returns the scheduler of the scans, for work that belongs to them.
    pub(crate) fn scheduler(&self) -> &BackgroundScheduler {
        &self.scheduler
    }

    /// Begins the scan of a shard of the region. Waits for a leader if there is none.
    pub(crate) async fn open(&self, shard: u16) -> Result<(RecordScan, ScanStart), KeyError> {
        let mut search = LeaderSearch::new(&self.shards, shard);
        let (source, start) = loop {
            match self.try_open(&search, shard).await {
                Ok(begun) => break begun,
                Err(error) => search.retry_after(error).await?,
            }
        };
        let scan = RecordScan {
            shard,
            source,
            count: 0,
        };
        Ok((scan, start))
    }

    async fn try_open(
        &self,
        search: &LeaderSearch<'_>,
        shard: u16,
    ) -> Result<(ScanSource, ScanStart), KeyError> {
        match search.place()? {
            ScanPlace::Here(handle) => {
                let mut scan = start_paced(handle, self.scheduler.clone());
                let start = read_start(&mut scan).await.map_err(KeyError::Storage)?;
                Ok((ScanSource::Here(scan), start))
            }
            ScanPlace::At(leader) => {
                let begun = self.begin_at(leader, shard);
                await_begin(&self.shards, (shard, leader), begun).await
            }
        }
    }

    async fn begin_at(
        &self,
        leader: NodeId,
        shard: u16,
    ) -> Result<(ScanSource, ScanStart), Status> {
        let request = pb::ShardScanRequest {
            shard: u32::from(shard),
        };
        let mut frames = self.shards.peers().open_shard_scan(leader, request).await?;
        let first = frames.message().await?.unwrap_or_default();
        if first.applied_index == 0 {
            return Err(Status::aborted("the scan has no first frame"));
        }
        let start = ScanStart {
            applied_index: first.applied_index,
            last_version: first.last_version,
        };
        Ok((ScanSource::Leader(Box::new(frames)), start))
    }

    /// Streams the records of a shard that this node leads to another node of the region.
    pub(crate) fn serve(&self, request: pb::ShardScanRequest) -> Result<ShardScanStream, Status> {
        self.server.scan(request)
    }
}

async fn read_start(scan: &mut PacedScan<RecordChunk>) -> io::Result<ScanStart> {
    match scan.next().await? {
        Some(RecordChunk::Start {
            applied_index,
            last_version,
        }) => Ok(ScanStart {
            applied_index,
            last_version,
        }),
        Some(RecordChunk::Records(_)) | None => {
            Err(io::Error::other("scan shard: it has no beginning"))
        }
    }
}

impl RecordScan {
    /// Reads the next records, which may be none; `None` at the end of the scan. Not to be called
    /// after that.
    pub(crate) async fn next(&mut self) -> Result<Option<Vec<pb::KeyRecord>>, KeyError> {
        let records = match &mut self.source {
            ScanSource::Here(scan) => match scan.next().await.map_err(KeyError::Storage)? {
                Some(RecordChunk::Records(records)) => Some(records),
                Some(RecordChunk::Start { .. }) => Some(Vec::new()),
                None => None,
            },
            ScanSource::Leader(frames) => {
                let frame = next_frame(frames, self.count).await;
                frame.map_err(|status| {
                    let (shard, reason) = (self.shard, status.message());
                    tracing::warn!(shard, reason, "scan for a backup broke off");
                    no_leader(shard)
                })?
            }
        };
        self.count += records.as_ref().map_or(0, Vec::len) as u64;
        Ok(records)
    }
}

/// Reads the next records of a scan that has had `count` of them; `None` at its end.
async fn next_frame(
    frames: &mut Streaming<pb::ShardScanFrame>,
    count: u64,
) -> Result<Option<Vec<pb::KeyRecord>>, Status> {
    let frame = timeout(STALL_TIMEOUT, frames.message()).await;
    let timed_out = |_| Err(Status::deadline_exceeded("nothing arrives any more"));
    match frame.unwrap_or_else(timed_out)? {
        Some(frame) => match frame.end {
            None => Ok(Some(frame.records)),
            Some(end) if end == count => Ok(None),
            Some(_) => Err(Status::data_loss("records are missing from the scan")),
        },
        None => Err(Status::aborted("the scan ended without its last frame")),
    }
}
