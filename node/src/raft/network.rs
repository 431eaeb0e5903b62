//! The other members of a group. A cluster has one node for now, so there are none: whoever asks
//! for one is told that it can't be reached.

use std::future::Future;
use std::io;

use openraft::errors::{RPCError, ReplicationClosed, StreamingError, Unreachable};
use openraft::network::RPCOption;
use openraft::raft::{
    AppendEntriesRequest, AppendEntriesResponse, SnapshotResponse, VoteRequest, VoteResponse,
};
use openraft::{BasicNode, RaftNetworkFactory, RaftNetworkV2};

use super::snapshot::SnapshotData;
use super::types::{CommittedLeaderId, Machine, NodeId, Types, Vote};

/// Makes clients of other members.
#[derive(Clone, Copy, Debug, Default)]
pub struct Network;

/// A client of a member that can't be reached.
#[derive(Debug)]
pub struct NoPeer(NodeId);

impl NoPeer {
    fn unreachable<M: Machine>(&self) -> Unreachable<Types<M>> {
        let why = format!("node {} is no member of this one-node cluster", self.0);
        Unreachable::new(&io::Error::new(io::ErrorKind::NotConnected, why))
    }
}

impl<M: Machine> RaftNetworkFactory<Types<M>> for Network {
    type Network = Peer<M>;

    async fn new_client(&mut self, target: NodeId, _node: &BasicNode) -> Self::Network {
        Peer {
            peer: NoPeer(target),
            machine: std::marker::PhantomData,
        }
    }
}

/// A client of one member, for the machine's group.
#[derive(Debug)]
pub struct Peer<M> {
    peer: NoPeer,
    machine: std::marker::PhantomData<M>,
}

impl<M: Machine> RaftNetworkV2<Types<M>> for Peer<M> {
    type SnapshotData = SnapshotData;

    async fn append_entries(
        &mut self,
        _rpc: AppendEntriesRequest<Types<M>>,
        _option: RPCOption,
    ) -> Result<AppendEntriesResponse<Types<M>>, RPCError<Types<M>>> {
        Err(self.peer.unreachable().into())
    }

    async fn vote(
        &mut self,
        _rpc: VoteRequest<Types<M>>,
        _option: RPCOption,
    ) -> Result<VoteResponse<Types<M>>, RPCError<Types<M>>> {
        Err(self.peer.unreachable().into())
    }

    async fn pre_vote(
        &mut self,
        _rpc: VoteRequest<Types<M>>,
        _option: RPCOption,
    ) -> Result<VoteResponse<Types<M>>, RPCError<Types<M>>> {
        Err(self.peer.unreachable().into())
    }

    async fn full_snapshot(
        &mut self,
        _vote: Vote,
        _snapshot: openraft::Snapshot<CommittedLeaderId, NodeId, BasicNode, SnapshotData>,
        _cancel: impl Future<Output = ReplicationClosed> + Send + 'static,
        _option: RPCOption,
    ) -> Result<SnapshotResponse<Types<M>>, StreamingError<Types<M>>> {
        Err(self.peer.unreachable().into())
    }
}
