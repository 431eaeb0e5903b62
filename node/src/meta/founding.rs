//! The first command of a cluster: its name, its shards, its first region and plans, and, in a
//! cluster of several nodes, the node that forms it.

use std::io;

use cloudkv_proto::v1 as pb;

use super::buckets::Refusal;
use super::node_refusal::NodeRefusal;
use super::nodes::check_texts;
use super::state::{MetaState, Response, check_level};
use super::topology::{NodeInfo, NodeState, Placement};
use crate::store::Batch;
use crate::types::Nanos;

/// The first region of a cluster.
const FIRST_REGION: u32 = 1;
/// The most shards of a region: one less than there are groups, as the metadata is one.
const MAX_SHARDS: u16 = u16::MAX;

impl MetaState {
    pub(super) fn found(
        &mut self,
        time: Nanos,
        found: &pb::FoundCluster,
        batch: &mut Batch,
    ) -> io::Result<Response> {
        check_level(found.level)?;
        if !self.header.cluster_id.is_empty() {
            return Ok(Err(Refusal::Founded));
        }
        let first = match first_node(time, found) {
            Ok(first) => first,
            Err(refusal) => return Ok(Err(refusal.into())),
        };
        self.header.cluster_id.clone_from(&found.cluster_id);
        self.header.shards = found.shards;
        self.header.level = found.level;
        let region = pb::Region {
            number: FIRST_REGION,
            name: found.region.clone(),
            incarnation: found.incarnation,
            joining: false,
            founder: found.node,
            leaving: false,
        };
        self.header.regions = vec![region];
        self.header.regions_epoch = 1;
        for plan in &found.plans {
            self.put_plan(plan, batch)?;
        }
        if let Some((node, shards)) = first {
            self.place_on_first(node, shards, batch)?;
        }
        Ok(Ok(()))
    }

    /// Places every shard of the first region on the node that founds the cluster.
    fn place_on_first(
        &mut self,
        first: NodeInfo,
        shards: u16,
        batch: &mut Batch,
    ) -> io::Result<()> {
        let placement = Placement {
            epoch: 1,
            voters: vec![first.id],
            learners: Vec::new(),
        };
        self.put_node(first, batch)?;
        for shard in 0..shards {
            self.put_placement(FIRST_REGION, shard, placement.clone(), batch)?;
        }
        Ok(())
    }
}

/// The node that founds the cluster and the number of its shards; `None` if none is named.
fn first_node(
    time: Nanos,
    found: &pb::FoundCluster,
) -> Result<Option<(NodeInfo, u16)>, NodeRefusal> {
    if found.node == 0 {
        return Ok(None);
    }
    let shards = u16::try_from(found.shards).map_err(|_| NodeRefusal::TooManyShards {
        limit: u64::from(MAX_SHARDS),
    })?;
    check_texts(&found.rpc, &found.http, &found.version)?;
    let node = NodeInfo {
        id: found.node,
        region: FIRST_REGION,
        rpc: found.rpc.clone(),
        http: found.http.clone(),
        state: NodeState::Active,
        level: found.level,
        version: found.version.clone(),
        joined_at: time,
        name: String::new(),
        removed_at: 0,
    };
    Ok(Some((node, shards)))
}
