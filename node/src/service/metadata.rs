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
use crate::clock::Clock;
use crate::meta::wire::{from_pb, to_pb};
use crate::meta::{Meta, Response};
use crate::raft::{Group, NodeId, ProposeError};
use crate::rpc::{CallError, Lane, Peers};
use crate::store::keys::GroupId;

/// Timeout of one query of a read index, and time for which a failed barrier fails others.
const ASK_AGAIN: Duration = Duration::from_secs(1);
/// Timeout of waiting until all reachable nodes have applied a change.
const SPREAD: Duration = Duration::from_secs(1);
/// Timeout of a barrier: time to find a leader, and for this node to apply what it has committed.
const BARRIER: Duration = Duration::from_secs(3);
/// Interval between attempts to find the leader.
const PAUSE: Duration = Duration::from_millis(20);

/// Client of the metadata group, for any node. Cheap to clone.
#[derive(Clone)]
pub struct Metadata {
    inner: Arc<Inner>,
}

struct Inner {
    group: Arc<Group<Meta>>,
    peers: Arc<Peers>,
    clock: Clock,
    timeout: Duration,
    hint: AtomicU64,
    /// Number of barriers started; each gets the next number.
    begun: AtomicU64,
    ended: tokio::sync::Mutex<Ended>,
}

/// Outcomes of the barriers, which run one after the other.
#[derive(Default)]
struct Ended {
    /// Number of the last barrier that succeeded.
    through: u64,
    /// Number of the last barrier that failed.
    failed: u64,
    failed_at: Option<Instant>,
}

/// Outcome of one attempt.
enum Tried<T> {
    Answered(T),
    /// Nothing was done.
    NotDone,
    /// It may have been done.
    Unknown,
}

impl Metadata {
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
                hint: AtomicU64::new(0),
                begun: AtomicU64::new(0),
                ended: tokio::sync::Mutex::default(),
            }),
        }
    }

    /// Returns whether this node leads the group and its lease allows reads of its own copy.
    pub fn leads(&self) -> bool {
        self.inner.group.may_read()
    }

    /// Proposes a command at the leader, and returns its result once this node has applied it,
    /// too.
    pub async fn propose(&self, kind: Command) -> Result<Response, DirectoryError> {
        let deadline = Instant::now() + self.inner.timeout;
        loop {
            match self.try_propose(kind.clone(), deadline).await {
                Tried::Answered((response, index)) => {
                    let applied = self.inner.group.applied(index);
                    // The result is known even if this node lags.
                    let _ = tokio::time::timeout_at(deadline, applied).await;
                    return Ok(response);
                }
                Tried::Unknown => return Err(DirectoryError::UnknownOutcome),
                Tried::NotDone if Instant::now() >= deadline => return Err(no_leader().into()),
                Tried::NotDone => tokio::time::sleep(PAUSE).await,
            }
        }
    }

    async fn try_propose(&self, kind: Command, deadline: Instant) -> Tried<(Response, u64)> {
        if self.leads() {
            return self.propose_here(kind, deadline).await;
        }
        let Some(leader) = self.leader() else {
            return Tried::NotDone;
        };
        let timeout = deadline.saturating_duration_since(Instant::now());
        let command = Some(pb::MetaCommand {
            time: 0,
            kind: Some(kind),
        });
        let body = call::Body::Meta(pb::MetaCommandCall { command });
        match self.call(leader, body, timeout).await {
            Tried::Answered(reply::Body::Meta(reply)) => match reply.response.map(from_pb) {
                Some(Ok(response)) => Tried::Answered((response, reply.index)),
                Some(Err(_)) | None => Tried::Unknown,
            },
            Tried::Answered(_) | Tried::Unknown => Tried::Unknown,
            Tried::NotDone => Tried::NotDone,
        }
    }

    /// Proposes a command at this node, stamped with this node's clock.
    async fn propose_here(&self, kind: Command, deadline: Instant) -> Tried<(Response, u64)> {
        let command = pb::MetaCommand {
            time: self.inner.clock.now(),
            kind: Some(kind),
        };
        let proposal = self.inner.group.propose(command);
        match tokio::time::timeout_at(deadline, proposal).await {
            Ok(Ok(response)) => {
                // The response comes after the command was applied.
                let index = self.inner.group.progress().applied_index();
                Tried::Answered((response, index))
            }
            Ok(Err(ProposeError::NotLeader { .. })) => Tried::NotDone,
            Ok(Err(ProposeError::Unknown)) | Err(_) => Tried::Unknown,
        }
    }

    /// Calls another node, and keeps the leader that a refusal names as the hint.
    async fn call(&self, node: NodeId, body: call::Body, timeout: Duration) -> Tried<reply::Body> {
        let peers = &self.inner.peers;
        match peers.call(node, Lane::Keys, body, timeout).await {
            Ok(reply::Body::Refused(refused)) => {
                self.inner.hint.store(refused.leader, Ordering::Relaxed);
                match refused.reason() {
                    Reason::UnknownOutcome | Reason::Failed => Tried::Unknown,
                    _ => Tried::NotDone,
                }
            }
            Ok(reply) => {
                self.inner.hint.store(node, Ordering::Relaxed);
                Tried::Answered(reply)
            }
            Err(CallError::Unsent | CallError::Busy) => {
                self.inner.hint.store(0, Ordering::Relaxed);
                Tried::NotDone
            }
            Err(CallError::Lost) => {
                self.inner.hint.store(0, Ordering::Relaxed);
                Tried::Unknown
            }
        }
    }

    fn leader(&self) -> Option<NodeId> {
        let me = self.inner.peers.me();
        let known = *self.inner.group.leader().borrow();
        let hint = Some(self.inner.hint.load(Ordering::Relaxed)).filter(|hint| *hint != 0);
        let leader = known.or(hint).filter(|leader| *leader != me);
        if leader.is_some() || self.inner.group.is_member() {
            return leader;
        }
        // This node is not a member yet: any member knows more.
        self.inner.peers.known().first().copied()
    }

    /// Waits until this node has applied all that was acknowledged before the call. Concurrent
    /// calls share one query of the leader's read index, and its failure, as do calls within a
    /// second after a failure: however many wait, none waits for longer than two queries take.
    pub async fn barrier(&self) -> Result<(), Unavailable> {
        if self.leads() {
            return Ok(());
        }
        let last_started = self.inner.begun.load(Ordering::Acquire);
        let mut state = self.inner.ended.lock().await;
        // A barrier that was started after this call serves as well as one of its own.
        if state.through > last_started {
            return Ok(());
        }
        let now = Instant::now();
        let just_failed = state.failed_at.is_some_and(|at| now < at + ASK_AGAIN);
        if state.failed > last_started || just_failed {
            return Err(no_leader());
        }
        let number = self.inner.begun.fetch_add(1, Ordering::AcqRel) + 1;
        let barrier = async {
            let index = self.ask_for_position().await;
            self.inner.group.applied(index).await;
        };
        match tokio::time::timeout(BARRIER, barrier).await {
            Ok(()) => {
                state.through = number;
                state.failed_at = None;
                Ok(())
            }
            Err(_) => {
                state.failed = number;
                state.failed_at = Some(Instant::now());
                Err(no_leader())
            }
        }
    }

    async fn ask_for_position(&self) -> u64 {
        loop {
            if self.leads() {
                return self.inner.group.progress().applied_index();
            }
            if let Some(leader) = self.leader() {
                let group = u32::from(GroupId::META.0);
                let body = call::Body::Barrier(pb::Barrier { group });
                let reply = self.call(leader, body, ASK_AGAIN).await;
                if let Tried::Answered(reply::Body::Position(position)) = reply {
                    return position.index;
                }
            }
            tokio::time::sleep(PAUSE).await;
        }
    }

    /// Waits until every node that can be reached has applied all that this one has, for up to
    /// [`PEER_APPLY_TIMEOUT`].
    pub async fn spread(&self) {
        let index = self.inner.group.progress().applied_index();
        let peers = &self.inner.peers;
        let applied = peers.known().into_iter().map(|node| {
            let group = u32::from(GroupId::META.0);
            let body = call::Body::AwaitApplied(pb::AwaitApplied { group, index });
            peers.call(node, Lane::Keys, body, SPREAD)
        });
        join_all(applied).await;
    }

    /// Proposes another node's command.
    pub(super) async fn answer_command(
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
        if !self.leads() {
            return self.refuse(Reason::NotLeader, "");
        }
        match self.propose_here(kind, Instant::now() + timeout).await {
            Tried::Answered((response, index)) => reply::Body::Meta(pb::MetaReply {
                response: Some(to_pb(&response)),
                index,
            }),
            Tried::NotDone => self.refuse(Reason::NotLeader, ""),
            Tried::Unknown => self.refuse(Reason::UnknownOutcome, ""),
        }
    }

    /// Returns the read index for another node's barrier that begins now.
    pub(super) fn answer_barrier(&self) -> reply::Body {
        if !self.leads() {
            return self.refuse(Reason::NotLeader, "");
        }
        let index = self.inner.group.progress().applied_index();
        reply::Body::Position(pb::Position { index })
    }

    /// Waits until this node has applied an entry, for up to `timeout`.
    pub(super) async fn answer_applied(&self, index: u64, timeout: Duration) -> reply::Body {
        match tokio::time::timeout(timeout, self.inner.group.applied(index)).await {
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
            leader: leader.filter(|leader| *leader != me).unwrap_or(0),
        })
    }
}

pub(super) fn no_leader() -> Unavailable {
    Unavailable::NoLeader {
        group: GroupId::META.to_string(),
    }
}
