//! The shards of the region: which one a key belongs to, and the way to its leader.
//!
//! A request whose shard this node leads is answered here, without a detour. Others go to the
//! leader. While a shard has no leader, they wait, bounded in bytes and time: that is what makes a
//! planned restart lose none.
//!
//! Invariant (unknown fate): what isn't repeatable is sent again only if it provably was not done:
//! it never left this node, or the other one said so.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use cloudkv_proto::v1 as pb;
use cloudkv_proto::v1::reply;
use futures_util::future::try_join_all;
use tokio::sync::Semaphore;
use tokio::time::Instant;

use super::errors::{KeyError, Unavailable};
use super::operation::{Missed, Operation, Refusal, read_refusal};
use super::reads::Counts;
use crate::raft::NodeId;
use crate::rpc::{CallError, Lane, Peers};
use crate::shard::{ShardHandle, shard_of};
use crate::types::BucketId;

/// Time that a node has to answer what can be asked again.
const ASK_AGAIN: Duration = Duration::from_millis(1000);
/// Pauses before a leader is looked for again.
const PAUSE: (Duration, Duration) = (Duration::from_millis(1), Duration::from_millis(40));
/// What waits is counted in units of this many bytes.
const HELD_UNIT: usize = 1 << 10;

/// All shards, by number. Cheap to clone.
#[derive(Clone)]
pub struct Shards {
    routes: Arc<[Route]>,
    peers: Arc<Peers>,
    held: Arc<Semaphore>,
    timeout: Duration,
}

/// A shard, and who led it when it was last asked.
struct Route {
    shard: Arc<ShardHandle>,
    hint: AtomicU64,
}

impl Route {
    /// Who leads, as far as this node knows.
    fn leader(&self, me: NodeId, known: &[NodeId]) -> Option<NodeId> {
        let hint = self.hint.load(Ordering::Relaxed);
        let leader = self.shard.leader_elsewhere();
        let leader = leader.or((hint != 0 && hint != me).then_some(hint));
        if leader.is_some() || self.shard.is_hosted() {
            return leader;
        }
        // Any node that holds a replica knows more.
        known.first().copied()
    }
}

impl Shards {
    /// Shards 0, 1, 2 ... Requests wait for a leader, up to `held_bytes` of them and for `timeout`.
    pub fn new(
        handles: Vec<Arc<ShardHandle>>,
        peers: Arc<Peers>,
        held_bytes: usize,
        timeout: Duration,
    ) -> Self {
        let routes = handles.into_iter().map(|shard| Route {
            shard,
            hint: AtomicU64::new(0),
        });
        Self {
            routes: routes.collect(),
            peers,
            held: Arc::new(Semaphore::new(held_bytes / HELD_UNIT)),
            timeout,
        }
    }

    /// Those of this node.
    pub fn iter(&self) -> impl Iterator<Item = &Arc<ShardHandle>> {
        self.routes.iter().map(|route| &route.shard)
    }

    /// Their numbers.
    pub fn numbers(&self) -> std::ops::Range<u16> {
        0..u16::try_from(self.routes.len()).unwrap_or(u16::MAX)
    }

    /// How many there are.
    pub fn len(&self) -> usize {
        self.routes.len()
    }

    /// Whether there is none.
    pub fn is_empty(&self) -> bool {
        self.routes.is_empty()
    }

    /// The other nodes.
    pub fn peers(&self) -> &Arc<Peers> {
        &self.peers
    }

    /// The shard of a key.
    pub fn of(&self, bucket: &BucketId, key: &[u8]) -> u16 {
        shard_of(bucket.as_bytes(), key, self.numbers().end)
    }

    /// The shard that keeps a bucket's own counters.
    pub fn home(&self, bucket: &BucketId) -> u16 {
        self.of(bucket, b"")
    }

    /// A shard on this node.
    pub fn local(&self, shard: u16) -> Option<&Arc<ShardHandle>> {
        self.routes
            .get(usize::from(shard))
            .map(|route| &route.shard)
    }

    /// Has an operation answered by the shard's leader, wherever it is.
    pub(super) async fn run<O: Operation>(
        &self,
        shard: u16,
        operation: &O,
    ) -> Result<O::Output, KeyError> {
        let Some(route) = self.routes.get(usize::from(shard)) else {
            return Err(no_leader(shard));
        };
        if route.shard.serves() {
            match operation.here(&route.shard).await {
                Ok(output) => return Ok(output),
                Err(Missed::Failed(error)) => return Err(error),
                // Asked for once more, and then at whoever leads next.
                Err(Missed::NotLeader | Missed::Damaged(_)) => {}
            }
        }
        let (_, output) = Box::pin(self.seek(shard, route, operation)).await?;
        Ok(output)
    }

    /// The same, and which node answered: it led the shard then.
    pub(super) async fn ask<O: Operation>(
        &self,
        shard: u16,
        operation: &O,
    ) -> Result<(NodeId, O::Output), KeyError> {
        match self.routes.get(usize::from(shard)) {
            Some(route) => Box::pin(self.seek(shard, route, operation)).await,
            None => Err(no_leader(shard)),
        }
    }

    /// Has an operation answered here or sends it to the leader, or waits for one. Tells which node
    /// answered, too.
    async fn seek<O: Operation>(
        &self,
        number: u16,
        route: &Route,
        operation: &O,
    ) -> Result<(NodeId, O::Output), KeyError> {
        let deadline = Instant::now() + self.timeout;
        let mut hold = None;
        // What this node met while it led, if nobody else leads in time.
        let mut damaged = None;
        let mut pause = PAUSE.0;
        let mut others = self.peers.near();
        loop {
            if route.shard.serves() {
                match operation.here(&route.shard).await {
                    Ok(output) => return Ok((self.peers.me(), output)),
                    Err(Missed::Failed(error)) => return Err(error),
                    Err(Missed::NotLeader) => {}
                    Err(Missed::Damaged(error)) => damaged = Some(error),
                }
            } else if let Some(node) = route.leader(self.peers.me(), &others) {
                match self.send(number, route, node, operation, deadline).await {
                    Sent::Answered(output) => return Ok((node, output)),
                    Sent::Failed(error) => return Err(error),
                    // It leads to the leader: followed without a pause.
                    Sent::Redirected => pause = Duration::ZERO,
                    Sent::NotDone => {}
                }
            }
            if Instant::now() >= deadline {
                let damaged = damaged.map(|error| KeyError::Damaged(error.into()));
                return Err(damaged.unwrap_or_else(|| no_leader(number)));
            }
            if hold.is_none() {
                hold = Some(self.hold(operation.size())?);
            }
            if !others.is_empty() {
                others.rotate_left(1);
            }
            wait(route, pause, deadline).await;
            pause = (2 * pause).clamp(PAUSE.0, PAUSE.1);
        }
    }

    /// Room for a request that waits.
    fn hold(&self, bytes: usize) -> Result<tokio::sync::OwnedSemaphorePermit, KeyError> {
        let units = u32::try_from(bytes / HELD_UNIT + 1).unwrap_or(u32::MAX);
        let queue = "requests that wait for a leader";
        let held = self.held.clone().try_acquire_many_owned(units);
        held.map_err(|_| Unavailable::Overloaded { queue }.into())
    }

    async fn send<O: Operation>(
        &self,
        number: u16,
        route: &Route,
        node: NodeId,
        operation: &O,
        deadline: Instant,
    ) -> Sent<O::Output> {
        let left = deadline.saturating_duration_since(Instant::now());
        let timeout = if O::REPEATABLE {
            left.min(ASK_AGAIN)
        } else {
            left
        };
        let body = operation.call(number);
        match self.peers.call(node, Lane::Keys, body, timeout).await {
            Ok(reply::Body::Refused(refused)) => match read_refusal(refused) {
                Refusal::Elsewhere(Some(leader)) => {
                    let known = route.hint.swap(leader, Ordering::Relaxed);
                    if known == leader {
                        Sent::NotDone
                    } else {
                        Sent::Redirected
                    }
                }
                Refusal::Elsewhere(None) => {
                    route.hint.store(0, Ordering::Relaxed);
                    Sent::NotDone
                }
                Refusal::Final(error) => Sent::Failed(error),
            },
            Ok(reply) => match O::decode(reply) {
                Some(output) => {
                    route.hint.store(node, Ordering::Relaxed);
                    Sent::Answered(output)
                }
                None => Sent::Failed(KeyError::UnknownOutcome),
            },
            Err(CallError::Unsent) => {
                route.hint.store(0, Ordering::Relaxed);
                Sent::NotDone
            }
            Err(CallError::Busy) => {
                let queue = "calls to the shard's leader";
                Sent::Failed(Unavailable::Overloaded { queue }.into())
            }
            Err(CallError::Lost) if O::REPEATABLE => {
                route.hint.store(0, Ordering::Relaxed);
                Sent::NotDone
            }
            Err(CallError::Lost) => Sent::Failed(KeyError::UnknownOutcome),
        }
    }

    /// Keys of a bucket, over all shards; with `exact`, what has expired goes first.
    pub async fn count(&self, bucket: &BucketId, exact: bool) -> Result<u64, KeyError> {
        let states = self.states(bucket, exact).await?;
        Ok(states.iter().map(|state| state.keys).sum())
    }

    /// A bucket's state in each shard.
    pub async fn states(
        &self,
        bucket: &BucketId,
        exact: bool,
    ) -> Result<Vec<pb::BucketState>, KeyError> {
        let counts = Counts {
            bucket: bucket.as_bytes(),
            exact,
        };
        try_join_all(self.numbers().map(|shard| self.run(shard, &counts))).await
    }
}

/// What came of sending an operation to another node.
enum Sent<T> {
    Answered(T),
    Failed(KeyError),
    /// Nothing was done; another node leads.
    Redirected,
    /// Nothing was done, or it can be done again.
    NotDone,
}

/// Waits until another leader is known, or for `pause`.
async fn wait(route: &Route, pause: Duration, deadline: Instant) {
    let mut leader = route.shard.group().leader().clone();
    leader.mark_unchanged();
    let until = (Instant::now() + pause).min(deadline);
    // When nobody tells any more, the time is over soon.
    let changed = async {
        if leader.changed().await.is_err() {
            std::future::pending::<()>().await;
        }
    };
    let _ = tokio::time::timeout_at(until, changed).await;
}

pub(super) fn no_leader(shard: u16) -> KeyError {
    Unavailable::NoLeader {
        group: crate::store::keys::GroupId::shard(shard).to_string(),
    }
    .into()
}
