//! Handles the calls of a group's other members.
//!
//! A member that has restarted doesn't know which leader it promised its lease to: until the
//! longest lease has expired it gives no vote and doesn't stand for election. Else a new leader
//! could be elected while the old one still answers reads. A vote that the leader itself requested,
//! for a leadership transfer, is exempt.

use std::sync::Arc;
use std::time::Instant;

use cloudkv_proto::v1 as pb;
use cloudkv_proto::v1::{append_reply, reply};
use futures_util::FutureExt;
use futures_util::future::BoxFuture;
use openraft::raft::{
    AppendEntriesRequest, AppendEntriesResponse, TransferLeaderRequest, VoteRequest,
};
use tonic::Status;

use super::codec;
use super::group::Group;
use super::refusal::not_here_reply;
use super::types::StateMachine;
use crate::rpc::{SnapshotAcks, SnapshotFrames};
use crate::store::DiskState;
use crate::types::NodeId;

/// A group on this node, of any machine, as its other members call it.
pub trait RaftMember: Send + Sync + 'static {
    /// Returns whether this node leads the group, and answers its reads.
    fn is_leader(&self) -> bool;
    /// Returns whether a node votes in the group, as far as this member knows.
    fn is_voter(&self, node: NodeId) -> bool;
    /// Returns the members, learners included, if this node leads the group; `None` also while they
    /// are being changed.
    fn members_if_leader(&self) -> Option<Vec<NodeId>>;
    /// Appends entries. The futures start in the order of the calls: each is polled once before the
    /// next.
    fn append(&self, request: pb::AppendEntries) -> BoxFuture<'static, reply::Body>;
    /// Votes, or pre-votes.
    fn vote(&self, request: pb::RequestVote) -> BoxFuture<'static, reply::Body>;
    /// Stands for election, since the leader transfers its leadership to this node.
    fn accept_leadership(&self, request: pb::TransferLeader) -> BoxFuture<'static, reply::Body>;
    /// Returns whether this node's state is damaged, and can be replaced by another voter's.
    fn is_in_repair(&self) -> bool;
    /// Sends this node's state to member `to`, whose own state is damaged.
    fn send_repair_snapshot(
        &self,
        to: NodeId,
        request: pb::SnapshotRequest,
    ) -> BoxFuture<'static, reply::Body>;
    /// Receives a snapshot and installs it. Dropping the future cancels neither.
    fn install_snapshot(
        self: Arc<Self>,
        head: pb::SnapshotHeader,
        frames: SnapshotFrames,
        acks: SnapshotAcks,
    ) -> BoxFuture<'static, Result<pb::SnapshotReply, Status>>;
}

impl<M: StateMachine> RaftMember for Group<M> {
    fn is_leader(&self) -> bool {
        self.may_read()
    }

    fn is_voter(&self, node: NodeId) -> bool {
        Self::is_voter(self, node)
    }

    fn members_if_leader(&self) -> Option<Vec<NodeId>> {
        if !self.may_read() || self.is_changing() {
            return None;
        }
        let (voters, learners) = self.members();
        Some(voters.into_iter().chain(learners).collect())
    }

    fn append(&self, request: pb::AppendEntries) -> BoxFuture<'static, reply::Body> {
        if self.is_stopping() {
            return std::future::ready(not_here_reply("the node is stopping")).boxed();
        }
        // The leader sends them again, and treats this member as lagging.
        if !request.entries.is_empty() && self.disk_state() == DiskState::Exhausted {
            return std::future::ready(not_here_reply("its disk is nearly full")).boxed();
        }
        let retained_after = request.retained_after;
        let request = match append_from_pb::<M>(request) {
            Ok(request) => request,
            Err(error) => return std::future::ready(not_here_reply(error.to_string())).boxed(),
        };
        let raft = self.raft().clone();
        let retention = self.retention().clone();
        let contact = self.shared_contact();
        let freshness = self.freshness();
        let unheard = freshness.is_unknown().then(|| freshness.clone());
        let (term, commit) = (request.vote.leader_id.term, request.leader_commit);
        async move {
            match raft.append_entries(request).await {
                Ok(response) => {
                    let accepted = !matches!(response, AppendEntriesResponse::HigherVote(_));
                    let commit = commit.map(|commit| (commit.leader_id.term, commit.index));
                    if accepted {
                        retention.record_announcement(retained_after);
                        contact.record_append(term, commit);
                    }
                    if let (Some(freshness), Some(commit), true) = (unheard, commit, accepted) {
                        freshness.record_commit(term, commit);
                    }
                    reply::Body::Append(append_to_pb::<M>(response))
                }
                Err(error) => not_here_reply(error.to_string()),
            }
        }
        .boxed()
    }

    fn vote(&self, request: pb::RequestVote) -> BoxFuture<'static, reply::Body> {
        let Some(vote) = request.vote.map(codec::vote_from_pb) else {
            return std::future::ready(not_here_reply("a vote is missing")).boxed();
        };
        if Instant::now() < self.voting_starts_at() && !request.transfer {
            let message = "it has restarted, and may have promised its vote";
            return std::future::ready(not_here_reply(message)).boxed();
        }
        if request.transfer {
            self.record_remote_transfer();
        }
        let mut rpc = VoteRequest::new(vote, request.last.map(codec::log_id_from_pb));
        rpc.leadership_transfer = request.transfer;
        let raft = self.raft().clone();
        async move {
            let answer = if request.pre {
                raft.pre_vote(rpc).await
            } else {
                raft.vote(rpc).await
            };
            match answer {
                Ok(answer) => reply::Body::Vote(pb::VoteReply {
                    vote: Some(codec::vote_to_pb(&answer.vote)),
                    granted: answer.vote_granted,
                    last: answer.last_log_id.as_ref().map(codec::log_id_to_pb),
                }),
                Err(error) => not_here_reply(error.to_string()),
            }
        }
        .boxed()
    }

    fn accept_leadership(&self, request: pb::TransferLeader) -> BoxFuture<'static, reply::Body> {
        let Some(from) = request.from.map(codec::vote_from_pb) else {
            return std::future::ready(not_here_reply("a vote is missing")).boxed();
        };
        let to = NodeId::from(request.to);
        if to == self.node() && !self.is_eligible_leader() {
            let refused = "this node may not lead".to_owned();
            let reply = reply::Body::Transfer(pb::TransferReply { refused });
            return std::future::ready(reply).boxed();
        }
        self.record_remote_transfer();
        let last = request.last.map(codec::log_id_from_pb);
        let rpc = TransferLeaderRequest::new(from, to, last);
        let raft = self.raft().clone();
        async move {
            let refused = match raft.handle_transfer_leader(rpc).await {
                Ok(Ok(())) => String::new(),
                Ok(Err(error)) => error.to_string(),
                Err(error) => error.to_string(),
            };
            reply::Body::Transfer(pb::TransferReply { refused })
        }
        .boxed()
    }

    fn is_in_repair(&self) -> bool {
        self.is_in_repair()
    }

    fn send_repair_snapshot(
        &self,
        to: NodeId,
        request: pb::SnapshotRequest,
    ) -> BoxFuture<'static, reply::Body> {
        std::future::ready(self.send_repair_snapshot(to, &request)).boxed()
    }

    fn install_snapshot(
        self: Arc<Self>,
        head: pb::SnapshotHeader,
        frames: SnapshotFrames,
        acks: SnapshotAcks,
    ) -> BoxFuture<'static, Result<pb::SnapshotReply, Status>> {
        if self.disk_state() != DiskState::Ample {
            let refused = Status::resource_exhausted("its disk is nearly full");
            return std::future::ready(Err(refused)).boxed();
        }
        async move { self.receive_snapshot(head, frames, acks).await }.boxed()
    }
}

fn append_from_pb<M: StateMachine>(
    request: pb::AppendEntries,
) -> std::io::Result<AppendEntriesRequest<super::types::TypeConfig<M>>> {
    let vote = request.vote.map(codec::vote_from_pb);
    let entries = request.entries.into_iter();
    let entries: Result<Vec<_>, _> = entries.map(codec::decode_entry::<M>).collect();
    Ok(AppendEntriesRequest {
        vote: vote.ok_or_else(|| std::io::Error::other("a vote is missing"))?,
        prev_log_id: request.previous.map(codec::log_id_from_pb),
        entries: entries?,
        leader_commit: request.commit.map(codec::log_id_from_pb),
    })
}

fn append_to_pb<M: StateMachine>(
    response: AppendEntriesResponse<super::types::TypeConfig<M>>,
) -> pb::AppendReply {
    use append_reply::Kind;
    let kind = match response {
        AppendEntriesResponse::Success => Kind::Stored(true),
        AppendEntriesResponse::PartialSuccess(upto) => Kind::Partly(pb::PartlyStored {
            upto: upto.as_ref().map(codec::log_id_to_pb),
        }),
        AppendEntriesResponse::Conflict => Kind::Conflict(true),
        AppendEntriesResponse::HigherVote(vote) => Kind::Higher(codec::vote_to_pb(&vote)),
    };
    pb::AppendReply { kind: Some(kind) }
}
