//! The way to the metadata group's leader, from any node.
//!
//! Commands go to the leader; what is read here is this node's own copy, in memory, and a
//! [`Metadata::barrier`] makes sure that it is as new as when it was asked.

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

/// Time for a node to answer what can be asked again, and before that is asked again in vain.
const ASK_AGAIN: Duration = Duration::from_secs(1);
/// Time for all nodes that can be reached to have applied a change.
const SPREAD: Duration = Duration::from_secs(1);
/// Time for a leader to be found, and for this node to follow it, when somebody asks for what this
/// node doesn't know.
const BARRIER: Duration = Duration::from_secs(3);
/// Pause before the leader is looked for again.
const PAUSE: Duration = Duration::from_millis(20);

/// The metadata, from any node. Cheap to clone.
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
    /// Barriers begun; each gets the next number.
    begun: AtomicU64,
    ended: tokio::sync::Mutex<Ended>,
}

/// How barriers ended, one after the other.
#[derive(Default)]
struct Ended {
    /// The number of the last one that came through.
    through: u64,
    /// The number of the last one that didn't, and when that was.
    failed: u64,
    failed_at: Option<Instant>,
}

/// What one try came to.
enum Tried<T> {
    Answered(T),
    /// Nothing was done.
    NotDone,
    Unknown,
}

impl Metadata {
    /// The metadata that `group` replicates; a command's outcome is waited for for `timeout`.
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

    /// Whether this node leads, and its copy is the newest there is.
    pub fn leads(&self) -> bool {
        self.inner.group.may_read()
    }

    /// Proposes a command wherever the leader is, and returns its answer once this node has
    /// applied it, too.
    pub async fn propose(&self, kind: Command) -> Result<Response, DirectoryError> {
        let deadline = Instant::now() + self.inner.timeout;
        loop {
            match self.try_propose(kind.clone(), deadline).await {
                Tried::Answered((response, index)) => {
                    let applied = self.inner.group.applied(index);
                    // A node that lags still knows the answer.
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
        let left = deadline.saturating_duration_since(Instant::now());
        let command = Some(pb::MetaCommand {
            time: 0,
            kind: Some(kind),
        });
        let body = call::Body::Meta(pb::MetaCommandCall { command });
        match self.call(leader, body, left).await {
            Tried::Answered(reply::Body::Meta(answer)) => match answer.response.map(from_pb) {
                Some(Ok(response)) => Tried::Answered((response, answer.index)),
                Some(Err(_)) | None => Tried::Unknown,
            },
            Tried::Answered(_) | Tried::Unknown => Tried::Unknown,
            Tried::NotDone => Tried::NotDone,
        }
    }

    /// Proposes a command on this node, with this node's time.
    async fn propose_here(&self, kind: Command, deadline: Instant) -> Tried<(Response, u64)> {
        let command = pb::MetaCommand {
            time: self.inner.clock.now(),
            kind: Some(kind),
        };
        let answer = self.inner.group.propose(command);
        match tokio::time::timeout_at(deadline, answer).await {
            Ok(Ok(response)) => {
                // It was applied before it was answered.
                let index = self.inner.group.progress().applied_index();
                Tried::Answered((response, index))
            }
            Ok(Err(ProposeError::NotLeader { .. })) => Tried::NotDone,
            Ok(Err(ProposeError::Unknown)) | Err(_) => Tried::Unknown,
        }
    }

    /// Calls another node; a refusal that names the leader is noted.
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
        let told = *self.inner.group.leader().borrow();
        let hint = Some(self.inner.hint.load(Ordering::Relaxed)).filter(|hint| *hint != 0);
        let leader = told.or(hint).filter(|leader| *leader != me);
        if leader.is_some() || self.inner.group.is_member() {
            return leader;
        }
        // Not a member yet: any node that is one knows more.
        self.inner.peers.known().first().copied()
    }

    /// Answers when this node has applied all that was acknowledged before the call. Calls at the
    /// same time share a question to the leader, and its failure, as do those that come within a second
    /// after it: however many wait, none waits for longer than two questions take.
    pub async fn barrier(&self) -> Result<(), Unavailable> {
        if self.leads() {
            return Ok(());
        }
        let seen = self.inner.begun.load(Ordering::Acquire);
        let mut ended = self.inner.ended.lock().await;
        // One that began after this call tells as much as one of its own.
        if ended.through > seen {
            return Ok(());
        }
        let now = Instant::now();
        let just_failed = ended.failed_at.is_some_and(|at| now < at + ASK_AGAIN);
        if ended.failed > seen || just_failed {
            return Err(no_leader());
        }
        let number = self.inner.begun.fetch_add(1, Ordering::AcqRel) + 1;
        let pass = async {
            let index = self.ask_for_position().await;
            self.inner.group.applied(index).await;
        };
        match tokio::time::timeout(BARRIER, pass).await {
            Ok(()) => {
                ended.through = number;
                ended.failed_at = None;
                Ok(())
            }
            Err(_) => {
                ended.failed = number;
                ended.failed_at = Some(Instant::now());
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
                let answer = self.call(leader, body, ASK_AGAIN).await;
                if let Tried::Answered(reply::Body::Position(position)) = answer {
                    return position.index;
                }
            }
            tokio::time::sleep(PAUSE).await;
        }
    }

    /// Waits until every node that can be reached has applied all that this one has, though not
    /// for long.
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

    /// Answers another node's command.
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

    /// Answers another node's question for the position of a read that begins now.
    pub(super) fn answer_barrier(&self) -> reply::Body {
        if !self.leads() {
            return self.refuse(Reason::NotLeader, "");
        }
        let index = self.inner.group.progress().applied_index();
        reply::Body::Position(pb::Position { index })
    }

    /// Answers when this node has applied an entry.
    pub(super) async fn answer_applied(&self, index: u64, timeout: Duration) -> reply::Body {
        match tokio::time::timeout(timeout, self.inner.group.applied(index)).await {
            Ok(()) => reply::Body::Position(pb::Position { index }),
            Err(_) => self.refuse(Reason::Busy, "it lags"),
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
