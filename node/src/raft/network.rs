//! Clients of a group's other members, as openraft calls them.
//!
//! Appends are pipelined: several are in flight to a member, and its responses come in the same
//! order. Every call has a deadline of its own: one that hangs would stop the replication to a
//! member.

use std::future::Future;
use std::io;
use std::marker::PhantomData;
use std::sync::Arc;
use std::time::{Duration, Instant};

use cloudkv_proto::v1 as pb;
use cloudkv_proto::v1::{append_reply, call, reply};
use futures_util::future::BoxFuture;
use futures_util::stream::{self, BoxStream, Stream, StreamExt};
use openraft::errors::{NetworkError, RPCError, ReplicationClosed, StreamingError, Unreachable};
use openraft::network::{Backoff, RPCOption};
use openraft::raft::{
    AppendEntriesRequest, AppendEntriesResponse, SnapshotResponse, StreamAppendResult,
    TransferLeaderRequest, TransferLeaderResponse, VoteRequest, VoteResponse,
};
use openraft::{BasicNode, RaftNetworkFactory, RaftNetworkV2};
use tokio::sync::Semaphore;

use super::ack_tracker::AckTracker;
use super::codec;
use super::commit_coalescer::CommitCoalescer;
use super::log_retention::LogRetention;
use super::snapshot::SnapshotData;
use super::snapshot_sender::send_snapshot;
use super::snapshot_transfers::SnapshotTransfers;
use super::types::{CommittedLeaderId, LogId, StateMachine, TypeConfig, Vote};
use crate::rpc::{CallError, Peers, PendingReply, StreamKind};
use crate::store::keys::GroupId;
use crate::types::NodeId;

/// Maximum number of appends in flight to one member of one group.
const MAX_INFLIGHT_APPENDS: usize = 8;
/// Maximum bytes of their entries. Over a slow network more would time out, and be sent again.
const MAX_INFLIGHT_APPEND_BYTES: usize = 512 << 10;
/// Maximum time for which the commit notification of a shard waits for entries to be sent with. Its
/// followers apply so much later.
const MAX_COMMIT_DELAY: Duration = Duration::from_millis(20);
/// Backoff before an unreachable member is tried again.
const UNREACHABLE_BACKOFF: Duration = Duration::from_millis(100);
/// Backoff before another snapshot is sent to a member, after one that failed.
const SNAPSHOT_BACKOFF: Duration = Duration::from_millis(500);

/// Creates clients of a group's other members.
#[derive(Clone)]
pub(super) struct NetworkFactory {
    peers: Arc<Peers>,
    group: GroupId,
    append_timeout: Duration,
    /// Maximum time for which a commit notification waits for entries to be sent with.
    max_commit_delay: Duration,
    acks: Arc<AckTracker>,
    transfers: Arc<SnapshotTransfers>,
    retention: Arc<LogRetention>,
}

impl NetworkFactory {
    /// Creates the clients of the group of `transfers`; an append without a response within
    /// `append_timeout` is sent again. Responses are recorded in `acks`, snapshots in `transfers`;
    /// `retention` is announced.
    pub(super) fn new(
        peers: Arc<Peers>,
        append_timeout: Duration,
        acks: Arc<AckTracker>,
        transfers: Arc<SnapshotTransfers>,
        retention: Arc<LogRetention>,
    ) -> Self {
        let group = transfers.group();
        Self {
            peers,
            group,
            append_timeout,
            max_commit_delay: if group == GroupId::META {
                Duration::ZERO
            } else {
                MAX_COMMIT_DELAY
            },
            acks,
            transfers,
            retention,
        }
    }
}

impl<M: StateMachine> RaftNetworkFactory<TypeConfig<M>> for NetworkFactory {
    type Network = MemberClient<M>;

    async fn new_client(&mut self, target: NodeId, node: &BasicNode) -> Self::Network {
        // The metadata has newer addresses; this one serves until they are received.
        if !self.peers.contains(target) {
            self.peers.set_address(target, &node.addr);
        }
        MemberClient {
            network: self.clone(),
            target,
            machine: PhantomData,
        }
    }
}

/// Client of one member, for the machine's group.
pub(super) struct MemberClient<M> {
    network: NetworkFactory,
    target: NodeId,
    machine: PhantomData<M>,
}

type RpcResult<M, T> = Result<T, RPCError<TypeConfig<M>>>;

impl<M: StateMachine> MemberClient<M> {
    fn start_call(&self, body: call::Body, timeout: Duration) -> Result<PendingReply, CallError> {
        let peers = &self.network.peers;
        peers.start_call(self.target, StreamKind::Raft, body, timeout)
    }

    async fn call(&self, body: call::Body, timeout: Duration) -> RpcResult<M, reply::Body> {
        let reply = match self.start_call(body, timeout) {
            Ok(pending) => pending.wait().await,
            Err(error) => Err(error),
        };
        reply.map_err(call_failed)
    }

    /// Starts an append; the future returns its response.
    fn append(
        &self,
        request: AppendEntriesRequest<TypeConfig<M>>,
    ) -> impl Future<Output = RpcResult<M, StreamAppendResult<TypeConfig<M>>>> + Send + use<M> {
        let previous = request.prev_log_id;
        let last = request
            .entries
            .last()
            .map(|entry| entry.log_id)
            .or(previous);
        let body = pb::AppendEntries {
            retained_after: self.network.retention.announcement(),
            ..append_to_pb(self.network.group, &request)
        };
        let (acks, target, term) = (
            self.network.acks.clone(),
            self.target,
            request.vote.leader_id.term,
        );
        let sent = Instant::now();
        let started = self.start_call(call::Body::Append(body), self.network.append_timeout);
        async move {
            let reply = match started {
                Ok(pending) => pending.wait().await,
                Err(error) => Err(error),
            };
            let response = append_from_pb::<M>(reply.map_err(call_failed)?)?;
            match &response {
                AppendEntriesResponse::Success | AppendEntriesResponse::PartialSuccess(_) => {
                    acks.record(target, term, sent);
                }
                AppendEntriesResponse::Conflict | AppendEntriesResponse::HigherVote(_) => {}
            }
            if matches!(response, AppendEntriesResponse::Conflict) && previous.is_none() {
                return Err(invalid_reply("a conflict before the log's first entry"));
            }
            Ok(response.into_stream_result(previous, last))
        }
    }

    fn vote_body(&self, rpc: &VoteRequest<TypeConfig<M>>, pre: bool) -> call::Body {
        call::Body::Vote(pb::RequestVote {
            group: u32::from(self.network.group.0),
            vote: Some(codec::vote_to_pb(&rpc.vote)),
            last: rpc.last_log_id.as_ref().map(codec::log_id_to_pb),
            pre,
            transfer: rpc.leadership_transfer,
        })
    }

    async fn request_vote(
        &self,
        rpc: VoteRequest<TypeConfig<M>>,
        pre: bool,
    ) -> RpcResult<M, VoteResponse<TypeConfig<M>>> {
        let body = self.vote_body(&rpc, pre);
        match self.call(body, self.network.append_timeout).await? {
            reply::Body::Vote(answer) => {
                let vote = answer.vote.map(codec::vote_from_pb);
                let vote = vote.ok_or_else(|| invalid_reply("the response has no vote"))?;
                let last = answer.last.map(codec::log_id_from_pb);
                Ok(VoteResponse::new(vote, last, answer.granted))
            }
            other => Err(call_refused(other)),
        }
    }
}

/// Permits that an append takes of the window: one that is larger is sent alone.
fn window_permits<M: StateMachine>(request: &AppendEntriesRequest<TypeConfig<M>>) -> u32 {
    let entries = request.entries.iter();
    let bytes: usize = entries.map(codec::entry_len::<M>).sum();
    u32::try_from(bytes.clamp(1, MAX_INFLIGHT_APPEND_BYTES)).unwrap_or(1)
}

fn append_to_pb<M: StateMachine>(
    group: GroupId,
    request: &AppendEntriesRequest<TypeConfig<M>>,
) -> pb::AppendEntries {
    let entries = request.entries.iter();
    pb::AppendEntries {
        group: u32::from(group.0),
        vote: Some(codec::vote_to_pb(&request.vote)),
        previous: request.prev_log_id.as_ref().map(codec::log_id_to_pb),
        commit: request.leader_commit.as_ref().map(codec::log_id_to_pb),
        entries: entries
            .map(|entry| codec::encode_entry::<M>(entry).into())
            .collect(),
        retained_after: None,
    }
}

fn append_from_pb<M: StateMachine>(
    reply: reply::Body,
) -> RpcResult<M, AppendEntriesResponse<TypeConfig<M>>> {
    use append_reply::Kind;
    let reply::Body::Append(answer) = reply else {
        return Err(call_refused(reply));
    };
    Ok(match answer.kind {
        Some(Kind::Stored(_)) => AppendEntriesResponse::Success,
        Some(Kind::Partly(partly)) => {
            AppendEntriesResponse::PartialSuccess(partly.upto.map(codec::log_id_from_pb))
        }
        Some(Kind::Conflict(_)) => AppendEntriesResponse::Conflict,
        Some(Kind::Higher(vote)) => AppendEntriesResponse::HigherVote(codec::vote_from_pb(vote)),
        None => return Err(invalid_reply("the response to an append is empty")),
    })
}

fn call_failed<M: StateMachine>(error: CallError) -> RPCError<TypeConfig<M>> {
    match error {
        // Retried after a backoff.
        CallError::Unsent | CallError::Busy => Unreachable::new(&error).into(),
        // It has already taken its time.
        CallError::Lost => NetworkError::new(&error).into(),
    }
}

fn invalid_reply<M: StateMachine>(what: &'static str) -> RPCError<TypeConfig<M>> {
    NetworkError::new(&io::Error::new(io::ErrorKind::InvalidData, what)).into()
}

fn call_refused<M: StateMachine>(reply: reply::Body) -> RPCError<TypeConfig<M>> {
    let message = match reply {
        reply::Body::Refused(refused) => refused.message,
        _ => "the response is of another kind than the call".to_owned(),
    };
    Unreachable::new(&io::Error::other(message)).into()
}

impl<M: StateMachine> RaftNetworkV2<TypeConfig<M>> for MemberClient<M> {
    type SnapshotData = SnapshotData;

    async fn append_entries(
        &mut self,
        rpc: AppendEntriesRequest<TypeConfig<M>>,
        _option: RPCOption,
    ) -> RpcResult<M, AppendEntriesResponse<TypeConfig<M>>> {
        self.append(rpc).await.map(AppendEntriesResponse::from)
    }

    fn stream_append<'s, S>(
        &'s mut self,
        input: S,
        _option: RPCOption,
    ) -> BoxFuture<'s, RpcResult<M, BoxStream<'s, RpcResult<M, StreamAppendResult<TypeConfig<M>>>>>>
    where
        S: Stream<Item = AppendEntriesRequest<TypeConfig<M>>> + Send + Unpin + 'static,
    {
        let window = Arc::new(Semaphore::new(MAX_INFLIGHT_APPEND_BYTES));
        // An append is sent when it is taken from the input, and fits the window: in order.
        let responses = CommitCoalescer::<M, S>::new(input, self.network.max_commit_delay)
            .then(move |request| {
                let permit = window.clone().acquire_many_owned(window_permits(&request));
                async move { (request, permit.await) }
            })
            .map(|(request, permit)| {
                let response = self.append(request);
                async move {
                    let response = response.await;
                    drop(permit);
                    response
                }
            })
            .buffered(MAX_INFLIGHT_APPENDS);
        let responses = Box::pin(responses);
        // Responses that follow one which isn't a full success are meaningless.
        let responses = stream::unfold(Some(responses), |responses| async move {
            let mut responses = responses?;
            let response = responses.next().await?;
            let is_success = matches!(response, Ok(Ok(_)));
            Some((response, is_success.then_some(responses)))
        });
        let responses: BoxStream<'s, _> = responses.boxed();
        Box::pin(std::future::ready(Ok(responses)))
    }

    async fn vote(
        &mut self,
        rpc: VoteRequest<TypeConfig<M>>,
        _option: RPCOption,
    ) -> RpcResult<M, VoteResponse<TypeConfig<M>>> {
        self.request_vote(rpc, false).await
    }

    async fn pre_vote(
        &mut self,
        rpc: VoteRequest<TypeConfig<M>>,
        _option: RPCOption,
    ) -> RpcResult<M, VoteResponse<TypeConfig<M>>> {
        self.request_vote(rpc, true).await
    }

    async fn full_snapshot(
        &mut self,
        vote: Vote,
        snapshot: openraft::Snapshot<CommittedLeaderId, NodeId, BasicNode, SnapshotData>,
        cancel: impl Future<Output = ReplicationClosed> + Send + 'static,
        _option: RPCOption,
    ) -> Result<SnapshotResponse<TypeConfig<M>>, StreamingError<TypeConfig<M>>> {
        let transfers = &self.network.transfers;
        let mut cancel = std::pin::pin!(cancel);
        let index = snapshot.meta.last_log_id.map_or(0, |last| last.index);
        let peers = &self.network.peers;
        let sent = send_snapshot(
            peers,
            transfers,
            self.target,
            snapshot.snapshot,
            &vote,
            index,
        );
        let sent = tokio::select! {
            closed = &mut cancel => return Err(closed.into()),
            sent = sent => sent,
        };
        match sent {
            Ok(vote) => Ok(SnapshotResponse::new(vote)),
            Err(status) => tokio::select! {
                closed = &mut cancel => Err(closed.into()),
                () = tokio::time::sleep(SNAPSHOT_BACKOFF) => {
                    Err(Unreachable::new(&status).into())
                }
            },
        }
    }

    async fn transfer_leader(
        &mut self,
        request: TransferLeaderRequest<TypeConfig<M>>,
        _option: RPCOption,
    ) -> RpcResult<M, TransferLeaderResponse<TypeConfig<M>>> {
        let last: Option<LogId> = request.last_log_id().copied();
        let body = call::Body::Transfer(pb::TransferLeader {
            group: u32::from(self.network.group.0),
            from: Some(codec::vote_to_pb(request.from_leader())),
            to: u64::from(*request.to_node_id()),
            last: last.as_ref().map(codec::log_id_to_pb),
        });
        match self.call(body, self.network.append_timeout).await? {
            reply::Body::Transfer(answer) if answer.refused.is_empty() => Ok(Ok(())),
            reply::Body::Transfer(answer) => {
                Err(NetworkError::new(&io::Error::other(answer.refused)).into())
            }
            other => Err(call_refused(other)),
        }
    }

    fn backoff(&self) -> Option<Backoff> {
        Some(Backoff::new(std::iter::repeat(UNREACHABLE_BACKOFF)))
    }
}
