//! Operations of the admin port.

use std::net::IpAddr;
use std::sync::Arc;
use std::time::Duration;

use cloudkv_proto::v1::{self as pb, meta_command::Kind as Command};
use futures_util::future::BoxFuture;

use super::groups::Groups;
use crate::admin::{DecommissionReport, NamedNode, NodeChange, NodeError, Operations, RegionError};
use crate::cluster::{MembershipView, assess_decommission};
use crate::geo::{GeoReplication, RegionComparison, VerifyError};
use crate::meta::{NodeInfo, NodeState, REGION_REMOVAL_LEVEL, Topology};
use crate::raft::NodeId;
use crate::service::{
    BucketId, Directory, DirectoryError, Plan, PlanChanges, PlanError, PlanTerms,
};

/// Carries out the operations of the admin port.
pub(super) struct Operator {
    pub directory: Directory,
    pub groups: Arc<Groups>,
    pub geo: Arc<GeoReplication>,
}

/// Time to wait for a node that was just lost, since it may still count as alive for a moment.
const NODE_LOSS_TIMEOUT: Duration = Duration::from_secs(3);

impl Operator {
    /// Waits until a node isn't alive any more. Returns whether that is so before the timeout.
    async fn wait_until_lost(&self, node: NodeId) -> bool {
        if self.groups.identity.node_id == node {
            return false;
        }
        let silent = async {
            while self.groups.failure_detector.is_alive(node) {
                tokio::time::sleep(Duration::from_millis(100)).await;
            }
        };
        tokio::time::timeout(NODE_LOSS_TIMEOUT, silent)
            .await
            .is_ok()
    }

    async fn apply_node_change(
        &self,
        name: String,
        change: NodeChange,
        confirmed: bool,
    ) -> Result<NamedNode, NodeError> {
        let node = self.find_node(&name).await?;
        let name = self.groups.catalog.topology().unique_name(&node).to_owned();
        let done = NamedNode {
            node: node.id,
            name: name.clone(),
        };
        let state = match change {
            NodeChange::Decommission if node.state == NodeState::Decommissioning => {
                return Ok(done);
            }
            NodeChange::Decommission => {
                self.check_decommission(&node, confirmed)?;
                NodeState::Decommissioning
            }
            NodeChange::Recommission => NodeState::Active,
            NodeChange::Replace if node.state == NodeState::Removed => return Ok(done),
            NodeChange::Replace => {
                if !self.wait_until_lost(node.id).await {
                    return Err(NodeError::StillAlive(name));
                }
                NodeState::Removed
            }
        };
        let command = Command::SetNodeState(pb::SetNodeState {
            node: node.id,
            state: state.to_pb().into(),
            ..Default::default()
        });
        match self.directory.metadata().propose(command).await {
            Ok(Ok(())) => Ok(done),
            Ok(Err(refusal)) => Err(NodeError::Refused(refusal.to_string())),
            Err(error) => Err(NodeError::Unavailable(error.to_string())),
        }
    }

    /// Finds a node by its number, its name or its address, in metadata that is as new as the
    /// leader's.
    async fn find_node(&self, name: &str) -> Result<NodeInfo, NodeError> {
        let barrier = self.directory.metadata().barrier().await;
        barrier.map_err(|error| NodeError::Unavailable(error.to_string()))?;
        find_by_name(&self.groups.catalog.topology(), name)
    }

    /// Returns an error if a node can't be decommissioned, or if its region would tolerate less
    /// afterwards and that isn't confirmed.
    fn check_decommission(&self, node: &NodeInfo, confirmed: bool) -> Result<(), NodeError> {
        let report = self.decommission_report_of(node);
        if let Some(obstacle) = report.obstacle {
            return Err(NodeError::Refused(obstacle));
        }
        if report.worse && !confirmed {
            return Err(NodeError::Unconfirmed {
                name: report.name,
                region: report.region,
                now: report.survives_now,
                without: report.survives_without,
            });
        }
        Ok(())
    }

    fn decommission_report_of(&self, node: &NodeInfo) -> DecommissionReport {
        let topology = self.groups.catalog.topology();
        let region = topology.region_name(node.region).unwrap_or("?").to_owned();
        let mut report = DecommissionReport {
            node: node.id,
            name: topology.unique_name(node).to_owned(),
            region: region.clone(),
            state: node.state.name().to_owned(),
            survives_now: String::new(),
            survives_without: String::new(),
            metadata_voters_now: 0,
            metadata_voters_without: 0,
            worse: false,
            obstacle: None,
            groups: Vec::new(),
        };
        if node.state == NodeState::Removed {
            report.obstacle = Some(format!("node {} was removed already", report.name));
            return report;
        }
        let shards: Vec<_> = self.groups.shards.iter().cloned().collect();
        let view = MembershipView {
            me: self.groups.identity.node_id,
            topology: &topology,
            meta: &self.groups.meta,
            shards: &shards,
            failure_detector: &self.groups.failure_detector,
        };
        let still_needed = view.groups_needing(node);
        report.groups = still_needed.iter().map(ToString::to_string).collect();
        let (voters, _) = self.groups.meta.members();
        let is_alive = |id| self.is_alive(id);
        let shards = self.groups.identity.shards;
        match assess_decommission(&topology, shards, node, &voters, is_alive) {
            Ok(outlook) => {
                report.survives_now = outlook.now.to_string();
                report.survives_without = outlook.without_node.to_string();
                report.metadata_voters_now = outlook.now.metadata_voters;
                report.metadata_voters_without = outlook.without_node.metadata_voters;
                report.worse = outlook.without_node.is_less_than(&outlook.now);
            }
            Err(obstacle) => {
                let name_of = |id| {
                    let node = topology.node(id);
                    node.map_or_else(|| id.to_string(), |node| topology.unique_name(node).to_owned())
                };
                report.obstacle = Some(obstacle.describe(&report.name, &region, name_of));
            }
        }
        report
    }

    fn is_alive(&self, node: NodeId) -> bool {
        node == self.groups.identity.node_id || self.groups.failure_detector.is_alive(node)
    }

    async fn propose_region_removal(&self, name: String) -> Result<(), RegionError> {
        let metadata = self.directory.metadata();
        if let Err(error) = metadata.barrier().await {
            let state = self.describe_metadata_voters();
            return Err(RegionError::Unavailable(format!("{error}: {state}")));
        }
        let topology = self.groups.catalog.topology();
        let number = topology.region_number(&name);
        let number = number.ok_or_else(|| RegionError::Unknown(name.clone()))?;
        if topology
            .region(number)
            .is_some_and(|region| region.is_removing)
        {
            return Ok(());
        }
        let is_outdated = |node: &&NodeInfo| {
            node.state != NodeState::Removed && node.level < REGION_REMOVAL_LEVEL
        };
        let outdated: Vec<NodeId> = topology
            .nodes()
            .iter()
            .filter(is_outdated)
            .map(|it| it.id)
            .collect();
        if self.groups.catalog.header().level < REGION_REMOVAL_LEVEL && !outdated.is_empty() {
            return Err(RegionError::OldNodes(outdated));
        }
        for node in topology.nodes_of(number) {
            if !self.wait_until_lost(node.id).await {
                let (region, node) = (name, node.id);
                return Err(RegionError::StillAlive { region, node });
            }
        }
        if self.groups.catalog.header().level < REGION_REMOVAL_LEVEL {
            let reason = "the metadata's feature level is about to rise: try again in a moment";
            return Err(RegionError::Unavailable(reason.to_owned()));
        }
        let command = Command::RemoveRegion(pb::RemoveRegion { name });
        match metadata.propose(command).await {
            Ok(Ok(())) => Ok(()),
            Ok(Err(refusal)) => Err(RegionError::Refused(refusal.to_string())),
            Err(error) => Err(RegionError::Unavailable(error.to_string())),
        }
    }

    /// Describes the metadata's voters, and which of them are alive.
    fn describe_metadata_voters(&self) -> String {
        let topology = self.groups.catalog.topology();
        let (voters, _) = self.groups.meta.members();
        let is_alive = |node: &NodeId| self.is_alive(*node);
        let named = |node: &NodeId| {
            let region = topology.node(*node).map(|node| node.region);
            let region = region.and_then(|region| topology.region_name(region));
            format!("{node} ({})", region.unwrap_or("?"))
        };
        let all: Vec<String> = voters.iter().map(named).collect();
        let alive: Vec<String> = voters.iter().filter(|it| is_alive(it)).map(named).collect();
        let needed = voters.len() / 2 + 1;
        format!(
            "the metadata's voters are {}; alive: {}; {needed} of them are needed: start some of \
             the others first",
            all.join(", "),
            if alive.is_empty() {
                "none".to_owned()
            } else {
                alive.join(", ")
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
        name: String,
        change: NodeChange,
        confirmed: bool,
    ) -> BoxFuture<'_, Result<NamedNode, NodeError>> {
        Box::pin(self.apply_node_change(name, change, confirmed))
    }

    fn decommission_report(
        &self,
        name: String,
    ) -> BoxFuture<'_, Result<DecommissionReport, NodeError>> {
        Box::pin(async move { Ok(self.decommission_report_of(&self.find_node(&name).await?)) })
    }

    fn remove_region(&self, name: String) -> BoxFuture<'_, Result<(), RegionError>> {
        Box::pin(self.propose_region_removal(name))
    }

    fn verify(&self, shard: u16) -> BoxFuture<'_, Result<RegionComparison, VerifyError>> {
        Box::pin(self.geo.verify(shard))
    }
}

/// Finds a node by its number, its name, the first label of that, or its `rpc` address.
fn find_by_name(topology: &Topology, name: &str) -> Result<NodeInfo, NodeError> {
    if let Some(node) = name.parse().ok().and_then(|id| topology.node(id)) {
        return Ok(node.clone());
    }
    let present = || {
        let nodes = topology.nodes().iter();
        nodes.filter(|node| node.state != NodeState::Removed)
    };
    let exact = |node: &&NodeInfo| node.display_name() == name || node.rpc == name;
    let first_label = |node: &&NodeInfo| {
        let host = node.display_name();
        host.parse::<IpAddr>().is_err() && host.split('.').next() == Some(name)
    };
    let mut matches: Vec<&NodeInfo> = present().filter(exact).collect();
    if matches.is_empty() {
        matches = present().filter(first_label).collect();
    }
    match matches[..] {
        [] => Err(NodeError::Unknown(name.to_owned())),
        [node] => Ok(node.clone()),
        _ => Err(NodeError::Ambiguous {
            name: name.to_owned(),
            nodes: matches
                .iter()
                .map(|node| format!("{} ({})", node.rpc, node.id))
                .collect(),
        }),
    }
}
