//! The shards of the region: maps keys to shards, and routes operations to their leaders.
//!
//! An operation on a shard that this node leads is executed here. Others are forwarded to the
//! leader. While a shard has no leader, operations wait, bounded in bytes and time: so a planned
//! restart loses none.
//!
//! Invariant (unknown outcome): an operation that isn't retryable is sent again only if it provably
//! was not done: it never left this node, or the other node refused it.

use std::sync::Arc;
use std::time::Duration;

use cloudkv_common::byte_budget::{ByteBudget, BytePermit};
use cloudkv_proto::v1 as pb;
use cloudkv_proto::v1::reply;
use futures_util::future::try_join_all;
use tokio::time::Instant;

use super::errors::{KeyError, Unavailable};
use super::leader_hint::LeaderHint;
use super::operation::{ForwardRefusal, Operation, ShardError, decode_refusal};
use super::reads::GetBucketState;
use crate::raft::NodeId;
use crate::rpc::{CallError, Peers, StreamKind};
use crate::shard::{ShardHandle, shard_of};
use crate::types::BucketId;

/// Timeout of one attempt of a retryable operation at another node.
const ATTEMPT_TIMEOUT: Duration = Duration::from_millis(1000);
/// Minimum and maximum of the backoff between attempts to reach a leader.
const RETRY_BACKOFF: (Duration, Duration) = (Duration::from_millis(1), Duration::from_millis(40));
/// Unit in which waiting operations are counted, in bytes.
const QUEUE_UNIT_BYTES: usize = 1 << 10;

/// All shards, by number. Cheap to clone.
#[derive(Clone)]
pub struct Shards {
    routes: Arc<[ShardRoute]>,
    peers: Arc<Peers>,
    queue_budget: ByteBudget,
    timeout: Duration,
}

/// A shard, and the node that led it when it last answered.
struct ShardRoute {
    shard: Arc<ShardHandle>,
    leader_hint: LeaderHint,
}

impl ShardRoute {
    /// Returns the leader, as far as this node knows, or a node to ask for it.
    fn leader(&self, me: NodeId, known: &[NodeId]) -> Option<NodeId> {
        let leader = self.shard.remote_leader();
        let is_hosted = || self.shard.is_hosted();
        let any_other = || known.first().copied();
        self.leader_hint.target(leader, me, is_hosted, any_other)
    }
}

impl Shards {
    /// Creates shards 0, 1, 2 ... from their handles. Operations wait for a leader, up to
    /// `queue_bytes` of them, and for up to `timeout`.
    pub fn new(
        handles: Vec<Arc<ShardHandle>>,
        peers: Arc<Peers>,
        queue_bytes: usize,
        timeout: Duration,
    ) -> Self {
        let routes = handles.into_iter().map(|shard| ShardRoute {
            shard,
            leader_hint: LeaderHint::default(),
        });
        Self {
            routes: routes.collect(),
            peers,
            queue_budget: ByteBudget::new(queue_bytes),
            timeout,
        }
    }

    /// Iterates over this node's handles of the shards.
    pub fn iter(&self) -> impl Iterator<Item = &Arc<ShardHandle>> {
        self.routes.iter().map(|route| &route.shard)
    }

    /// Returns the numbers of the shards.
    pub fn numbers(&self) -> std::ops::Range<u16> {
        0..u16::try_from(self.routes.len()).unwrap_or(u16::MAX)
    }

    /// Returns the number of shards.
    pub fn len(&self) -> usize {
        self.routes.len()
    }

    /// Returns whether there is no shard.
    pub fn is_empty(&self) -> bool {
        self.routes.is_empty()
    }

    /// Returns the other nodes.
    pub fn peers(&self) -> &Arc<Peers> {
        &self.peers
    }

    /// Returns the number of a key's shard.
    pub fn shard_of(&self, bucket: &BucketId, key: &[u8]) -> u16 {
        shard_of(bucket.as_bytes(), key, self.numbers().end)
    }

    /// Returns the number of a bucket's home shard, which has the bucket's own counters.
    pub fn home_shard(&self, bucket: &BucketId) -> u16 {
        self.shard_of(bucket, b"")
    }

    /// Returns this node's handle of a shard.
    pub fn local(&self, shard: u16) -> Option<&Arc<ShardHandle>> {
        self.routes
            .get(usize::from(shard))
            .map(|route| &route.shard)
    }

    /// Executes an operation at the shard's leader, wherever it is.
    pub(super) async fn run<O: Operation>(
        &self,
        shard: u16,
        operation: &O,
    ) -> Result<O::Output, KeyError> {
        let Some(route) = self.routes.get(usize::from(shard)) else {
            return Err(no_leader(shard));
        };
        if route.shard.is_serving() {
            match operation.execute(&route.shard).await {
                Ok(output) => return Ok(output),
                Err(ShardError::Failed(error)) => return Err(error),
                // Tried once more, and then at the next leader.
                Err(ShardError::NotLeader | ShardError::Damaged(_)) => {}
            }
        }
        let (_, output) = Box::pin(self.run_with_retries(shard, route, operation)).await?;
        Ok(output)
    }

    /// Executes an operation at the shard's leader, and returns which node that was.
    pub(super) async fn run_with_leader<O: Operation>(
        &self,
        shard: u16,
        operation: &O,
    ) -> Result<(NodeId, O::Output), KeyError> {
        match self.routes.get(usize::from(shard)) {
            Some(route) => Box::pin(self.run_with_retries(shard, route, operation)).await,
            None => Err(no_leader(shard)),
        }
    }

    /// Executes an operation here, or forwards it to the leader, or waits for one, until it
    /// completes or the timeout passes. Returns which node completed it, too.
    async fn run_with_retries<O: Operation>(
        &self,
        number: u16,
        route: &ShardRoute,
        operation: &O,
    ) -> Result<(NodeId, O::Output), KeyError> {
        let deadline = Instant::now() + self.timeout;
        let mut queue_permit = None;
        // Error of this node while it led, for the case that no other node leads in time.
        let mut damaged = None;
        let mut backoff = RETRY_BACKOFF.0;
        let mut others = self.peers.same_region();
        loop {
            if route.shard.is_serving() {
                match operation.execute(&route.shard).await {
                    Ok(output) => return Ok((self.peers.me(), output)),
                    Err(ShardError::Failed(error)) => return Err(error),
                    Err(ShardError::NotLeader) => {}
                    Err(ShardError::Damaged(error)) => damaged = Some(error),
                }
            } else if let Some(node) = route.leader(self.peers.me(), &others) {
                match self.forward(number, route, node, operation, deadline).await {
                    ForwardOutcome::Answered(output) => return Ok((node, output)),
                    ForwardOutcome::Failed(error) => return Err(error),
                    // The refusal names another leader: it is tried without a backoff.
                    ForwardOutcome::Redirected => backoff = Duration::ZERO,
                    ForwardOutcome::NotDone => {}
                }
            }
            if Instant::now() >= deadline {
                let damaged = damaged.map(|error| KeyError::Damaged(error.into()));
                return Err(damaged.unwrap_or_else(|| no_leader(number)));
            }
            if queue_permit.is_none() {
                queue_permit = Some(self.queue_permit(operation.queued_bytes())?);
            }
            if !others.is_empty() {
                others.rotate_left(1);
            }
            wait_for_leader(route, backoff, deadline).await;
            backoff = (2 * backoff).clamp(RETRY_BACKOFF.0, RETRY_BACKOFF.1);
        }
    }

    /// Takes a permit for an operation of this size to wait for a leader.
    fn queue_permit(&self, bytes: usize) -> Result<BytePermit, KeyError> {
        let bytes = (bytes / QUEUE_UNIT_BYTES + 1) * QUEUE_UNIT_BYTES;
        let queue = "requests that wait for a leader";
        let permit = self.queue_budget.try_acquire(bytes);
        permit.ok_or_else(|| Unavailable::Overloaded { queue }.into())
    }

    /// Forwards an operation to another node, and keeps what its reply tells about the leader.
    async fn forward<O: Operation>(
        &self,
        number: u16,
        route: &ShardRoute,
        node: NodeId,
        operation: &O,
        deadline: Instant,
    ) -> ForwardOutcome<O::Output> {
        let remaining = deadline.saturating_duration_since(Instant::now());
        let timeout = if O::RETRYABLE {
            remaining.min(ATTEMPT_TIMEOUT)
        } else {
            remaining
        };
        let body = operation.to_call(number);
        match self
            .peers
            .call(node, StreamKind::Forwarded, body, timeout)
            .await
        {
            Ok(reply::Body::Refused(refused)) => match decode_refusal(refused) {
                ForwardRefusal::Redirect(Some(leader)) => {
                    let previous = route.leader_hint.replace(Some(leader));
                    if previous == Some(leader) {
                        ForwardOutcome::NotDone
                    } else {
                        ForwardOutcome::Redirected
                    }
                }
                ForwardRefusal::Redirect(None) => {
                    route.leader_hint.replace(None);
                    ForwardOutcome::NotDone
                }
                ForwardRefusal::Final(error) => ForwardOutcome::Failed(error),
            },
            Ok(reply) => match O::decode(reply) {
                Some(output) => {
                    route.leader_hint.replace(Some(node));
                    ForwardOutcome::Answered(output)
                }
                None => ForwardOutcome::Failed(KeyError::UnknownOutcome),
            },
            Err(CallError::Unsent) => {
                route.leader_hint.replace(None);
                ForwardOutcome::NotDone
            }
            Err(CallError::Busy) => {
                let queue = "calls to the shard's leader";
                ForwardOutcome::Failed(Unavailable::Overloaded { queue }.into())
            }
            Err(CallError::Lost) if O::RETRYABLE => {
                route.leader_hint.replace(None);
                ForwardOutcome::NotDone
            }
            Err(CallError::Lost) => ForwardOutcome::Failed(KeyError::UnknownOutcome),
        }
    }

    /// Counts the keys of a bucket over all shards; with `exact`, expired keys are removed first.
    pub async fn count_keys(&self, bucket: &BucketId, exact: bool) -> Result<u64, KeyError> {
        let states = self.bucket_states(bucket, exact).await?;
        Ok(states.iter().map(|state| state.keys).sum())
    }

    /// Returns a bucket's counters in each shard; with `exact`, expired keys are removed first.
    pub async fn bucket_states(
        &self,
        bucket: &BucketId,
        exact: bool,
    ) -> Result<Vec<pb::BucketState>, KeyError> {
        let counts = GetBucketState {
            bucket: bucket.as_bytes(),
            exact,
        };
        try_join_all(self.numbers().map(|shard| self.run(shard, &counts))).await
    }
}

/// Outcome of forwarding an operation to another node.
enum ForwardOutcome<T> {
    Answered(T),
    Failed(KeyError),
    /// Nothing was done; another node leads.
    Redirected,
    /// Nothing was done, or the operation is retryable.
    NotDone,
}

/// Waits until another leader is known, or for `backoff`.
async fn wait_for_leader(route: &ShardRoute, backoff: Duration, deadline: Instant) {
    let mut leader = route.shard.group().leader().clone();
    leader.mark_unchanged();
    let until = (Instant::now() + backoff).min(deadline);
    // Once the group has stopped, no change comes: the timeout ends the wait.
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
