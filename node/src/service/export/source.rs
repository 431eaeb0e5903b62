//! Scan of one shard for an export, at the shard's leader, wherever that is.
//!
//! Invariant: the view has every write that was acknowledged before the export began: a leader
//! takes it, after it has made sure that it leads. This node's own view stays valid when it stops
//! leading.

use std::time::Duration;

use bytes::Bytes;
use cloudkv_proto::v1 as pb;
use tokio::time::{Instant, timeout};
use tonic::{Status, Streaming};

use super::frames;
use super::scan::{PacedScan, ScanQuery};
use crate::background::BackgroundScheduler;
use crate::raft::NodeId;
use crate::service::errors::KeyError;
use crate::service::shards::{Shards, no_leader};
use crate::shard::ScanChunk;
use crate::types::StoredValue;

/// Time within which a leader must begin the scan.
const OPEN_TIMEOUT: Duration = Duration::from_secs(10);
/// Timeout of one attempt to begin a scan at another node.
const ATTEMPT_TIMEOUT: Duration = Duration::from_secs(5);
/// Minimum and maximum of the backoff between attempts to reach a leader.
const RETRY_BACKOFF: (Duration, Duration) = (Duration::from_millis(20), Duration::from_millis(500));
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
    Here(PacedScan),
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
        let deadline = Instant::now() + OPEN_TIMEOUT;
        let mut others = self.shards.peers().same_region();
        let mut backoff = RETRY_BACKOFF.0;
        loop {
            let error = match self.try_open(shard, query, others.first().copied()).await {
                Ok((source, index)) => return Ok((ShardScan { shard, source }, index)),
                Err(error) => error,
            };
            if Instant::now() >= deadline {
                return Err(error);
            }
            if !others.is_empty() {
                others.rotate_left(1);
            }
            tokio::time::sleep(backoff).await;
            backoff = (2 * backoff).min(RETRY_BACKOFF.1);
        }
    }

    /// Begins a scan here or at the leader; at `any_other` node if none is known.
    async fn try_open(
        &self,
        number: u16,
        query: &ScanQuery,
        any_other: Option<NodeId>,
    ) -> Result<(ScanSource, u64), KeyError> {
        let shard = self.shards.local(number);
        let shard = shard.ok_or_else(|| no_leader(number))?;
        if shard.is_serving() {
            let scan = PacedScan::start(shard, self.scheduler.clone(), query.clone());
            return begin_here(scan).await;
        }
        // A replica knows when there is no leader.
        let any_other = any_other.filter(|_| !shard.is_hosted());
        let leader = shard.remote_leader().or(any_other);
        let leader = leader.ok_or_else(|| no_leader(number))?;
        let request = pb::ScanRequest {
            shard: u32::from(number),
            bucket: Bytes::copy_from_slice(query.bucket.as_bytes()),
            prefix: query.prefix.clone(),
        };
        let begun = timeout(ATTEMPT_TIMEOUT, self.begin_at(leader, request)).await;
        let timed_out = |_| Err(Status::deadline_exceeded("no answer within the timeout"));
        begun.unwrap_or_else(timed_out).map_err(|status| {
            let leader = self.shards.peers().name_of(leader);
            tracing::debug!(leader, reason = status.message(), "scan not begun");
            no_leader(number)
        })
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

async fn begin_here(mut scan: PacedScan) -> Result<(ScanSource, u64), KeyError> {
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
