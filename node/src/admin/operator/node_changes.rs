//! Decommissions, recommissions and replaces nodes.

use std::sync::Arc;

use cloudkv_proto::v1::{self as pb, meta_command::Kind as Command};

use super::decommission_report::report_decommission;
use super::metadata_voters::describe_metadata_voters;
use super::node_lookup::{find_by_name, name_with_successor};
use super::node_loss::wait_until_lost;
use super::replacement_check::check_replacement;
use crate::admin::{DecommissionReport, NamedNode, NodeChange, NodeError};
use crate::cluster::LocalGroups;
use crate::meta::{NodeInfo, NodeState};
use crate::service::MetadataClient;

/// Changes nodes, in metadata that is as new as the leader's.
pub(super) struct NodeChanger {
    pub metadata: MetadataClient,
    pub groups: Arc<LocalGroups>,
}

impl NodeChanger {
    /// Changes the membership of the node that `name` names.
    pub(super) async fn apply(
        &self,
        name: String,
        change: NodeChange,
        confirmed: bool,
    ) -> Result<NamedNode, NodeError> {
        let node = self.find_node(&name).await?;
        let (name, successor) = name_with_successor(&self.groups.catalog.topology(), &node);
        let named = |is_changed| NamedNode {
            node: node.id,
            name: name.clone(),
            is_changed,
            successor: successor.clone(),
        };
        let state = match change {
            NodeChange::Decommission if node.state == NodeState::Decommissioning => {
                return Ok(named(false));
            }
            NodeChange::Decommission => {
                self.check_decommission(&node, confirmed)?;
                NodeState::Decommissioning
            }
            NodeChange::Recommission if node.state == NodeState::Removed => {
                return Err(NodeError::Removed { name, successor });
            }
            NodeChange::Recommission if node.state == NodeState::Active => {
                return Ok(named(false));
            }
            NodeChange::Recommission => NodeState::Active,
            NodeChange::Replace if node.state == NodeState::Removed => return Ok(named(false)),
            NodeChange::Replace => {
                if !wait_until_lost(&self.groups, node.id).await {
                    return Err(NodeError::StillAlive(name));
                }
                check_replacement(&self.groups.catalog.topology(), &node)?;
                NodeState::Removed
            }
        };
        let command = Command::SetNodeState(pb::SetNodeState {
            node: node.id.into(),
            state: state.to_pb().into(),
            ..Default::default()
        });
        match self.metadata.propose(command).await {
            Ok(Ok(())) => Ok(named(true)),
            Ok(Err(refusal)) => Err(NodeError::Refused(refusal.to_string())),
            Err(error) => Err(NodeError::Unavailable(error.to_string())),
        }
    }

    /// Reports the consequences of decommissioning the node that `name` names, and the progress.
    pub(super) async fn decommission_report(
        &self,
        name: String,
    ) -> Result<DecommissionReport, NodeError> {
        let node = self.find_node(&name).await?;
        Ok(report_decommission(&self.groups, &node))
    }

    /// Finds a node by its number, its name or its address, in metadata that is as new as the
    /// leader's.
    async fn find_node(&self, name: &str) -> Result<NodeInfo, NodeError> {
        let barrier = self.metadata.barrier().await;
        barrier.map_err(|error| {
            let state = describe_metadata_voters(&self.groups);
            NodeError::Unavailable(format!("{error}: {state}"))
        })?;
        find_by_name(&self.groups.catalog.topology(), name)
    }

    /// Returns an error if a node can't be decommissioned, or if its region would tolerate less
    /// afterwards and that isn't confirmed.
    fn check_decommission(&self, node: &NodeInfo, confirmed: bool) -> Result<(), NodeError> {
        let report = report_decommission(&self.groups, node);
        if let Some(obstacle) = report.obstacle {
            return Err(NodeError::Refused(obstacle));
        }
        if report.worse && !confirmed {
            return Err(NodeError::Unconfirmed {
                name: report.name,
                region: report.region,
                now: report.survives_now,
                without: report.survives_without,
                is_reachable: self.groups.is_alive(node.id),
            });
        }
        Ok(())
    }
}
