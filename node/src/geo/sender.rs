//! Sends a shard's changes to one other region.
//!
//! A session begins by asking the other side for its cursor, and goes on from there with several
//! parts under way. Whatever goes wrong ends the session; the next one asks again. Nothing depends on
//! what a session knew: a part that comes twice, or late, changes nothing at the receiver.

use std::sync::Arc;
use std::time::{Duration, Instant};

use cloudkv_proto::v1 as pb;
use cloudkv_proto::v1::{call, reply};
use futures_util::stream::{FuturesOrdered, StreamExt};
use prost::Message;

use super::Geo;
use crate::raft::NodeId;
use crate::rpc::{CallError, Lane};
use crate::shard::{Outgoing, Peering, ShardHandle};
use crate::store::StoreError;

/// Parts under way, and their bytes.
const WINDOW: (usize, usize) = (256, 8 << 20);
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
                    tracing::error!(
                        shard,
                        region,
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

    async fn send(&self) -> Result<std::convert::Infallible, End> {
        let leader = self.geo.leader_in(self.number, self.to.region);
        let node = leader.ok_or(End::NoLeader)?;
        let mut peering = self.shard.view().peering();
        let mut flying = FuturesOrdered::new();
        let mut flying_bytes = 0;
        let mut told = Told::default();
        let first = peering.borrow_and_update().clone();
        let mut position = self.ask(node, &first).await?;
        let mut tick = tokio::time::interval(TELL);
        tick.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
        loop {
            if !self.shard.serves() {
                return Err(End::NotLeader);
            }
            let now = peering.borrow_and_update().clone();
            let has_room = flying.len() < WINDOW.0 && flying_bytes < WINDOW.1;
            if has_room && position < now.header.change_last {
                let part = self.read(position).await?;
                position = part.merge.to;
                let answered = self.start(node, part, &now, &mut told)?;
                flying_bytes += answered.0;
                flying.push_back(answered.1);
                continue;
            }
            tokio::select! {
                biased;
                Some(answered) = flying.next(), if !flying.is_empty() => {
                    flying_bytes -= self.take(answered)?;
                }
                changed = peering.changed() => changed.map_err(|_| End::NotLeader)?,
                _ = tick.tick() => if flying.is_empty() && told.is_due(&now) {
                    let part = self.read(position).await?;
                    position = part.merge.to;
                    let answered = self.start(node, part, &now, &mut told)?;
                    flying_bytes += answered.0;
                    flying.push_back(answered.1);
                },
            }
        }
    }

    async fn read(&self, position: u64) -> Result<Outgoing, End> {
        let (view, peer) = (self.shard.view().clone(), self.to.region);
        let read = tokio::task::spawn_blocking(move || view.changes_after(peer, position));
        Ok(read.await.map_err(|_| End::Panicked)??)
    }

    fn call(&self, merge: pb::Merge) -> call::Body {
        let lag = self.geo.ledger.lag(self.number, self.to.region);
        call::Body::Merge(pb::MergeCall {
            shard: u32::from(self.number),
            merge: Some(merge),
            lag_us: lag.map_or(0, |lag| u64::try_from(lag.as_micros()).unwrap_or(0)),
        })
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
        let peers = &self.geo.peers;
        let reply = peers
            .call(node, Lane::Geo, self.call(merge), ANSWER)
            .await?;
        let cursor = self.cursor(reply)?;
        if cursor < peer.acknowledged {
            // It had more once: what is before that is not held any more.
            return Err(End::Alarm);
        }
        Ok(cursor)
    }

    fn start(
        &self,
        node: NodeId,
        part: Outgoing,
        peering: &Peering,
        told: &mut Told,
    ) -> Result<(usize, impl Future<Output = Answered> + use<>), End> {
        let merge = pb::Merge {
            stable: peering.stable(),
            ..part.merge
        };
        *told = Told {
            at: Some(Instant::now()),
            watermark: merge.watermark,
            stable: merge.stable,
        };
        let (to, records, bytes) = (merge.to, merge.records.len(), merge.encoded_len());
        self.geo
            .ledger
            .sent(self.number, self.to.region, records, bytes);
        let sent = (merge.from < merge.to).then(Instant::now);
        let pending = self
            .geo
            .peers
            .start(node, Lane::Geo, self.call(merge), ANSWER)?;
        let answered = async move {
            Answered {
                to,
                bytes,
                sent,
                reply: pending.wait().await,
            }
        };
        Ok((bytes, answered))
    }

    /// Notes what the other side has by now; returns the bytes that are under way no more.
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
