//! A plan's number of keys: never refused below it, never exceeded.
//!
//! A write of a key that may be new needs room, which the leader of the key's shard holds in
//! blocks (see `budget::KeyBudget`). When a block is used up, a key that is there is written without
//! room, and the state itself refuses that if the key is gone by then. For others the leader of the
//! bucket's home shard is asked for another block: it asks all nodes for the room that they hold,
//! counts the keys, and grants a part of what is left. Before anybody is refused, room that isn't
//! used is called back.
//!
//! What keeps two grants from being made of the same room:
//! - one grant of a bucket is made at a time, at the node that leads its home shard;
//! - a grant that was sent and is not yet seen by the node that gets it is counted (`Grants`);
//! - a grant that arrives later than [`LAPSES`] after it was made is dropped by who gets it: by then,
//!   another node may lead the home shard, which knows nothing of it. No lease is that short; and
//!   leadership that was handed over begins with a pause of that length.
//!   How long it took to find out what may be granted doesn't count: a node that hangs delays that.

use std::sync::Arc;
use std::time::{Duration, Instant};

use bytes::Bytes;
use cloudkv_proto::v1 as pb;
use cloudkv_proto::v1::{call, reply};
use futures_util::future::{join_all, try_join_all};

use super::errors::{KeyError, Unavailable};
use super::operation::{Missed, Operation};
use super::shards::Shards;
use crate::budget::{Demand, Grant, Reservation, Room as Held};
use crate::meta::Bucket;
use crate::raft::NodeId;
use crate::rpc::Lane;
use crate::shard::ShardHandle;
use crate::types::ReadResult;

/// A grant that is older than this when it arrives is not used. Less than the part of the followers'
/// promise that a lease leaves out.
const LAPSES: Duration = Duration::from_millis(100);
/// Time for a node to say what room it holds.
const ASK: Duration = Duration::from_millis(500);

/// Room for a write: reserved for a new key, or none, and only a key that is there may be written.
pub type Room = Option<Reservation>;

/// Finds room for `key` when the block at hand is used up.
pub async fn find(
    shards: &Shards,
    shard: &ShardHandle,
    bucket: &Arc<Bucket>,
    key: &[u8],
    timeout: Duration,
) -> Result<Room, Missed> {
    let exists = async || -> Result<bool, Missed> {
        let found = shard.get(bucket.id.as_bytes(), key).await?;
        Ok(matches!(found, ReadResult::Found(_)))
    };
    let find = async {
        // A key that is there needs no room, and need not wait for other nodes: after a failover,
        // say, when the new leader has no block yet.
        if exists().await? {
            return Ok(None);
        }
        loop {
            match refill(shards, bucket).await? {
                Demand::Granted => {}
                Demand::Wait | Demand::Full if exists().await? => return Ok(None),
                Demand::Wait => wait_for_a_write(bucket).await,
                Demand::Full => {
                    let limit = bucket.limits.keys;
                    return Err(KeyError::TooManyKeys { limit }.into());
                }
            }
            if let Some(reservation) = bucket.usage.budget.take() {
                return Ok(Some(reservation));
            }
        }
    };
    let queue = "writes near the bucket's limit";
    let overloaded = KeyError::from(Unavailable::Overloaded { queue });
    let found = tokio::time::timeout(timeout, find).await;
    found.unwrap_or(Err(overloaded.into()))
}

/// Waits until a write gives its room back. One may have ended just before: so not for long.
async fn wait_for_a_write(bucket: &Bucket) {
    let given_back = bucket.usage.budget.given_back();
    let _ = tokio::time::timeout(Duration::from_millis(5), given_back).await;
}

/// Asks for another block, one at a time for each bucket on this node.
async fn refill(shards: &Shards, bucket: &Arc<Bucket>) -> Result<Demand, KeyError> {
    let budget = &bucket.usage.budget;
    let _alone = budget.refilling.lock().await;
    if budget.has_room() {
        return Ok(Demand::Granted);
    }
    let limit = budget.limit();
    let asked = Instant::now();
    let ask = AskForRoom {
        shards,
        bucket,
        from: shards.peers().me(),
    };
    let answer = shards.run(shards.home(&bucket.id), &ask).await?;
    match answer {
        // It was made no earlier than `took` after it was asked for.
        Granting::Room(grant, took) if asked.elapsed().saturating_sub(took) < LAPSES => {
            budget.receive(grant, limit);
            Ok(Demand::Granted)
        }
        // It may be granted to somebody else already.
        Granting::Room(..) => Ok(Demand::Wait),
        Granting::Wait => Ok(Demand::Wait),
        Granting::Full => Ok(Demand::Full),
    }
}

/// What the leader of the home shard answers.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Granting {
    /// Room, and how long it took at least until it was granted.
    Room(Grant, Duration),
    Wait,
    Full,
}

/// A node's request for room, answered by the leader of the bucket's home shard.
pub(super) struct AskForRoom<'a> {
    pub shards: &'a Shards,
    pub bucket: &'a Arc<Bucket>,
    pub from: NodeId,
}

impl Operation for AskForRoom<'_> {
    type Output = Granting;
    // Room that was granted and never arrives is free again with the next request.
    const REPEATABLE: bool = true;

    async fn here(&self, home: &ShardHandle) -> Result<Granting, Missed> {
        let asked = Instant::now();
        if home.group().led_for() < LAPSES {
            // What the leader before has granted may still be on its way.
            return Ok(Granting::Wait);
        }
        let budget = &self.bucket.usage.budget;
        let _alone = budget.granting.lock().await;
        budget.forget_grant_to(self.from);
        let mut granting = self.grant(false, false).await?;
        if !matches!(granting, Granting::Room(..)) {
            granting = self.grant(true, false).await?;
        }
        if granting == Granting::Full {
            // What has expired since the last look is still counted.
            granting = self.grant(true, true).await?;
        }
        if let Granting::Room(_, took) = &mut granting {
            // Before the lease is looked at, which is what a grant's age counts from.
            *took = asked.elapsed();
        }
        // Another node may have taken over meanwhile, and have granted the same.
        if !home.serves() {
            return Err(Missed::NotLeader);
        }
        if let Granting::Room(grant, _) = granting {
            budget.sent_grant(self.from, grant);
        }
        Ok(granting)
    }

    fn call(&self, _shard: u16) -> call::Body {
        call::Body::Room(pb::RoomRequest {
            bucket: Bytes::copy_from_slice(self.bucket.id.as_bytes()),
        })
    }

    fn encode(granting: Granting) -> reply::Body {
        let (granted, id, took) = match granting {
            Granting::Room(grant, took) => (grant.keys, grant.id, took),
            Granting::Wait | Granting::Full => (0, 0, Duration::ZERO),
        };
        reply::Body::Room(pb::RoomReply {
            granted,
            wait: granting == Granting::Wait,
            id,
            took_us: u64::try_from(took.as_micros()).unwrap_or(0),
        })
    }

    fn decode(reply: reply::Body) -> Option<Granting> {
        let reply::Body::Room(room) = reply else {
            return None;
        };
        Some(match room.granted {
            0 if room.wait => Granting::Wait,
            0 => Granting::Full,
            keys => {
                let took = Duration::from_micros(room.took_us);
                Granting::Room(Grant { id: room.id, keys }, took)
            }
        })
    }
}

impl AskForRoom<'_> {
    /// Grants a part of what is left: first what all nodes hold is asked, then the keys counted,
    /// so that a write which ends between is counted twice rather than not at all.
    async fn grant(&self, recall: bool, exact: bool) -> Result<Granting, KeyError> {
        let (shards, bucket) = (self.shards, self.bucket);
        let held = held_by_all(shards, bucket, recall).await;
        let counted = count(shards, bucket, exact).await?;
        // A node that leads a shard and didn't say what it holds could hold anything.
        if counted
            .leaders
            .iter()
            .any(|node| !held.nodes.contains(node))
        {
            return Ok(Granting::Wait);
        }
        let budget = &bucket.usage.budget;
        let used = counted.keys + held.room.left + held.room.taken;
        let parts = 8 * shards.len() as u64;
        Ok(match budget.limit().saturating_sub(used) {
            0 if held.room.taken > 0 || (held.room.left > 0 && !recall) => Granting::Wait,
            0 => Granting::Full,
            free => {
                let block = (budget.limit() / parts).clamp(1, free);
                Granting::Room(budget.next_grant(block), Duration::ZERO)
            }
        })
    }
}

/// The room that nodes hold, and which of them said so.
struct HeldByAll {
    nodes: Vec<NodeId>,
    room: Held,
}

async fn held_by_all(shards: &Shards, bucket: &Arc<Bucket>, recall: bool) -> HeldByAll {
    let peers = shards.peers();
    let budget = &bucket.usage.budget;
    let asked = peers.near().into_iter().map(|node| async move {
        let body = call::Body::RoomQuery(pb::RoomQuery {
            bucket: Bytes::copy_from_slice(bucket.id.as_bytes()),
            recall,
        });
        match peers.call(node, Lane::Keys, body, ASK).await {
            Ok(reply::Body::RoomState(state)) => Some((node, state)),
            _ => None,
        }
    });
    let answers: Vec<_> = join_all(asked).await.into_iter().flatten().collect();
    let mut held = HeldByAll {
        nodes: vec![peers.me()],
        room: budget.held(recall),
    };
    budget.seen_grant(peers.me(), held.room.last_grant);
    for (node, state) in answers {
        held.nodes.push(node);
        held.room.left += state.left;
        held.room.taken += state.taken;
        budget.seen_grant(node, state.last_grant);
    }
    held.room.left += budget.unseen_grants();
    held
}

struct Counted {
    keys: u64,
    leaders: Vec<NodeId>,
}

/// The bucket's keys, and who counted them.
async fn count(shards: &Shards, bucket: &Bucket, exact: bool) -> Result<Counted, KeyError> {
    let leaders_of = |shard: u16| {
        let me = shards.peers().me();
        let local = shards.local(shard);
        let leads = local.is_some_and(|shard| shard.serves());
        if leads {
            Some(me)
        } else {
            local.and_then(|shard| shard.leader_elsewhere())
        }
    };
    let counts = super::reads::Counts {
        bucket: bucket.id.as_bytes(),
        exact,
    };
    let states = try_join_all(shards.numbers().map(|shard| shards.run(shard, &counts))).await?;
    Ok(Counted {
        keys: states.iter().map(|state| state.keys).sum(),
        leaders: shards.numbers().filter_map(leaders_of).collect(),
    })
}
