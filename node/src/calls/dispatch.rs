//! Passes each call of another node or a router to the component that it is for.

use std::sync::Arc;
use std::time::Duration;

use cloudkv_proto::v1 as pb;
use cloudkv_proto::v1::{call, reply, snapshot_frame};
use futures_util::future::BoxFuture;
use futures_util::{FutureExt, StreamExt};
use tonic::Status;

use super::log_query::answer_log_query;
use super::pong::pong;
use crate::admin::RejoinParticipant;
use crate::api::Api;
use crate::cluster::{Admission, LocalGroups, TopologyPublisher};
use crate::geo::GeoReplication;
use crate::meta::{Catalog, NodeState};
use crate::raft::{RaftMember, not_here_reply};
use crate::rpc::{
    BulkCopyStream, PeerIdentity, RpcHandler, ScanStream, ShardScanStream, SnapshotAcks,
    SnapshotFrames,
};
use crate::service::Service;
use crate::store::DiskSpace;
use crate::types::NodeId;

/// Reply to a removed node that still calls the members of a group.
const EXPELLED_MESSAGE: &str = "the caller was removed from the cluster";

/// Components that handle calls.
pub(crate) struct CallHandlers {
    /// Groups of this node.
    pub groups: Arc<LocalGroups>,
    /// The same as handlers of the calls of their other members, by number.
    pub members: Vec<Arc<dyn RaftMember>>,
    /// Free space of the disk.
    pub disk_space: Arc<DiskSpace>,
    /// Handler of forwarded requests.
    pub service: Service,
    /// Handler of the calls of other regions.
    pub geo: Arc<GeoReplication>,
    /// Admission of new nodes.
    pub admission: Arc<Admission>,
    /// Source of the topology for routers.
    pub topology_publisher: TopologyPublisher,
    /// Handler of users' requests that come through routers.
    pub api: Arc<Api>,
    /// Participant in a recovery of this node's region.
    pub rejoin: Arc<RejoinParticipant>,
}

impl CallHandlers {
    fn member(&self, group: u32) -> Option<&Arc<dyn RaftMember>> {
        self.members.get(usize::try_from(group).ok()?)
    }

    /// Lets a group's member handle a call of another member.
    fn call_member(
        &self,
        from: NodeId,
        group: u32,
        handle: impl FnOnce(&Arc<dyn RaftMember>) -> BoxFuture<'static, reply::Body>,
    ) -> BoxFuture<'static, reply::Body> {
        match self.member(group) {
            Some(member) if is_expelled(from, member.as_ref(), &self.groups.catalog) => {
                std::future::ready(not_here_reply(EXPELLED_MESSAGE)).boxed()
            }
            Some(member) => handle(member),
            None => std::future::ready(not_here_reply("no such group")).boxed(),
        }
    }
}

/// Returns whether a caller was removed from the cluster, and doesn't vote in the group as this
/// node knows it. It may not know that yet; and if the group was recovered without it, its log
/// contradicts the group's.
fn is_expelled(caller: NodeId, member: &dyn RaftMember, catalog: &Catalog) -> bool {
    let topology = catalog.topology();
    let known = topology.node(caller);
    known.is_some_and(|node| node.state == NodeState::Removed) && !member.is_voter(caller)
}

impl RpcHandler for CallHandlers {
    fn handle_call(
        &self,
        from: NodeId,
        body: call::Body,
        timeout: Duration,
    ) -> BoxFuture<'static, reply::Body> {
        match body {
            call::Body::Append(append) => {
                self.call_member(from, append.group, |member| member.append(append))
            }
            call::Body::Vote(vote) => {
                self.call_member(from, vote.group, |member| member.vote(vote))
            }
            call::Body::Transfer(transfer) => self.call_member(from, transfer.group, |member| {
                member.accept_leadership(transfer)
            }),
            call::Body::Snapshot(request) => self.call_member(from, request.group, |member| {
                member.send_repair_snapshot(from, request)
            }),
            call::Body::Merge(merge) => self.geo.handle_merge(merge),
            call::Body::Reconcile(reconcile) => self.geo.handle_reconcile(reconcile),
            call::Body::Digest(query) => self.geo.handle_digest_query(query),
            call::Body::Peer(query) => {
                std::future::ready(self.geo.handle_peer_query(&query)).boxed()
            }
            call::Body::Ping(_) => {
                let reply = pong(&self.groups, &self.members, &self.disk_space);
                std::future::ready(reply).boxed()
            }
            call::Body::Log(query) => answer_log_query(self.groups.clone(), query).boxed(),
            call::Body::Rejoin(call) => {
                let rejoin = self.rejoin.clone();
                async move { rejoin.handle(from, call).await }.boxed()
            }
            body => {
                let service = self.service.clone();
                async move { service.handle_call(from, body, timeout).await }.boxed()
            }
        }
    }

    fn join(
        &self,
        caller: PeerIdentity,
        request: pb::JoinRequest,
    ) -> BoxFuture<'static, Result<pb::JoinResponse, Status>> {
        let admission = self.admission.clone();
        async move { admission.admit(caller, request).await }.boxed()
    }

    fn handle_user_request(
        &self,
        request: pb::UserRequest,
        number: u64,
    ) -> BoxFuture<'static, pb::UserReply> {
        let api = self.api.clone();
        async move { api.handle_user_request(request, number).await }.boxed()
    }

    fn is_removed(&self, node: NodeId) -> bool {
        self.groups.catalog.topology().is_removed(node)
    }

    fn nodes(&self) -> Vec<pb::Member> {
        self.groups.catalog.topology().members()
    }

    fn topology(&self) -> pb::Topology {
        self.topology_publisher.topology()
    }

    fn bulk_copy(&self, request: pb::BulkCopyRequest) -> Result<BulkCopyStream, Status> {
        self.geo.start_bulk_copy(&request)
    }

    fn scan_bucket(&self, request: pb::ScanRequest) -> Result<ScanStream, Status> {
        self.service.exports.serve_scan(&request)
    }

    fn scan_shard(&self, request: pb::ShardScanRequest) -> Result<ShardScanStream, Status> {
        self.service.scans.serve(request)
    }

    fn install_snapshot(
        &self,
        mut frames: SnapshotFrames,
        acks: SnapshotAcks,
    ) -> BoxFuture<'static, Result<pb::SnapshotReply, Status>> {
        let (members, catalog) = (self.members.clone(), self.groups.catalog.clone());
        async move {
            let first = frames.next().await.transpose()?;
            let Some(snapshot_frame::Kind::Header(head)) = first.and_then(|frame| frame.kind)
            else {
                return Err(Status::invalid_argument("a snapshot begins with its head"));
            };
            let member = usize::try_from(head.group)
                .ok()
                .and_then(|at| members.get(at));
            let member = member.ok_or_else(|| Status::not_found("no such group"))?;
            let leader = NodeId::from(head.vote.as_ref().map_or(0, |vote| vote.candidate));
            if is_expelled(leader, member.as_ref(), &catalog) {
                return Err(Status::permission_denied(EXPELLED_MESSAGE));
            }
            member.clone().install_snapshot(head, frames, acks).await
        }
        .boxed()
    }
}
