//! Bootstrap of a cluster, its first command: name, number of shards, first region and plans, and
//! the first node in a cluster of several nodes.

use std::io;

use cloudkv_proto::v1 as pb;

use super::command_refusal::{CommandRefusal, CommandResult};
use super::feature_level::check_feature_level;
use super::node_refusal::NodeRefusal;
use super::nodes::check_text_lengths;
use super::state::MetaState;
use super::topology::{NodeInfo, NodeState, Placement};
use crate::raft::NodeId;
use crate::store::RowBatch;
use crate::types::Nanos;

/// Number of a cluster's first region.
const FIRST_REGION: u32 = 1;
/// Maximum number of shards of a region: one less than the number of groups, because one is the
/// metadata.
const MAX_SHARDS: u16 = u16::MAX;

impl MetaState {
    pub(super) fn bootstrap(
        &mut self,
        time: Nanos,
        bootstrap: &pb::BootstrapCluster,
        batch: &mut RowBatch,
    ) -> io::Result<CommandResult> {
        check_feature_level(bootstrap.level)?;
        if !self.header.cluster_id.is_empty() {
            return Ok(Err(CommandRefusal::AlreadyBootstrapped));
        }
        let first_node_info = match first_node(time, bootstrap) {
            Ok(first_node_info) => first_node_info,
            Err(refusal) => return Ok(Err(refusal.into())),
        };
        self.header.cluster_id.clone_from(&bootstrap.cluster_id);
        self.header.shards = bootstrap.shards;
        self.header.level = bootstrap.level;
        let region = pb::Region {
            number: FIRST_REGION,
            name: bootstrap.region.clone(),
            incarnation: bootstrap.incarnation,
            joining: false,
            bootstrap_node: bootstrap.node,
            leaving: false,
        };
        self.header.regions = vec![region];
        self.header.regions_epoch = 1;
        for plan in &bootstrap.plans {
            self.put_plan(plan, batch)?;
        }
        if let Some((node, shards)) = first_node_info {
            self.place_on_first_node(node, shards, batch)?;
        }
        Ok(Ok(()))
    }

    /// Places every shard of the first region on the node that bootstraps the cluster.
    fn place_on_first_node(
        &mut self,
        node: NodeInfo,
        shards: u16,
        batch: &mut RowBatch,
    ) -> io::Result<()> {
        let placement = Placement {
            epoch: 1,
            voters: vec![node.id],
            learners: Vec::new(),
        };
        self.put_node(node, batch)?;
        for shard in 0..shards {
            self.put_placement(FIRST_REGION, shard, placement.clone(), batch)?;
        }
        Ok(())
    }
}

/// Returns the node that bootstraps the cluster and the number of shards; `None` if no node is
/// named.
fn first_node(
    time: Nanos,
    bootstrap: &pb::BootstrapCluster,
) -> Result<Option<(NodeInfo, u16)>, NodeRefusal> {
    let Some(id) = NodeId::nonzero(bootstrap.node) else {
        return Ok(None);
    };
    let shards = u16::try_from(bootstrap.shards).map_err(|_| NodeRefusal::TooManyShards {
        limit: u64::from(MAX_SHARDS),
    })?;
    check_text_lengths(&bootstrap.rpc, &bootstrap.http, &bootstrap.version)?;
    let node = NodeInfo {
        id,
        region: FIRST_REGION,
        rpc: bootstrap.rpc.clone(),
        http: bootstrap.http.clone(),
        state: NodeState::Active,
        level: bootstrap.level,
        version: bootstrap.version.clone(),
        joined_at: time,
        name: String::new(),
        removed_at: 0,
    };
    Ok(Some((node, shards)))
}
