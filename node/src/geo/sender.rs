//! Sends a shard's changes to one other region.
//!
//! A session begins by asking the other side for its cursor, and goes on from there with several
//! parts under way. Whatever goes wrong ends the session; the next one asks again. Nothing depends on
//! what a session knew: a part that comes twice, or late, changes nothing at the receiver.

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

/// Parts under way, and their bytes.
const WINDOW: (usize, usize) = (256, 8 << 20);
/// The same while what is sent yields, over all shards and for each of them: all of that waits for
/// turns of the other side.
const YIELDING: (usize, usize) = (16, 1 << 20);
/// Time that what yields waits for its turn, here; the other side has to be heard of.
const PATIENCE: Duration = Duration::from_secs(2);
/// Time for a part to be acknowledged.
const ANSWER: Duration = Duration::from_secs(10);
/// How often a watermark is told if it has changed while nothing is sent.
const TELL: Duration = Duration::from_millis(250);
/// How often the other side hears something in any case.
const HEARTBEAT: Duration = Duration::from_secs(1);
/// Pauses between sessions.
const PAUSE: (Duration, Duration) = (Duration::from_millis(20), Duration::from_secs(1));
/// And when the other side says something that can't be.
const ALARM_PAUSE: Duration = Duration::from_secs(10);

/// Why a session ended.
#[derive(Debug, thiserror::Error)]
enum End {
    #[error("nobody leads the shard there")]
    NoLeader,
    #[error("this node does not lead the shard")]
    NotLeader,
    #[error(transparent)]
    Call(#[from] CallError),
    #[error("it refuses: {0}")]
    Refused(String),
    #[error("it goes on from another place than was thought")]
    Moved,
    #[error("it does not know this history, or it is ahead of it")]
    Alarm,
    #[error(transparent)]
    Storage(#[from] StoreError),
    #[error("reading the changes has panicked")]
    Panicked,
}

/// Sends a shard's changes to one region.
pub(super) struct Sender {
    pub geo: Arc<Geo>,
    pub number: u16,
    pub shard: Arc<ShardHandle>,
    pub to: pb::Peer,
}

/// A part as it is sent.
struct Part {
    merge: pb::Merge,
    /// Users' requests go first.
    yields: bool,
    /// How long ago its oldest change was made, if there is more after it.
    late: Duration,
}

/// What came back for a part.
struct Answered {
    to: u64,
    bytes: usize,
    /// When it was sent, if it held changes.
    sent: Option<Instant>,
    reply: Result<reply::Body, CallError>,
}

impl Sender {
    /// Sends until it is dropped.
    pub async fn run(self) {
        let mut pause = PAUSE.0;
        loop {
            let began = Instant::now();
            let end = self.session().await;
            let (shard, region) = (self.number, self.to.region);
            tracing::debug!(shard, region, %end, "sending to a region ended");
            if began.elapsed() > PAUSE.1 {
                pause = PAUSE.0;
            }
            match end {
                End::Alarm => {
                    self.geo.ledger.alarm(shard, region);
                    let topology = self.geo.catalog.topology();
                    tracing::error!(
                        shard,
                        region = topology.region_name(region),
                        "a region and this one disagree on what was sent: was one of them restored or reset?"
                    );
                    tokio::time::sleep(ALARM_PAUSE).await;
                }
                _ => {
                    tokio::time::sleep(pause).await;
                    pause = (2 * pause).min(PAUSE.1);
                }
            }
        }
    }

    async fn session(&self) -> End {
        match self.send().await {
            Ok(never) => match never {},
            Err(end) => end,
        }
    }

    async fn send(&self) -> Result<Infallible, End> {
        let leader = self.geo.leader_in(self.number, self.to.region);
        let node = leader.ok_or(End::NoLeader)?;
        let peering = self.shard.view().peering();
        let first = peering.borrow().clone();
        let position = self.ask(node, &first).await?;
        let session = Session {
            sender: self,
            node,
            position,
            flying: FuturesOrdered::new(),
            flying_bytes: 0,
            told: Told::default(),
            backlog: None,
        };
        session.run(peering).await
    }

    async fn read(&self, position: u64) -> Result<Outgoing, End> {
        let (view, peer) = (self.shard.view().clone(), self.to.region);
        let read = tokio::task::spawn_blocking(move || view.changes_after(peer, position));
        Ok(read.await.map_err(|_| End::Panicked)??)
    }

    fn call(&self, part: Part) -> call::Body {
        let lag = self.geo.ledger.lag(self.number, self.to.region);
        call::Body::Merge(pb::MergeCall {
            shard: u32::from(self.number),
            merge: Some(part.merge),
            lag_us: lag.map_or(0, |lag| u64::try_from(lag.as_micros()).unwrap_or(0)),
            yields: part.yields,
        })
    }

    /// How long ago the oldest change of a part was made.
    fn late(&self, merge: &pb::Merge) -> Duration {
        let oldest = merge.records.first();
        let version = oldest.and_then(|oldest| oldest.record.as_ref()?.version);
        let late = version.map(|version| self.geo.clock.now().saturating_sub(version.time));
        late.map_or(Duration::ZERO, Duration::from_nanos)
    }

    /// Asks the other side for its cursor, with a heartbeat that tells nothing new.
    async fn ask(&self, node: NodeId, peering: &Peering) -> Result<u64, End> {
        let peer = peering.peer(self.to.region).ok_or(End::NotLeader)?;
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
            // It had more once: what is before that is not held any more.
            return Err(End::Alarm);
        }
        if cursor >= peering.header.change_last {
            let to = (self.number, self.to.region);
            self.geo.ledger.sent(to, (0, 0), Duration::ZERO);
        }
        Ok(cursor)
    }

    /// Sends a part; what comes back for it is waited for by whoever has the future.
    fn start(
        &self,
        node: NodeId,
        part: Part,
    ) -> Result<(usize, BoxFuture<'static, Answered>), End> {
        let merge = &part.merge;
        let (to, records, bytes) = (merge.to, merge.records.len(), merge.encoded_len());
        let to_region = (self.number, self.to.region);
        self.geo.ledger.sent(to_region, (records, bytes), part.late);
        // What yields waits for turns, too: that isn't the way there.
        let sent = (merge.from < merge.to && !part.yields).then(Instant::now);
        let call = self.call(part);
        let pending = self.geo.peers.start(node, Lane::Geo, call, ANSWER)?;
        let answered = async move {
            Answered {
                to,
                bytes,
                sent,
                reply: pending.wait().await,
            }
        };
        Ok((bytes, answered.boxed()))
    }

    /// Notes what the other side has by now; returns the bytes that are no longer under way.
    fn take(&self, answered: Answered) -> Result<usize, End> {
        let cursor = self.cursor(answered.reply?)?;
        if cursor < answered.to {
            return Err(End::Moved);
        }
        if let Some(sent) = answered.sent {
            let (shard, region) = (self.number, self.to.region);
            self.geo.ledger.measured(shard, region, sent.elapsed());
        }
        Ok(answered.bytes)
    }

    /// The cursor in a reply, which is noted.
    fn cursor(&self, reply: reply::Body) -> Result<u64, End> {
        match reply {
            reply::Body::Merge(reply) => {
                let last = self.shard.view().peering().borrow().header.change_last;
                if !reply.known || reply.cursor > last {
                    // Another leader of this region may have sent more meanwhile.
                    let stale = !self.shard.serves();
                    return Err(if stale { End::NotLeader } else { End::Alarm });
                }
                self.geo.ledger.confirm(self.number, &self.to, reply.cursor);
                Ok(reply.cursor)
            }
            reply::Body::Refused(refused) => Err(End::Refused(refused.message)),
            _ => Err(End::Refused("an answer to something else".to_owned())),
        }
    }
}

/// One session with the leader of the shard there.
struct Session<'a> {
    sender: &'a Sender,
    node: NodeId,
    /// Sent up to here.
    position: u64,
    /// Parts under way, and their bytes.
    flying: FuturesOrdered<BoxFuture<'static, Answered>>,
    flying_bytes: usize,
    told: Told,
    /// There is one if the last part that was read didn't hold all.
    backlog: Option<Backlog>,
}

impl Session<'_> {
    async fn run(mut self, mut peering: watch::Receiver<Arc<Peering>>) -> Result<Infallible, End> {
        let mut tick = tokio::time::interval(TELL);
        tick.set_missed_tick_behavior(MissedTickBehavior::Delay);
        loop {
            if !self.sender.shard.serves() {
                return Err(End::NotLeader);
            }
            let now = peering.borrow_and_update().clone();
            let last = now.header.change_last;
            let yields = self.yields(last);
            if self.position < last && self.has_room(yields) {
                let turn = if yields { self.turn().await? } else { None };
                self.send(&now, (yields, turn)).await?;
                continue;
            }
            tokio::select! {
                biased;
                Some(answered) = self.flying.next(), if !self.flying.is_empty() => {
                    self.take(answered)?;
                }
                changed = peering.changed() => changed.map_err(|_| End::NotLeader)?,
                _ = tick.tick() => if self.flying.is_empty() && self.told.is_due(&now) {
                    self.send(&now, (false, None)).await?;
                },
            }
        }
    }

    /// Whether what is sent next yields to users' requests: this region's, and the other one's.
    fn yields(&mut self, last: u64) -> bool {
        let (now, position) = (Instant::now(), self.position);
        let backlog = self.backlog.as_mut();
        let yields = backlog.is_some_and(|backlog| backlog.yields(now, position, last));
        yields && self.sender.geo.budget.stage() < Stage::Full
    }

    fn has_room(&self, yields: bool) -> bool {
        let (parts, bytes) = if yields {
            let shards = self.sender.geo.shards.len().max(1);
            ((YIELDING.0 / shards).clamp(1, 4), YIELDING.1)
        } else {
            WINDOW
        };
        self.flying.len() < parts && self.flying_bytes < bytes
    }

    /// Waits for a turn of this node's, but not for long, and takes what is answered meanwhile.
    async fn turn(&mut self) -> Result<Option<Turn>, End> {
        let pace = self.sender.geo.pace.clone();
        let mut turn = std::pin::pin!(pace.turn());
        let mut patience = std::pin::pin!(tokio::time::sleep(PATIENCE));
        loop {
            tokio::select! {
                turn = &mut turn => return Ok(Some(turn)),
                () = &mut patience => return Ok(None),
                Some(answered) = self.flying.next(), if !self.flying.is_empty() => {
                    self.take(answered)?;
                }
            }
        }
    }

    /// Sends what comes after what was sent.
    async fn send(
        &mut self,
        peering: &Peering,
        (yields, turn): (bool, Option<Turn>),
    ) -> Result<(), End> {
        let read = self.sender.read(self.position);
        let Outgoing { merge, more } = match turn {
            Some(turn) => turn.during(read).await?,
            None => read.await?,
        };
        self.position = merge.to;
        let late = if more {
            self.sender.late(&merge)
        } else {
            Duration::ZERO
        };
        let last = peering.header.change_last;
        self.backlog = (late >= BEHIND).then(|| {
            let found = || Backlog::new(Instant::now(), merge.to, last);
            self.backlog.take().unwrap_or_else(found)
        });
        let merge = pb::Merge {
            stable: peering.stable(),
            ..merge
        };
        self.told = Told {
            at: Some(Instant::now()),
            watermark: merge.watermark,
            stable: merge.stable,
        };
        let part = Part {
            merge,
            yields,
            late,
        };
        let (bytes, answered) = self.sender.start(self.node, part)?;
        self.flying_bytes += bytes;
        self.flying.push_back(answered);
        Ok(())
    }

    fn take(&mut self, answered: Answered) -> Result<(), End> {
        self.flying_bytes -= self.sender.take(answered)?;
        Ok(())
    }
}

/// What the other side was told last.
#[derive(Default)]
struct Told {
    at: Option<Instant>,
    watermark: u64,
    stable: u64,
}

impl Told {
    fn is_due(&self, peering: &Peering) -> bool {
        let news = self.watermark < peering.header.last_version || self.stable < peering.stable();
        news || self.at.is_none_or(|at| at.elapsed() > HEARTBEAT)
    }
}
