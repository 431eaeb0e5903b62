//! Scan of one shard for an export, at the shard's leader, wherever that is.

use std::time::Duration;

use bytes::Bytes;
use cloudkv_proto::v1 as pb;
use tokio::time::timeout;
use tonic::{Status, Streaming};

use super::frames;
use super::query::ScanQuery;
use crate::background::BackgroundScheduler;
use crate::raft::NodeId;
use crate::service::errors::KeyError;
use crate::service::scan::{LeaderSearch, PacedScan, ScanPlace, await_begin};
use crate::service::shards::{Shards, no_leader};
use crate::shard::ScanChunk;
use crate::types::StoredValue;

/// A scan from which nothing arrives for this long is given up.
const STALL_TIMEOUT: Duration = Duration::from_secs(30);

/// Live keys with what is stored of them.
pub(crate) type ScannedRecords = Vec<(Bytes, StoredValue)>;

/// Scan of one shard that has begun.
pub(super) struct ShardScan {
    shard: u16,
    source: ScanSource,
}

enum ScanSource {
    Here(PacedScan<ScanChunk>),
    Leader(Box<Streaming<pb::ScanFrame>>),
}

/// Opens the scans of an export.
#[derive(Clone)]
pub(super) struct ScanOpener {
    pub shards: Shards,
    pub scheduler: BackgroundScheduler,
}

impl ScanOpener {
    /// Begins the scan of a shard, and returns the index of the last entry that its view has. Waits
    /// for a leader if there is none.
    pub(super) async fn open(
        &self,
        shard: u16,
        query: &ScanQuery,
    ) -> Result<(ShardScan, u64), KeyError> {
        let mut search = LeaderSearch::new(&self.shards, shard);
        let (source, index) = loop {
            match self.try_open(&search, shard, query).await {
                Ok(begun) => break begun,
                Err(error) => search.retry_after(error).await?,
            }
        };
        Ok((ShardScan { shard, source }, index))
    }

    async fn try_open(
        &self,
        search: &LeaderSearch<'_>,
        shard: u16,
        query: &ScanQuery,
    ) -> Result<(ScanSource, u64), KeyError> {
        match search.place()? {
            ScanPlace::Here(handle) => {
                begin_here(query.start(handle, self.scheduler.clone())).await
            }
            ScanPlace::At(leader) => {
                let request = pb::ScanRequest {
                    shard: u32::from(shard),
                    bucket: Bytes::copy_from_slice(query.bucket.as_bytes()),
                    prefix: query.prefix.clone(),
                };
                let begun = self.begin_at(leader, request);
                await_begin(&self.shards, (shard, leader), begun).await
            }
        }
    }

    async fn begin_at(
        &self,
        leader: NodeId,
        request: pb::ScanRequest,
    ) -> Result<(ScanSource, u64), Status> {
        let mut frames = self.shards.peers().open_scan(leader, request).await?;
        let first = frames.message().await?.unwrap_or_default();
        if first.applied_index == 0 {
            return Err(Status::aborted("the scan has no first frame"));
        }
        Ok((ScanSource::Leader(Box::new(frames)), first.applied_index))
    }
}

async fn begin_here(mut scan: PacedScan<ScanChunk>) -> Result<(ScanSource, u64), KeyError> {
    match scan.next().await.map_err(KeyError::Storage)? {
        Some(ScanChunk::Start { applied_index }) => Ok((ScanSource::Here(scan), applied_index)),
        Some(ScanChunk::Records(_)) | None => {
            let error = std::io::Error::other("scan bucket: it has no beginning");
            Err(KeyError::Storage(error))
        }
    }
}

impl ShardScan {
    /// Reads the next records, which may be none; `None` at the end of the scan. Not to be called
    /// after that.
    pub(super) async fn next(&mut self) -> Result<Option<ScannedRecords>, KeyError> {
        match &mut self.source {
            ScanSource::Here(scan) => match scan.next().await.map_err(KeyError::Storage)? {
                Some(ScanChunk::Records(records)) => Ok(Some(records)),
                Some(ScanChunk::Start { .. }) => Ok(Some(Vec::new())),
                None => Ok(None),
            },
            ScanSource::Leader(frames) => {
                let frame = timeout(STALL_TIMEOUT, frames.message()).await;
                let timed_out = |_| Err(Status::deadline_exceeded("nothing arrives any more"));
                let frame = frame.unwrap_or_else(timed_out);
                let frame = frame.and_then(|frame| {
                    frame.ok_or_else(|| Status::aborted("the scan ended without its last frame"))
                });
                match frame {
                    Ok(frame) if frame.applied_index != 0 => Ok(None),
                    Ok(frame) => Ok(Some(frames::decode(frame))),
                    Err(status) => {
                        tracing::warn!(
                            shard = self.shard,
                            reason = status.message(),
                            "scan for an export broke off"
                        );
                        Err(no_leader(self.shard))
                    }
                }
            }
        }
    }
}
