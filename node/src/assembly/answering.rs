//! Dispatches the calls of other nodes and routers to the components that handle them.

use std::sync::Arc;
use std::time::Duration;

use cloudkv_proto::v1 as pb;
use cloudkv_proto::v1::{call, reply, snapshot_frame};
use futures_util::future::BoxFuture;
use futures_util::{FutureExt, StreamExt};
use tonic::Status;

use super::places::Places;
use crate::api::Api;
use crate::cluster::{Admission, Vitals};
use crate::geo::Geo;
use crate::raft::{Member, NodeId, not_here};
use crate::rpc::{Caller, Frames, Handler, SnapshotAcks, Walk};
use crate::service::Service;
use crate::store::DiskState;

/// Components that handle calls.
pub(super) struct Answers {
    /// Raft groups, by number.
    pub members: Vec<Arc<dyn Member>>,
    /// Failure detector, which builds the pongs.
    pub vitals: Arc<Vitals>,
    /// Handler of forwarded requests.
    pub service: Service,
    /// Handler of the calls of other regions.
    pub geo: Arc<Geo>,
    /// Admission of new nodes.
    pub admission: Arc<Admission>,
    /// Source of the topology for routers.
    pub places: Places,
    /// Handler of users' requests that come through routers.
    pub api: Arc<Api>,
}

impl Answers {
    fn member(&self, group: u32) -> Option<&Arc<dyn Member>> {
        self.members.get(usize::try_from(group).ok()?)
    }

    /// Numbers of the groups for which a predicate holds on this node.
    fn groups_where(&self, predicate: impl Fn(&dyn Member) -> bool) -> Vec<u32> {
        let groups = self.members.iter().enumerate();
        let selected = groups.filter(|(_, member)| predicate(&***member));
        selected
            .filter_map(|(group, _)| u32::try_from(group).ok())
            .collect()
    }

    /// Builds this node's reply to a ping.
    fn pong(&self) -> reply::Body {
        let disk_low = self.places.groups.space.state() != DiskState::Ample;
        let members = self.members.iter().zip(0..);
        let members = members.filter_map(|(member, group)| {
            let nodes = member.led_members()?;
            Some(pb::GroupMembers { group, nodes })
        });
        self.vitals.pong(pb::Pong {
            leads: self.groups_where(|it| it.leads()),
            members: members.collect(),
            damaged: self.groups_where(|it| it.is_in_repair()),
            disk_low,
            catching_up: self.is_catching_up(),
            ..Default::default()
        })
    }

    /// Returns whether this node should vote in a shard but doesn't yet, since it lacks the shard's
    /// state.
    fn is_catching_up(&self) -> bool {
        let groups = &self.places.groups;
        let topology = groups.catalog.topology();
        let Some(region) = topology.region_number(&groups.identity.region) else {
            return false;
        };
        let me = groups.identity.node_id;
        groups.shards.iter().zip(0..).any(|(shard, number)| {
            let placement = topology.placement(region, number);
            let should_vote = placement.is_some_and(|placement| placement.voters.contains(&me));
            should_vote && !shard.group().is_voter(me)
        })
    }

    /// Lets a group's member handle a call.
    fn with(
        &self,
        group: u32,
        handle: impl FnOnce(&Arc<dyn Member>) -> BoxFuture<'static, reply::Body>,
    ) -> BoxFuture<'static, reply::Body> {
        match self.member(group) {
            Some(member) => handle(member),
            None => std::future::ready(not_here("no such group")).boxed(),
        }
    }
}

impl Handler for Answers {
    fn answer(
        &self,
        from: NodeId,
        body: call::Body,
        timeout: Duration,
    ) -> BoxFuture<'static, reply::Body> {
        match body {
            call::Body::Append(append) => self.with(append.group, |member| member.append(append)),
            call::Body::Vote(vote) => self.with(vote.group, |member| member.vote(vote)),
            call::Body::Transfer(transfer) => {
                self.with(transfer.group, |member| member.transfer(transfer))
            }
            call::Body::Snapshot(request) => {
                self.with(request.group, |member| member.resend(from, request))
            }
            call::Body::Merge(merge) => self.geo.merge(merge),
            call::Body::Level(level) => self.geo.level(level),
            call::Body::Digest(query) => self.geo.digest(query),
            call::Body::Peer(query) => std::future::ready(self.geo.peer(&query)).boxed(),
            call::Body::Ping(_) => std::future::ready(self.pong()).boxed(),
            body => {
                let service = self.service.clone();
                async move { service.answer(from, body, timeout).await }.boxed()
            }
        }
    }

    fn join(
        &self,
        caller: Caller,
        request: pb::JoinRequest,
    ) -> BoxFuture<'static, Result<pb::JoinResponse, Status>> {
        let admission = self.admission.clone();
        async move { admission.admit(caller, request).await }.boxed()
    }

    fn serve(&self, request: pb::UserRequest, number: u64) -> BoxFuture<'static, pb::UserReply> {
        let api = self.api.clone();
        async move { api.serve_user(request, number).await }.boxed()
    }

    fn is_removed(&self, node: NodeId) -> bool {
        self.admission.catalog.topology().is_gone(node)
    }

    fn nodes(&self) -> Vec<pb::Member> {
        self.admission.catalog.topology().members()
    }

    fn topology(&self) -> pb::Topology {
        self.places.now()
    }

    fn walk(&self, request: pb::WalkRequest) -> Result<Walk, Status> {
        self.geo.walk(&request)
    }

    fn install(
        &self,
        mut frames: Frames,
        acks: SnapshotAcks,
    ) -> BoxFuture<'static, Result<pb::SnapshotReply, Status>> {
        let members = self.members.clone();
        async move {
            let first = frames.next().await.transpose()?;
            let Some(snapshot_frame::Kind::Head(head)) = first.and_then(|frame| frame.kind) else {
                return Err(Status::invalid_argument("a snapshot begins with its head"));
            };
            let member = usize::try_from(head.group)
                .ok()
                .and_then(|at| members.get(at));
            let member = member.ok_or_else(|| Status::not_found("no such group"))?;
            member.clone().install(head, frames, acks).await
        }
        .boxed()
    }
}
