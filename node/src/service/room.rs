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
//! - a grant that arrives later than [`GRANT_TIMEOUT`] after it was made is dropped by who gets it:
//!   by then, another node may lead the home shard, which knows nothing of it. No lease is that
//!   short; and leadership that was handed over begins with a pause of that length. How long it
//!   took to find out what may be granted doesn't count: a node that hangs delays that;
//! - a grant that was sent is counted until the node that gets it has told of it, or was asked so
//!   much later that it would have. So a grant to a node that has died counts for a moment only;
//! - room can be used only in terms that its node led when it asked for it, and the leaders of all
//!   shards are asked what they hold. So a node that can't be asked, and leads no shard of those
//!   that were counted, holds nothing that will ever be used: not when it can be reached and leads
//!   again. Each write is proposed for the term in which its room was judged (`shard/proposer`).
//!
//! Nobody is refused but when the keys that were counted are as many as there may be. As long as
//! room is held, or may be, writes of new keys wait, and fail with 503 at their deadline.

use std::collections::BTreeSet;
use std::sync::Arc;
use std::time::{Duration, Instant};

use bytes::Bytes;
use cloudkv_proto::v1 as pb;
use cloudkv_proto::v1::{call, reply};
use futures_util::future::{join_all, try_join_all};

use super::errors::{KeyError, Unavailable};
use super::operation::{Missed, Operation};
use super::shards::Shards;
use crate::budget::{Demand, GRANT_TIMEOUT, Grant, GrantRequest, Grantable, Reservation, Survey};
use crate::meta::Bucket;
use crate::raft::NodeId;
use crate::rpc::{Lane, Peers};
use crate::shard::ShardHandle;
use crate::types::ReadResult;

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
            if !shard.serves() {
                return Err(Missed::NotLeader);
            }
            match refill(shards, shard, bucket).await? {
                Demand::Granted => {}
                Demand::Wait | Demand::Full if exists().await? => return Ok(None),
                Demand::Wait => wait_for_a_write(bucket).await,
                Demand::Full => {
                    let limit = bucket.limits.keys;
                    return Err(KeyError::TooManyKeys { limit }.into());
                }
            }
            if let Some(reservation) = bucket.usage.budget.take(shard.led_since()) {
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

/// Asks for another block, one at a time for each bucket on this node, to be used for `shard`.
async fn refill(
    shards: &Shards,
    shard: &ShardHandle,
    bucket: &Arc<Bucket>,
) -> Result<Demand, KeyError> {
    let budget = &bucket.usage.budget;
    let _alone = budget.refilling.lock().await;
    if budget.has_room(shard.led_since()) {
        return Ok(Demand::Granted);
    }
    let request = GrantRequest {
        asked: Instant::now(),
        limit: budget.limit(),
    };
    let ask = AskForRoom {
        shards,
        bucket,
        from: shards.peers().me(),
    };
    let answer = shards.run(shards.home(&bucket.id), &ask).await?;
    match answer {
        // It was made no earlier than `took` after it was asked for.
        Granting::Room(grant, took) if budget.receive(grant, request, took) => Ok(Demand::Granted),
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
        if home.group().led_for() < GRANT_TIMEOUT {
            // What the leader before has granted may still be on its way.
            return Ok(Granting::Wait);
        }
        let budget = &self.bucket.usage.budget;
        let _alone = budget.granting.lock().await;
        budget.forget_grant_to(self.from);
        let mut silent = BTreeSet::new();
        let mut granting = self.grant(&mut silent, false, false).await?;
        if !matches!(granting, Granting::Room(..)) {
            granting = self.grant(&mut silent, true, false).await?;
        }
        if granting == Granting::Full {
            // What has expired since the last look is still counted.
            granting = self.grant(&mut silent, true, true).await?;
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
            budget.sent_grant(self.from, grant, Instant::now());
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
    /// Grants a part of what is left. Nodes in `silent`, which didn't answer before, aren't asked
    /// again: one that hangs would hold up whoever waits for too long.
    async fn grant(
        &self,
        silent: &mut BTreeSet<NodeId>,
        recall: bool,
        exact: bool,
    ) -> Result<Granting, KeyError> {
        let (shards, bucket) = (self.shards, self.bucket);
        let mut nodes = shards.peers().near();
        nodes.retain(|node| !silent.contains(node));
        let mut survey = Survey::default();
        ask_all(&mut survey, shards.peers(), &nodes, bucket, recall).await;
        silent.extend(nodes.iter().filter(|node| !survey.told.contains(node)));
        count(&mut survey, shards, bucket, exact).await?;
        let budget = &bucket.usage.budget;
        let parts = 8 * shards.len() as u64;
        Ok(match survey.grantable(budget.limit(), parts) {
            Grantable::Block(keys) => Granting::Room(budget.next_grant(keys), Duration::ZERO),
            Grantable::Later => Granting::Wait,
            Grantable::Full => Granting::Full,
        })
    }
}

/// Asks this node and others what room they hold.
async fn ask_all(
    survey: &mut Survey,
    peers: &Peers,
    nodes: &[NodeId],
    bucket: &Arc<Bucket>,
    recall: bool,
) {
    let budget = &bucket.usage.budget;
    let begun = Instant::now();
    let asked = nodes.iter().map(|node| async move {
        let body = call::Body::RoomQuery(pb::RoomQuery {
            bucket: Bytes::copy_from_slice(bucket.id.as_bytes()),
            recall,
        });
        match peers.call(*node, Lane::Keys, body, ASK).await {
            Ok(reply::Body::RoomState(state)) => Some((*node, state)),
            _ => None,
        }
    });
    for (node, state) in join_all(asked).await.into_iter().flatten() {
        survey.told.insert(node);
        survey.held += state.left + state.taken;
        budget.seen_grant(node, state.last_grant);
    }
    let here = budget.held(recall);
    survey.told.insert(peers.me());
    survey.held += here.left + here.taken;
    budget.seen_grant(peers.me(), here.last_grant);
    survey.held += budget.unseen_grants(begun);
}

/// Counts the bucket's keys, and notes which leaders did.
async fn count(
    survey: &mut Survey,
    shards: &Shards,
    bucket: &Bucket,
    exact: bool,
) -> Result<(), KeyError> {
    let counts = super::reads::Counts {
        bucket: bucket.id.as_bytes(),
        exact,
    };
    let asked = shards.numbers().map(|shard| shards.ask(shard, &counts));
    for (leader, state) in try_join_all(asked).await? {
        survey.leaders.insert(leader);
        survey.keys += state.keys;
    }
    Ok(())
}
