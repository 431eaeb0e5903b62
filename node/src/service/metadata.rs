//! A client of the metadata group, for any node.
//!
//! Commands go to the group's leader. Reads are answered from this node's own copy, in memory, and
//! a [`MetadataClient::barrier`] ensures that the copy has all that was acknowledged before.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use cloudkv_proto::v1 as pb;
use cloudkv_proto::v1::{call, meta_command::Kind as Command, refused::Reason, reply};
use futures_util::future::join_all;
use tokio::time::Instant;

use super::errors::{DirectoryError, Unavailable};
use super::leader_hint::LeaderHint;
use crate::clock::Clock;
use crate::meta::codec::{from_pb, to_pb};
use crate::meta::{CommandResult, Meta};
use crate::raft::{Checkpoints, Group, NodeId, ProposeError};
use crate::rpc::{CallError, Peers, StreamKind};
use crate::store::keys::GroupId;

/// Timeout of one query of a read index, and time for which a failed barrier fails others.
const ATTEMPT_TIMEOUT: Duration = Duration::from_secs(1);
/// Timeout of waiting until all reachable nodes have applied a change.
const PEER_APPLY_TIMEOUT: Duration = Duration::from_secs(1);
/// Timeout of a barrier: time to find a leader, and for this node to apply what it has committed.
const BARRIER_TIMEOUT: Duration = Duration::from_secs(3);
/// Interval between attempts to find the leader.
const RETRY_INTERVAL: Duration = Duration::from_millis(20);

/// Client of the metadata group, for any node. Cheap to clone.
#[derive(Clone)]
pub struct MetadataClient {
    inner: Arc<Inner>,
}

struct Inner {
    group: Arc<Group<Meta>>,
    peers: Arc<Peers>,
    clock: Clock,
    timeout: Duration,
    leader_hint: LeaderHint,
    /// Number of barriers started; each gets the next number.
    barriers_started: AtomicU64,
    barrier_state: tokio::sync::Mutex<BarrierState>,
}

/// Outcomes of the barriers, which run one after the other.
#[derive(Default)]
struct BarrierState {
    /// Number of the last barrier that succeeded.
    last_succeeded: u64,
    /// Number of the last barrier that failed.
    last_failed: u64,
    failed_at: Option<Instant>,
}

/// Outcome of one attempt.
enum Attempt<T> {
    Answered(T),
    /// Nothing was done.
    NotDone,
    /// It may have been done.
    Unknown,
}

impl MetadataClient {
    /// Creates a client of `group`, which waits for a command's outcome for up to `timeout`.
    pub fn new(
        group: Arc<Group<Meta>>,
        peers: Arc<Peers>,
        clock: Clock,
        timeout: Duration,
    ) -> Self {
        Self {
            inner: Arc::new(Inner {
                group,
                peers,
                clock,
                timeout,
                leader_hint: LeaderHint::default(),
                barriers_started: AtomicU64::new(0),
                barrier_state: tokio::sync::Mutex::default(),
            }),
        }
    }

    /// Returns whether this node leads the group and its lease allows reads of its own copy.
    pub fn is_leader(&self) -> bool {
        self.inner.group.may_read()
    }

    /// Proposes a command at the leader, and returns its result once this node has applied it,
    /// too.
    pub async fn propose(&self, kind: Command) -> Result<CommandResult, DirectoryError> {
        let deadline = Instant::now() + self.inner.timeout;
        loop {
            match self.try_propose(kind.clone(), deadline).await {
                Attempt::Answered((response, index)) => {
                    let applied = self.inner.group.wait_applied(index);
                    // The result is known even if this node lags.
                    let _ = tokio::time::timeout_at(deadline, applied).await;
                    return Ok(response);
                }
                Attempt::Unknown => return Err(DirectoryError::UnknownOutcome),
                Attempt::NotDone if Instant::now() >= deadline => return Err(no_leader().into()),
                Attempt::NotDone => tokio::time::sleep(RETRY_INTERVAL).await,
            }
        }
    }

    async fn try_propose(&self, kind: Command, deadline: Instant) -> Attempt<(CommandResult, u64)> {
        if self.is_leader() {
            return self.propose_locally(kind, deadline).await;
        }
        let Some(leader) = self.leader() else {
            return Attempt::NotDone;
        };
        let timeout = deadline.saturating_duration_since(Instant::now());
        let command = Some(pb::MetaCommand {
            time: 0,
            kind: Some(kind),
        });
        let body = call::Body::Meta(pb::MetaCommandCall { command });
        match self.call(leader, body, timeout).await {
            Attempt::Answered(reply::Body::Meta(reply)) => match reply.response.map(from_pb) {
                Some(Ok(response)) => Attempt::Answered((response, reply.index)),
                Some(Err(_)) | None => Attempt::Unknown,
            },
            Attempt::Answered(_) | Attempt::Unknown => Attempt::Unknown,
            Attempt::NotDone => Attempt::NotDone,
        }
    }

    /// Proposes a command at this node, stamped with this node's clock.
    async fn propose_locally(
        &self,
        kind: Command,
        deadline: Instant,
    ) -> Attempt<(CommandResult, u64)> {
        let command = pb::MetaCommand {
            time: self.inner.clock.now(),
            kind: Some(kind),
        };
        let proposal = self.inner.group.propose(command);
        match tokio::time::timeout_at(deadline, proposal).await {
            Ok(Ok(response)) => {
                // The response comes after the command was applied.
                let index = self.inner.group.progress().applied_index();
                Attempt::Answered((response, index))
            }
            Ok(Err(ProposeError::NotLeader { .. })) => Attempt::NotDone,
            Ok(Err(ProposeError::Unknown)) | Err(_) => Attempt::Unknown,
        }
    }

    /// Calls another node, and keeps the leader that a refusal names as the hint.
    async fn call(
        &self,
        node: NodeId,
        body: call::Body,
        timeout: Duration,
    ) -> Attempt<reply::Body> {
        let peers = &self.inner.peers;
        match peers.call(node, StreamKind::Forwarded, body, timeout).await {
            Ok(reply::Body::Refused(refused)) => {
                let leader = NodeId::nonzero(refused.leader);
                self.inner.leader_hint.replace(leader);
                match refused.reason() {
                    Reason::UnknownOutcome | Reason::Failed => Attempt::Unknown,
                    _ => Attempt::NotDone,
                }
            }
            Ok(reply) => {
                self.inner.leader_hint.replace(Some(node));
                Attempt::Answered(reply)
            }
            Err(CallError::Unsent | CallError::Busy) => {
                self.inner.leader_hint.replace(None);
                Attempt::NotDone
            }
            Err(CallError::Lost) => {
                self.inner.leader_hint.replace(None);
                Attempt::Unknown
            }
        }
    }

    fn leader(&self) -> Option<NodeId> {
        let (group, peers) = (&self.inner.group, &self.inner.peers);
        let known = *group.leader().borrow();
        let any_other = || peers.node_numbers().first().copied();
        let hint = &self.inner.leader_hint;
        hint.target(known, peers.me(), || group.is_member(), any_other)
    }

    /// Returns the digests of this node's replica after certain entries.
    pub(super) fn checkpoints(&self) -> &Checkpoints {
        self.inner.group.checkpoints()
    }

    /// Waits until this node has applied all that was acknowledged before the call. Concurrent
    /// calls share one query of the leader's read index, and its failure, as do calls within a
    /// second after a failure: however many wait, none waits for longer than two queries take.
    pub async fn barrier(&self) -> Result<(), Unavailable> {
        if self.is_leader() {
            return Ok(());
        }
        let last_started = self.inner.barriers_started.load(Ordering::Acquire);
        let mut state = self.inner.barrier_state.lock().await;
        // A barrier that was started after this call serves as well as one of its own.
        if state.last_succeeded > last_started {
            return Ok(());
        }
        let now = Instant::now();
        let just_failed = state.failed_at.is_some_and(|at| now < at + ATTEMPT_TIMEOUT);
        if state.last_failed > last_started || just_failed {
            return Err(no_leader());
        }
        let number = self.inner.barriers_started.fetch_add(1, Ordering::AcqRel) + 1;
        let barrier = async {
            let index = self.query_read_index().await;
            self.inner.group.wait_applied(index).await;
        };
        match tokio::time::timeout(BARRIER_TIMEOUT, barrier).await {
            Ok(()) => {
                state.last_succeeded = number;
                state.failed_at = None;
                Ok(())
            }
            Err(_) => {
                state.last_failed = number;
                state.failed_at = Some(Instant::now());
                Err(no_leader())
            }
        }
    }

    async fn query_read_index(&self) -> u64 {
        loop {
            if self.is_leader() {
                return self.inner.group.progress().applied_index();
            }
            if let Some(leader) = self.leader() {
                let group = u32::from(GroupId::META.0);
                let body = call::Body::Barrier(pb::Barrier { group });
                let reply = self.call(leader, body, ATTEMPT_TIMEOUT).await;
                if let Attempt::Answered(reply::Body::Position(position)) = reply {
                    return position.index;
                }
            }
            tokio::time::sleep(RETRY_INTERVAL).await;
        }
    }

    /// Waits until every node that can be reached has applied all that this one has, for up to
    /// [`PEER_APPLY_TIMEOUT`].
    pub async fn await_applied_on_peers(&self) {
        let index = self.inner.group.progress().applied_index();
        let peers = &self.inner.peers;
        let applied = peers.node_numbers().into_iter().map(|node| {
            let group = u32::from(GroupId::META.0);
            let body = call::Body::AwaitApplied(pb::AwaitApplied { group, index });
            peers.call(node, StreamKind::Forwarded, body, PEER_APPLY_TIMEOUT)
        });
        join_all(applied).await;
    }

    /// Proposes another node's command.
    pub(super) async fn handle_command(
        &self,
        command: Option<pb::MetaCommand>,
        timeout: Duration,
    ) -> reply::Body {
        let Some(kind) = command.and_then(|command| command.kind) else {
            return self.refuse(
                Reason::Failed,
                "a command of a kind that this node doesn't know",
            );
        };
        if !self.is_leader() {
            return self.refuse(Reason::NotLeader, "");
        }
        match self.propose_locally(kind, Instant::now() + timeout).await {
            Attempt::Answered((response, index)) => reply::Body::Meta(pb::MetaReply {
                response: Some(to_pb(&response)),
                index,
            }),
            Attempt::NotDone => self.refuse(Reason::NotLeader, ""),
            Attempt::Unknown => self.refuse(Reason::UnknownOutcome, ""),
        }
    }

    /// Returns the read index for another node's barrier that begins now.
    pub(super) fn handle_barrier(&self) -> reply::Body {
        if !self.is_leader() {
            return self.refuse(Reason::NotLeader, "");
        }
        let index = self.inner.group.progress().applied_index();
        reply::Body::Position(pb::Position { index })
    }

    /// Waits until this node has applied an entry, for up to `timeout`.
    pub(super) async fn handle_await_applied(&self, index: u64, timeout: Duration) -> reply::Body {
        match tokio::time::timeout(timeout, self.inner.group.wait_applied(index)).await {
            Ok(()) => reply::Body::Position(pb::Position { index }),
            Err(_) => self.refuse(Reason::Busy, "this node lags"),
        }
    }

    fn refuse(&self, reason: Reason, message: &str) -> reply::Body {
        let me = self.inner.peers.me();
        let leader = *self.inner.group.leader().borrow();
        reply::Body::Refused(pb::Refused {
            reason: reason.into(),
            message: message.to_owned(),
            leader: leader.filter(|leader| *leader != me).map_or(0, u64::from),
        })
    }
}

pub(super) fn no_leader() -> Unavailable {
    Unavailable::NoLeader {
        group: GroupId::META.to_string(),
    }
}
