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

use super::backlog::{BEHIND, Backlog};
use super::{Geo, Stage};
use crate::pace::Turn;
use crate::raft::NodeId;
use crate::rpc::{CallError, Lane};
use crate::shard::{Outgoing, Peering, ShardHandle};
use crate::store::StoreError;

/// Maximum number of batches in flight, and of their bytes.
const WINDOW: (usize, usize) = (256, 8 << 20);
/// Same limits for low priority, over all shards and for each of them: such batches wait for
/// permits of the other region's background scheduler.
const YIELDING: (usize, usize) = (16, 1 << 20);
/// Time to wait for a background permit of this node: the other region has to hear from this one.
const PATIENCE: Duration = Duration::from_secs(2);
/// Time for a batch to be acknowledged.
const ANSWER: Duration = Duration::from_secs(10);
/// Interval at which a changed watermark is sent while there are no changes.
const TELL: Duration = Duration::from_millis(250);
/// Interval at which something is sent in any case.
const HEARTBEAT: Duration = Duration::from_secs(1);
/// Minimum and maximum backoff between sessions.
const PAUSE: (Duration, Duration) = (Duration::from_millis(20), Duration::from_secs(1));
/// Backoff after the two regions have disagreed on the sent changes.
const ALARM_PAUSE: Duration = Duration::from_secs(10);

/// Reason why a session ended.
#[derive(Debug, thiserror::Error)]
enum End {
    #[error("the region has no leader of the shard")]
    NoLeader,
    #[error("this node does not lead the shard")]
    NotLeader,
    #[error(transparent)]
    Call(#[from] CallError),
    #[error("the region refused: {0}")]
    Refused(String),
    #[error("cursor mismatch")]
    Moved,
    #[error("the region does not know this incarnation, or is ahead of it")]
    Alarm,
    #[error(transparent)]
    Storage(#[from] StoreError),
    #[error("read changes: the task panicked")]
    Panicked,
}

/// Sends a shard's changes to one region.
pub(super) struct Sender {
    pub geo: Arc<Geo>,
    pub number: u16,
    pub shard: Arc<ShardHandle>,
    pub to: pb::Peer,
}

/// Batch to be sent.
struct Part {
    merge: pb::Merge,
    /// Set if users' requests take precedence.
    yields: bool,
    /// Age of its oldest change, if more changes follow it; else 0.
    late: Duration,
}

/// Response to a batch.
struct Answered {
    to: u64,
    bytes: usize,
    /// Time of sending, if it held changes.
    sent: Option<Instant>,
    reply: Result<reply::Body, CallError>,
}

impl Sender {
    /// Sends changes until dropped.
    pub async fn run(self) {
        let mut backoff = PAUSE.0;
        loop {
            let started = Instant::now();
            let error = self.session().await;
            let (shard, region) = (self.number, self.to.region);
        tracing::debug!(shard, region, %error, "replication session ended, retrying");
            if started.elapsed() > PAUSE.1 {
                backoff = PAUSE.0;
            }
            match error {
                End::Alarm => {
                    self.geo.ledger.alarm(shard, region);
                    let topology = self.geo.catalog.topology();
                    tracing::error!(
                        shard,
                        region = topology.region_name(region),
                        "regions disagree on the sent changes: was one of them restored or reset?"
                    );
                    tokio::time::sleep(ALARM_PAUSE).await;
                }
                _ => {
                    tokio::time::sleep(backoff).await;
                    backoff = (2 * backoff).min(PAUSE.1);
                }
            }
        }
    }

    async fn session(&self) -> End {
        match self.send().await {
            Ok(infallible) => match infallible {},
            Err(error) => error,
        }
    }

    async fn send(&self) -> Result<Infallible, End> {
        let found = self.geo.leader_in(self.number, self.to.region);
        let node = found.ok_or(End::NoLeader)?;
        let replication = self.shard.view().peering();
        let current = replication.borrow().clone();
        let position = self.ask(node, &current).await?;
        let session = Session {
            sender: self,
            node,
            position,
            flying: FuturesOrdered::new(),
            flying_bytes: 0,
            told: Told::default(),
            backlog: None,
        };
        session.run(replication).await
    }

    async fn read(&self, position: u64) -> Result<Outgoing, End> {
        let (view, peer) = (self.shard.view().clone(), self.to.region);
        let task = tokio::task::spawn_blocking(move || view.changes_after(peer, position));
        Ok(task.await.map_err(|_| End::Panicked)??)
    }

    fn call(&self, batch: Part) -> call::Body {
        let lag = self.geo.ledger.lag(self.number, self.to.region);
        call::Body::Merge(pb::MergeCall {
            shard: u32::from(self.number),
            merge: Some(batch.merge),
            lag_us: lag.map_or(0, |lag| u64::try_from(lag.as_micros()).unwrap_or(0)),
            yields: batch.yields,
        })
    }

    /// Returns the age of a batch's oldest change.
    fn late(&self, merge: &pb::Merge) -> Duration {
        let oldest = merge.records.first();
        let version = oldest.and_then(|oldest| oldest.record.as_ref()?.version);
        let age = version.map(|version| self.geo.clock.now().saturating_sub(version.time));
        age.map_or(Duration::ZERO, Duration::from_nanos)
    }

    /// Queries the other region's cursor, with a heartbeat that brings nothing new.
    async fn ask(&self, node: NodeId, replication: &Peering) -> Result<u64, End> {
        let peer = replication.peer(self.to.region).ok_or(End::NotLeader)?;
        let merge = pb::Merge {
            origin: self.geo.me.region,
            incarnation: self.geo.me.incarnation,
            from: peer.acknowledged,
            to: peer.acknowledged,
            ..Default::default()
        };
        let call = self.call(Part {
            merge,
            yields: false,
            late: Duration::ZERO,
        });
        let reply = self.geo.peers.call(node, Lane::Geo, call, ANSWER).await?;
        let cursor = self.cursor(reply)?;
        if cursor < peer.acknowledged {
            // It has acknowledged more: what is before that is no longer retained.
            return Err(End::Alarm);
        }
        if cursor >= replication.header.change_last {
            let to = (self.number, self.to.region);
            self.geo.ledger.sent(to, (0, 0), Duration::ZERO);
        }
        Ok(cursor)
    }

    /// Sends a batch. The returned future resolves to its response.
    fn start(
        &self,
        node: NodeId,
        batch: Part,
    ) -> Result<(usize, BoxFuture<'static, Answered>), End> {
        let merge = &batch.merge;
        let (to, records, bytes) = (merge.to, merge.records.len(), merge.encoded_len());
        let to_region = (self.number, self.to.region);
        self.geo.ledger.sent(to_region, (records, bytes), batch.late);
        // With low priority it waits for permits, too, so the time is no measure of the way.
        let sent = (merge.from < merge.to && !batch.yields).then(Instant::now);
        let call = self.call(batch);
        let pending = self.geo.peers.start(node, Lane::Geo, call, ANSWER)?;
        let response = async move {
            Answered {
                to,
                bytes,
                sent,
                reply: pending.wait().await,
            }
        };
        Ok((bytes, response.boxed()))
    }

    /// Records an acknowledgement. Returns the bytes that are no longer in flight.
    fn take(&self, response: Answered) -> Result<usize, End> {
        let cursor = self.cursor(response.reply?)?;
        if cursor < response.to {
            return Err(End::Moved);
        }
        if let Some(sent) = response.sent {
            let (shard, region) = (self.number, self.to.region);
            self.geo.ledger.measured(shard, region, sent.elapsed());
        }
        Ok(response.bytes)
    }

    /// Records and returns the cursor of a response.
    fn cursor(&self, reply: reply::Body) -> Result<u64, End> {
        match reply {
            reply::Body::Merge(reply) => {
                let last = self.shard.view().peering().borrow().header.change_last;
                if !reply.known || reply.cursor > last {
                    // Another leader of this region may have sent more meanwhile.
                    let is_stale = !self.shard.serves();
                    return Err(if is_stale { End::NotLeader } else { End::Alarm });
                }
                self.geo.ledger.confirm(self.number, &self.to, reply.cursor);
                Ok(reply.cursor)
            }
            reply::Body::Refused(refused) => Err(End::Refused(refused.message)),
            _ => Err(End::Refused("unexpected response".to_owned())),
        }
    }
}

/// Session with the leader of the shard in the other region.
struct Session<'a> {
    sender: &'a Sender,
    node: NodeId,
    /// Version up to which changes were sent.
    position: u64,
    /// Batches in flight, and their bytes.
    flying: FuturesOrdered<BoxFuture<'static, Answered>>,
    flying_bytes: usize,
    told: Told,
    /// Set if the last batch didn't contain all changes.
    backlog: Option<Backlog>,
}

impl Session<'_> {
    async fn run(mut self, mut replication: watch::Receiver<Arc<Peering>>) -> Result<Infallible, End> {
        let mut tick = tokio::time::interval(TELL);
        tick.set_missed_tick_behavior(MissedTickBehavior::Delay);
        loop {
            if !self.sender.shard.serves() {
                return Err(End::NotLeader);
            }
            let current = replication.borrow_and_update().clone();
            let last = current.header.change_last;
            let low_priority = self.yields(last);
            if self.position < last && self.has_room(low_priority) {
                let permit = if low_priority { self.turn().await? } else { None };
                self.send(&current, (low_priority, permit)).await?;
                continue;
            }
            tokio::select! {
                biased;
                Some(response) = self.flying.next(), if !self.flying.is_empty() => {
                    self.take(response)?;
                }
                changed = replication.changed() => changed.map_err(|_| End::NotLeader)?,
                _ = tick.tick() => if self.flying.is_empty() && self.told.is_due(&current) {
                    self.send(&current, (false, None)).await?;
                },
            }
        }
    }

    /// Returns whether the next batch yields to users' requests, of this region and of the other
    /// one.
    fn yields(&mut self, last: u64) -> bool {
        let (now, position) = (Instant::now(), self.position);
        let backlog = self.backlog.as_mut();
        let low_priority = backlog.is_some_and(|backlog| backlog.yields(now, position, last));
        low_priority && self.sender.geo.budget.stage() < Stage::Full
    }

    fn has_room(&self, low_priority: bool) -> bool {
        let (batches, bytes) = if low_priority {
            let shards = self.sender.geo.shards.len().max(1);
            ((YIELDING.0 / shards).clamp(1, 4), YIELDING.1)
        } else {
            WINDOW
        };
        self.flying.len() < batches && self.flying_bytes < bytes
    }

    /// Waits for a background permit, for a limited time, and handles responses meanwhile.
    async fn turn(&mut self) -> Result<Option<Turn>, End> {
        let scheduler = self.sender.geo.pace.clone();
        let mut permit = std::pin::pin!(scheduler.turn());
        let mut timeout = std::pin::pin!(tokio::time::sleep(PATIENCE));
        loop {
            tokio::select! {
                permit = &mut permit => return Ok(Some(permit)),
                () = &mut timeout => return Ok(None),
                Some(response) = self.flying.next(), if !self.flying.is_empty() => {
                    self.take(response)?;
                }
            }
        }
    }

    /// Sends the changes that follow the last batch.
    async fn send(
        &mut self,
        replication: &Peering,
        (low_priority, permit): (bool, Option<Turn>),
    ) -> Result<(), End> {
        let read = self.sender.read(self.position);
        let Outgoing { merge, more } = match permit {
            Some(permit) => permit.during(read).await?,
            None => read.await?,
        };
        self.position = merge.to;
        let backlog_age = if more {
            self.sender.late(&merge)
        } else {
            Duration::ZERO
        };
        let last = replication.header.change_last;
        self.backlog = (backlog_age >= BEHIND).then(|| {
            let create = || Backlog::new(Instant::now(), merge.to, last);
            self.backlog.take().unwrap_or_else(create)
        });
        let merge = pb::Merge {
            stable: replication.stable(),
            ..merge
        };
        self.told = Told {
            at: Some(Instant::now()),
            watermark: merge.watermark,
            stable: merge.stable,
        };
        let batch = Part {
            merge,
            yields: low_priority,
            late: backlog_age,
        };
        let (bytes, response) = self.sender.start(self.node, batch)?;
        self.flying_bytes += bytes;
        self.flying.push_back(response);
        Ok(())
    }

    fn take(&mut self, response: Answered) -> Result<(), End> {
        self.flying_bytes -= self.sender.take(response)?;
        Ok(())
    }
}

/// State that was last sent to the other region.
#[derive(Default)]
struct Told {
    at: Option<Instant>,
    watermark: u64,
    stable: u64,
}

impl Told {
    fn is_due(&self, replication: &Peering) -> bool {
        let has_news = self.watermark < replication.header.last_version || self.stable < replication.stable();
        has_news || self.at.is_none_or(|at| at.elapsed() > HEARTBEAT)
    }
}
