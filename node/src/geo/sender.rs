//! Sends a shard's changes to one other region.
//!
//! A session begins by asking the other region for its cursor and continues from there with several
//! batches in flight. Any failure ends the session; the next one asks again. Nothing depends on the
//! state of a session: a batch that arrives twice, or late, changes nothing at the receiver.

use std::convert::Infallible;
use std::sync::Arc;
use std::time::{Duration, Instant};

use cloudkv_proto::v1 as pb;
use cloudkv_proto::v1::{call, reply};
use futures_util::FutureExt;
use futures_util::future::BoxFuture;
use futures_util::stream::{FuturesOrdered, StreamExt};
use prost::Message;
use tokio::sync::watch;
use tokio::time::MissedTickBehavior;

use super::backlog::{Backlog, LAG_THRESHOLD};
use super::replication::GeoReplication;
use super::retention_budget::BudgetStage;
use crate::background::BackgroundPermit;
use crate::raft::NodeId;
use crate::rpc::{CallError, StreamKind};
use crate::shard::{ChangeBatch, ReplicationView, ShardHandle};
use crate::store::StoreError;

/// Maximum number of batches in flight, and of their bytes.
const MAX_IN_FLIGHT: (usize, usize) = (256, 8 << 20);
/// Same limits for low priority, over all shards and for each of them: such batches wait for
/// permits of the other region's background scheduler.
const MAX_LOW_PRIORITY_IN_FLIGHT: (usize, usize) = (16, 1 << 20);
/// Time to wait for a background permit of this node: the other region has to hear from this one.
const PERMIT_TIMEOUT: Duration = Duration::from_secs(2);
/// Time for a batch to be acknowledged.
const ACK_TIMEOUT: Duration = Duration::from_secs(10);
/// Interval at which a changed watermark is sent while there are no changes.
const WATERMARK_INTERVAL: Duration = Duration::from_millis(250);
/// Interval at which something is sent in any case.
const HEARTBEAT_INTERVAL: Duration = Duration::from_secs(1);
/// Minimum and maximum backoff between sessions.
const RETRY_BACKOFF: (Duration, Duration) = (Duration::from_millis(20), Duration::from_secs(1));
/// Backoff after the two regions have disagreed on the sent changes.
const DISAGREEMENT_BACKOFF: Duration = Duration::from_secs(10);

/// Reason why a session ended.
#[derive(Debug, thiserror::Error)]
enum SendSessionError {
    #[error("the region has no leader of the shard")]
    NoLeader,
    #[error("this node does not lead the shard")]
    NotLeader,
    #[error(transparent)]
    Call(#[from] CallError),
    #[error("the region refused: {0}")]
    Refused(String),
    #[error("the region's cursor is not at the expected position")]
    CursorMismatch,
    #[error("the region does not know this incarnation, or is ahead of it")]
    Disagreement,
    #[error(transparent)]
    Storage(#[from] StoreError),
    #[error("read changes: the task panicked")]
    Panicked,
}

/// Sends a shard's changes to one region.
pub(super) struct ChangeSender {
    pub geo: Arc<GeoReplication>,
    pub number: u16,
    pub shard: Arc<ShardHandle>,
    pub target: pb::Peer,
}

/// Batch to be sent.
struct SendBatch {
    merge: pb::Merge,
    /// Set if users' requests take precedence.
    is_low_priority: bool,
    /// Age of its oldest change, if more changes follow it; else 0.
    backlog_age: Duration,
}

/// Response to a batch.
struct BatchAck {
    position: u64,
    bytes: usize,
    /// Time of sending, if it held changes.
    sent_at: Option<Instant>,
    reply: Result<reply::Body, CallError>,
}

impl ChangeSender {
    /// Sends changes until dropped.
    pub(super) async fn run(self) {
        let mut backoff = RETRY_BACKOFF.0;
        loop {
            let started = Instant::now();
            let error = self.run_session().await;
            let (shard, region) = (self.number, self.target.region);
            tracing::debug!(shard, region, %error, "replication session ended, retrying");
            if started.elapsed() > RETRY_BACKOFF.1 {
                backoff = RETRY_BACKOFF.0;
            }
            match error {
                SendSessionError::Disagreement => {
                    self.geo.status.record_disagreement(shard, region);
                    let topology = self.geo.catalog.topology();
                    tracing::error!(
                        shard,
                        region = topology.region_name(region),
                        "regions disagree on the sent changes: was one of them restored or reset?"
                    );
                    tokio::time::sleep(DISAGREEMENT_BACKOFF).await;
                }
                _ => {
                    tokio::time::sleep(backoff).await;
                    backoff = (2 * backoff).min(RETRY_BACKOFF.1);
                }
            }
        }
    }

    async fn run_session(&self) -> SendSessionError {
        match self.send_changes().await {
            Ok(infallible) => match infallible {},
            Err(error) => error,
        }
    }

    async fn send_changes(&self) -> Result<Infallible, SendSessionError> {
        let found = self.geo.leader_in(self.number, self.target.region);
        let node = found.ok_or(SendSessionError::NoLeader)?;
        let replication = self.shard.view().replication();
        let current = replication.borrow().clone();
        let position = self.query_cursor(node, &current).await?;
        let session = SendSession {
            sender: self,
            node,
            position,
            in_flight: FuturesOrdered::new(),
            in_flight_bytes: 0,
            announced: AnnouncedState::default(),
            backlog: None,
        };
        session.run(replication).await
    }

    async fn read_batch(&self, position: u64) -> Result<ChangeBatch, SendSessionError> {
        let (view, peer) = (self.shard.view().clone(), self.target.region);
        let task = tokio::task::spawn_blocking(move || view.changes_after(peer, position));
        Ok(task.await.map_err(|_| SendSessionError::Panicked)??)
    }

    fn merge_call(&self, batch: SendBatch) -> call::Body {
        let lag = self.geo.status.lag(self.number, self.target.region);
        call::Body::Merge(pb::MergeCall {
            shard: u32::from(self.number),
            merge: Some(batch.merge),
            lag_us: lag.map_or(0, |lag| u64::try_from(lag.as_micros()).unwrap_or(0)),
            low_priority: batch.is_low_priority,
        })
    }

    /// Returns the age of a batch's oldest change.
    fn backlog_age(&self, merge: &pb::Merge) -> Duration {
        let oldest = merge.records.first();
        let version = oldest.and_then(|oldest| oldest.record.as_ref()?.version);
        let age = version.map(|version| self.geo.clock.now().saturating_sub(version.time));
        age.map_or(Duration::ZERO, Duration::from_nanos)
    }

    /// Queries the other region's cursor, with a heartbeat that brings nothing new.
    async fn query_cursor(
        &self,
        node: NodeId,
        replication: &ReplicationView,
    ) -> Result<u64, SendSessionError> {
        let peer = replication
            .peer(self.target.region)
            .ok_or(SendSessionError::NotLeader)?;
        let merge = pb::Merge {
            origin: self.geo.local.region,
            incarnation: self.geo.local.incarnation,
            from: peer.acknowledged,
            to: peer.acknowledged,
            ..Default::default()
        };
        let call = self.merge_call(SendBatch {
            merge,
            is_low_priority: false,
            backlog_age: Duration::ZERO,
        });
        let reply = self
            .geo
            .peers
            .call(node, StreamKind::Geo, call, ACK_TIMEOUT)
            .await?;
        let cursor = self.record_cursor(reply)?;
        if cursor < peer.acknowledged {
            // It has acknowledged more: what is before that is no longer retained.
            return Err(SendSessionError::Disagreement);
        }
        if cursor >= replication.header.change_last {
            let to = (self.number, self.target.region);
            self.geo.status.record_sent(to, (0, 0), Duration::ZERO);
        }
        Ok(cursor)
    }

    /// Sends a batch. The returned future resolves to its response.
    fn send_batch(
        &self,
        node: NodeId,
        batch: SendBatch,
    ) -> Result<(usize, BoxFuture<'static, BatchAck>), SendSessionError> {
        let merge = &batch.merge;
        let (to, records, bytes) = (merge.to, merge.records.len(), merge.encoded_len());
        let to_region = (self.number, self.target.region);
        self.geo
            .status
            .record_sent(to_region, (records, bytes), batch.backlog_age);
        // With low priority it waits for permits, too, so the time is no measure of the way.
        let sent = (merge.from < merge.to && !batch.is_low_priority).then(Instant::now);
        let call = self.merge_call(batch);
        let pending = self
            .geo
            .peers
            .start_call(node, StreamKind::Geo, call, ACK_TIMEOUT)?;
        let response = async move {
            BatchAck {
                position: to,
                bytes,
                sent_at: sent,
                reply: pending.wait().await,
            }
        };
        Ok((bytes, response.boxed()))
    }

    /// Records an acknowledgement. Returns the bytes that are no longer in flight.
    fn handle_ack(&self, response: BatchAck) -> Result<usize, SendSessionError> {
        let cursor = self.record_cursor(response.reply?)?;
        if cursor < response.position {
            return Err(SendSessionError::CursorMismatch);
        }
        if let Some(sent) = response.sent_at {
            let (shard, region) = (self.number, self.target.region);
            self.geo
                .status
                .record_round_trip(shard, region, sent.elapsed());
        }
        Ok(response.bytes)
    }

    /// Records and returns the cursor of a response.
    fn record_cursor(&self, reply: reply::Body) -> Result<u64, SendSessionError> {
        match reply {
            reply::Body::Merge(reply) => {
                let last = self.shard.view().replication().borrow().header.change_last;
                if !reply.known || reply.cursor > last {
                    // Another leader of this region may have sent more meanwhile.
                    let is_stale = !self.shard.is_serving();
                    return Err(if is_stale {
                        SendSessionError::NotLeader
                    } else {
                        SendSessionError::Disagreement
                    });
                }
                self.geo
                    .status
                    .record_ack(self.number, &self.target, reply.cursor);
                Ok(reply.cursor)
            }
            reply::Body::Refused(refused) => Err(SendSessionError::Refused(refused.message)),
            _ => Err(SendSessionError::Refused("unexpected response".to_owned())),
        }
    }
}

/// Session with the leader of the shard in the other region.
struct SendSession<'a> {
    sender: &'a ChangeSender,
    node: NodeId,
    /// Position up to which changes were sent.
    position: u64,
    /// Batches in flight, and their bytes.
    in_flight: FuturesOrdered<BoxFuture<'static, BatchAck>>,
    in_flight_bytes: usize,
    announced: AnnouncedState,
    /// Set if the last batch didn't contain all changes.
    backlog: Option<Backlog>,
}

impl SendSession<'_> {
    async fn run(
        mut self,
        mut replication: watch::Receiver<Arc<ReplicationView>>,
    ) -> Result<Infallible, SendSessionError> {
        let mut tick = tokio::time::interval(WATERMARK_INTERVAL);
        tick.set_missed_tick_behavior(MissedTickBehavior::Delay);
        loop {
            if !self.sender.shard.is_serving() {
                return Err(SendSessionError::NotLeader);
            }
            let current = replication.borrow_and_update().clone();
            let last = current.header.change_last;
            let low_priority = self.is_low_priority(last);
            if self.position < last && self.has_capacity(low_priority) {
                let permit = if low_priority {
                    self.acquire_permit().await?
                } else {
                    None
                };
                self.send_next(&current, (low_priority, permit)).await?;
                continue;
            }
            tokio::select! {
                biased;
                Some(response) = self.in_flight.next(), if !self.in_flight.is_empty() => {
                    self.handle_ack(response)?;
                }
                changed = replication.changed() => changed.map_err(|_| SendSessionError::NotLeader)?,
                _ = tick.tick() => if self.in_flight.is_empty() && self.announced.is_due(&current) {
                    self.send_next(&current, (false, None)).await?;
                },
            }
        }
    }

    /// Returns whether the next batch yields to users' requests, of this region and of the other
    /// one.
    fn is_low_priority(&mut self, last: u64) -> bool {
        let (now, position) = (Instant::now(), self.position);
        let backlog = self.backlog.as_mut();
        let low_priority =
            backlog.is_some_and(|backlog| backlog.is_low_priority(now, position, last));
        low_priority && self.sender.geo.retention_budget.stage() < BudgetStage::Full
    }

    fn has_capacity(&self, low_priority: bool) -> bool {
        let (batches, bytes) = if low_priority {
            let shards = self.sender.geo.shards.len().max(1);
            (
                (MAX_LOW_PRIORITY_IN_FLIGHT.0 / shards).clamp(1, 4),
                MAX_LOW_PRIORITY_IN_FLIGHT.1,
            )
        } else {
            MAX_IN_FLIGHT
        };
        self.in_flight.len() < batches && self.in_flight_bytes < bytes
    }

    /// Waits for a background permit, for a limited time, and handles responses meanwhile.
    async fn acquire_permit(&mut self) -> Result<Option<BackgroundPermit>, SendSessionError> {
        let scheduler = self.sender.geo.background.clone();
        let mut permit = std::pin::pin!(scheduler.acquire());
        let mut timeout = std::pin::pin!(tokio::time::sleep(PERMIT_TIMEOUT));
        loop {
            tokio::select! {
                permit = &mut permit => return Ok(Some(permit)),
                () = &mut timeout => return Ok(None),
                Some(response) = self.in_flight.next(), if !self.in_flight.is_empty() => {
                    self.handle_ack(response)?;
                }
            }
        }
    }

    /// Sends the changes that follow the last batch.
    async fn send_next(
        &mut self,
        replication: &ReplicationView,
        (low_priority, permit): (bool, Option<BackgroundPermit>),
    ) -> Result<(), SendSessionError> {
        let read = self.sender.read_batch(self.position);
        let ChangeBatch {
            merge,
            has_more: more,
        } = match permit {
            Some(permit) => permit.run(read).await?,
            None => read.await?,
        };
        self.position = merge.to;
        let backlog_age = if more {
            self.sender.backlog_age(&merge)
        } else {
            Duration::ZERO
        };
        let last = replication.header.change_last;
        self.backlog = (backlog_age >= LAG_THRESHOLD).then(|| {
            let create = || Backlog::new(Instant::now(), merge.to, last);
            self.backlog.take().unwrap_or_else(create)
        });
        let merge = pb::Merge {
            stable: replication.acknowledged_by_all(),
            ..merge
        };
        self.announced = AnnouncedState {
            at: Some(Instant::now()),
            watermark: merge.watermark,
            stable: merge.stable,
        };
        let batch = SendBatch {
            merge,
            is_low_priority: low_priority,
            backlog_age,
        };
        let (bytes, response) = self.sender.send_batch(self.node, batch)?;
        self.in_flight_bytes += bytes;
        self.in_flight.push_back(response);
        Ok(())
    }

    fn handle_ack(&mut self, response: BatchAck) -> Result<(), SendSessionError> {
        self.in_flight_bytes -= self.sender.handle_ack(response)?;
        Ok(())
    }
}

/// State that was last sent to the other region.
#[derive(Default)]
struct AnnouncedState {
    at: Option<Instant>,
    watermark: u64,
    stable: u64,
}

impl AnnouncedState {
    fn is_due(&self, replication: &ReplicationView) -> bool {
        let has_news = self.watermark < replication.header.last_version
            || self.stable < replication.acknowledged_by_all();
        has_news || self.at.is_none_or(|at| at.elapsed() > HEARTBEAT_INTERVAL)
    }
}
