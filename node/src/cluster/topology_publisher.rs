//! Publishes the topology to routers: regions, nodes, endpoints and leaders.

use std::sync::Arc;

use cloudkv_proto::v1 as pb;
use tokio_util::sync::CancellationToken;

use super::LocalGroups;
use crate::meta::{NodeInfo, NodeState, Topology};
use crate::shard::ShardHandle;
use crate::types::NodeId;

/// Source of the topology as this node knows it.
pub(crate) struct TopologyPublisher {
    /// Groups of this node.
    pub groups: Arc<LocalGroups>,
    /// Cancelled when a stop is requested, well before the node stops.
    pub stop: CancellationToken,
}

impl TopologyPublisher {
    /// Returns the current topology.
    pub(crate) fn topology(&self) -> pb::Topology {
        let identity = &self.groups.identity;
        // Read first, so that it is never ahead of the topology that is sent with it.
        let position = self.groups.meta.progress().applied_index();
        let topology = self.groups.catalog.topology();
        let me = identity.node_id;
        let shards = self.groups.shards.iter();
        pb::Topology {
            cluster_id: identity.cluster_id.clone(),
            node_id: me.into(),
            region: region_number(&topology, &identity.region),
            shards: u32::from(identity.shards),
            draining: self.stop.is_cancelled(),
            regions: topology
                .region_names()
                .map(|(number, name)| pb::TopologyRegion {
                    number,
                    name: name.to_owned(),
                })
                .collect(),
            nodes: nodes(&topology),
            leaders: shards.map(|shard| leader(shard, me)).collect(),
            position,
        }
    }
}

/// Number of this node's region; 0 before the cluster is bootstrapped.
fn region_number(topology: &Topology, name: &str) -> u32 {
    topology.region_number(name).unwrap_or(0)
}

fn nodes(topology: &Topology) -> Vec<pb::TopologyNode> {
    let node = |node: &NodeInfo| pb::TopologyNode {
        id: node.id.into(),
        region: node.region,
        rpc: node.rpc.clone(),
        http: node.http.clone(),
        state: node.state.to_pb().into(),
    };
    let all = topology.nodes().iter();
    all.filter(|node| node.state != NodeState::Removed)
        .map(node)
        .collect()
}

fn leader(shard: &ShardHandle, me: NodeId) -> pb::ShardLeader {
    let here = shard.is_serving();
    let leader = if here {
        Some(me)
    } else {
        shard.remote_leader()
    };
    pb::ShardLeader {
        leader: leader.map_or(0, u64::from),
        ready: leader.is_some(),
        here,
    }
}
