//! What the operator's port does.

use std::sync::Arc;
use std::time::Duration;

use cloudkv_proto::v1::{self as pb, meta_command::Kind as Command};
use futures_util::future::BoxFuture;

use super::groups::Groups;
use crate::admin::{NodeChange, NodeError, Operations, RegionError};
use crate::geo::{Comparison, Geo, VerifyError};
use crate::meta::{LEAVE_LEVEL, NodeInfo, NodeState};
use crate::raft::NodeId;
use crate::service::{
    BucketId, Directory, DirectoryError, Plan, PlanChanges, PlanError, PlanTerms,
};

/// Carries out what operators ask for.
pub(super) struct Operator {
    pub directory: Directory,
    pub groups: Arc<Groups>,
    pub geo: Arc<Geo>,
}

/// A node that was just lost may still count as living for a moment: waited for this long.
const SILENT_WITHIN: Duration = Duration::from_secs(3);

impl Operator {
    /// Whether nothing is heard of a node.
    async fn falls_silent(&self, node: NodeId) -> bool {
        if self.groups.identity.node_id == node {
            return false;
        }
        let silent = async {
            while self.groups.vitals.lives(node) {
                tokio::time::sleep(Duration::from_millis(100)).await;
            }
        };
        tokio::time::timeout(SILENT_WITHIN, silent).await.is_ok()
    }

    async fn change(&self, node: NodeId, change: NodeChange) -> Result<(), NodeError> {
        self.directory
            .metadata()
            .barrier()
            .await
            .map_err(|error| NodeError::Unavailable(error.to_string()))?;
        let topology = self.groups.catalog.topology();
        let known = topology.node(node).ok_or(NodeError::Unknown(node))?;
        let state = match change {
            NodeChange::Decommission => NodeState::Leaving,
            NodeChange::Recommission => NodeState::Active,
            NodeChange::Replace if known.state == NodeState::Removed => return Ok(()),
            NodeChange::Replace => {
                if !self.falls_silent(node).await {
                    return Err(NodeError::Lives(node));
                }
                NodeState::Removed
            }
        };
        let command = Command::SetNodeState(pb::SetNodeState {
            node,
            state: state.to_pb().into(),
        });
        match self.directory.metadata().propose(command).await {
            Ok(Ok(())) => Ok(()),
            Ok(Err(refusal)) => Err(NodeError::Refused(refusal.to_string())),
            Err(error) => Err(NodeError::Unavailable(error.to_string())),
        }
    }

    async fn remove(&self, name: String) -> Result<(), RegionError> {
        let metadata = self.directory.metadata();
        if let Err(error) = metadata.barrier().await {
            let state = self.metadata_state();
            return Err(RegionError::Unavailable(format!("{error}: {state}")));
        }
        let topology = self.groups.catalog.topology();
        let number = topology.region_number(&name);
        let number = number.ok_or_else(|| RegionError::Unknown(name.clone()))?;
        if topology.region(number).is_some_and(|region| region.leaving) {
            return Ok(());
        }
        let old = |node: &&NodeInfo| node.state != NodeState::Removed && node.level < LEAVE_LEVEL;
        let old: Vec<NodeId> = topology
            .nodes()
            .iter()
            .filter(old)
            .map(|it| it.id)
            .collect();
        if self.groups.catalog.header().level < LEAVE_LEVEL && !old.is_empty() {
            return Err(RegionError::OldNodes(old));
        }
        for node in topology.nodes_of(number) {
            if !self.falls_silent(node.id).await {
                let (region, node) = (name, node.id);
                return Err(RegionError::Lives { region, node });
            }
        }
        if self.groups.catalog.header().level < LEAVE_LEVEL {
            let later = "the metadata is about to take its new form: try again in a moment";
            return Err(RegionError::Unavailable(later.to_owned()));
        }
        let command = Command::RemoveRegion(pb::RemoveRegion { name });
        match metadata.propose(command).await {
            Ok(Ok(())) => Ok(()),
            Ok(Err(refusal)) => Err(RegionError::Refused(refusal.to_string())),
            Err(error) => Err(RegionError::Unavailable(error.to_string())),
        }
    }

    /// Who votes in the metadata, and who of them is heard of.
    fn metadata_state(&self) -> String {
        let topology = self.groups.catalog.topology();
        let (voters, _) = self.groups.meta.members();
        let lives = |node: &NodeId| {
            *node == self.groups.identity.node_id || self.groups.vitals.lives(*node)
        };
        let named = |node: &NodeId| {
            let region = topology.node(*node).map(|node| node.region);
            let region = region.and_then(|region| topology.region_name(region));
            format!("{node} ({})", region.unwrap_or("?"))
        };
        let all: Vec<String> = voters.iter().map(named).collect();
        let heard: Vec<String> = voters.iter().filter(|it| lives(it)).map(named).collect();
        let needed = voters.len() / 2 + 1;
        format!(
            "the metadata's voters are {}; heard of: {}; {needed} of them have to be there. Bring \
             some of the others back first",
            all.join(", "),
            if heard.is_empty() {
                "none".to_owned()
            } else {
                heard.join(", ")
            },
        )
    }
}

impl Operations for Operator {
    fn plans(&self) -> Vec<(Plan, PlanTerms)> {
        self.directory.plans()
    }

    fn set_plan_limits(
        &self,
        plan: Plan,
        changes: PlanChanges,
    ) -> BoxFuture<'_, Result<PlanTerms, PlanError>> {
        Box::pin(self.directory.set_plan_limits(plan, changes))
    }

    fn set_bucket_plan(
        &self,
        bucket: BucketId,
        plan: Plan,
    ) -> BoxFuture<'_, Result<(), DirectoryError>> {
        Box::pin(self.directory.set_bucket_plan(bucket, plan))
    }

    fn change_node(
        &self,
        node: NodeId,
        change: NodeChange,
    ) -> BoxFuture<'_, Result<(), NodeError>> {
        Box::pin(self.change(node, change))
    }

    fn remove_region(&self, name: String) -> BoxFuture<'_, Result<(), RegionError>> {
        Box::pin(self.remove(name))
    }

    fn verify(&self, shard: u16) -> BoxFuture<'_, Result<Comparison, VerifyError>> {
        Box::pin(self.geo.verify(shard))
    }
}
