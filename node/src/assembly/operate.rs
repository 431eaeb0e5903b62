//! What the operator's port does.

use std::sync::Arc;
use std::time::Duration;

use cloudkv_proto::v1::{self as pb, meta_command::Kind as Command};
use futures_util::future::BoxFuture;

use super::groups::Groups;
use crate::admin::{NodeChange, NodeError, Operations};
use crate::meta::NodeState;
use crate::raft::NodeId;
use crate::service::{
    BucketId, Directory, DirectoryError, Plan, PlanChanges, PlanError, PlanTerms,
};

/// Carries out what operators ask for.
pub(super) struct Operator {
    pub directory: Directory,
    pub groups: Arc<Groups>,
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
}
