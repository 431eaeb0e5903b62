//! What the operator's port does.

use std::net::IpAddr;
use std::sync::Arc;
use std::time::Duration;

use cloudkv_proto::v1::{self as pb, meta_command::Kind as Command};
use futures_util::future::BoxFuture;

use super::groups::Groups;
use crate::admin::{Departure, NamedNode, NodeChange, NodeError, Operations, RegionError};
use crate::cluster::{GroupView, outlook};
use crate::geo::{Comparison, Geo, VerifyError};
use crate::meta::{LEAVE_LEVEL, NodeInfo, NodeState, Topology};
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

    async fn change(
        &self,
        name: String,
        change: NodeChange,
        confirmed: bool,
    ) -> Result<NamedNode, NodeError> {
        let node = self.find(&name).await?;
        let name = node.display_name().to_owned();
        let done = NamedNode {
            node: node.id,
            name: name.clone(),
        };
        let state = match change {
            NodeChange::Decommission if node.state == NodeState::Leaving => return Ok(done),
            NodeChange::Decommission => {
                self.check_departure(&node, confirmed)?;
                NodeState::Leaving
            }
            NodeChange::Recommission => NodeState::Active,
            NodeChange::Replace if node.state == NodeState::Removed => return Ok(done),
            NodeChange::Replace => {
                if !self.falls_silent(node.id).await {
                    return Err(NodeError::Lives(name));
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

    /// The node that an operator names, by its number, its name or its address, in metadata as new
    /// as the leader's.
    async fn find(&self, name: &str) -> Result<NodeInfo, NodeError> {
        let barrier = self.directory.metadata().barrier().await;
        barrier.map_err(|error| NodeError::Unavailable(error.to_string()))?;
        named_node(&self.groups.catalog.topology(), name)
    }

    /// Refuses to decommission a node where that can't work, or leaves less than is wanted.
    fn check_departure(&self, node: &NodeInfo, confirmed: bool) -> Result<(), NodeError> {
        let departure = self.departure_of(node);
        if let Some(obstacle) = departure.obstacle {
            return Err(NodeError::Refused(obstacle));
        }
        if departure.worse && !confirmed {
            return Err(NodeError::Unconfirmed {
                name: departure.name,
                region: departure.region,
                now: departure.survives_now,
                without: departure.survives_without,
            });
        }
        Ok(())
    }

    fn departure_of(&self, node: &NodeInfo) -> Departure {
        let topology = self.groups.catalog.topology();
        let region = topology.region_name(node.region).unwrap_or("?").to_owned();
        let mut departure = Departure {
            node: node.id,
            name: node.display_name().to_owned(),
            region: region.clone(),
            state: format!("{:?}", node.state).to_lowercase(),
            survives_now: String::new(),
            survives_without: String::new(),
            metadata_voters_now: 0,
            metadata_voters_without: 0,
            worse: false,
            obstacle: None,
            groups: Vec::new(),
        };
        if node.state == NodeState::Removed {
            departure.obstacle = Some(format!("node {} was removed already", departure.name));
            return departure;
        }
        let shards: Vec<_> = self.groups.shards.iter().cloned().collect();
        let view = GroupView {
            me: self.groups.identity.node_id,
            topology: &topology,
            meta: &self.groups.meta,
            shards: &shards,
            vitals: &self.groups.vitals,
        };
        let held = view.held_by(node);
        departure.groups = held.iter().map(ToString::to_string).collect();
        let (voters, _) = self.groups.meta.members();
        let is_alive = |id| self.is_alive(id);
        let shards = self.groups.identity.shards;
        match outlook(&topology, shards, node, &voters, is_alive) {
            Ok(outlook) => {
                departure.survives_now = outlook.now.to_string();
                departure.survives_without = outlook.without.to_string();
                departure.metadata_voters_now = outlook.now.metadata_voters;
                departure.metadata_voters_without = outlook.without.metadata_voters;
                departure.worse = outlook.without.is_less_than(&outlook.now);
            }
            Err(obstacle) => {
                let name_of = |id| {
                    let node = topology.node(id);
                    node.map_or_else(|| id.to_string(), |node| node.display_name().to_owned())
                };
                departure.obstacle = Some(obstacle.describe(&departure.name, &region, name_of));
            }
        }
        departure
    }

    fn is_alive(&self, node: NodeId) -> bool {
        node == self.groups.identity.node_id || self.groups.vitals.lives(node)
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
        let lives = |node: &NodeId| self.is_alive(*node);
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
        name: String,
        change: NodeChange,
        confirmed: bool,
    ) -> BoxFuture<'_, Result<NamedNode, NodeError>> {
        Box::pin(self.change(name, change, confirmed))
    }

    fn departure(&self, name: String) -> BoxFuture<'_, Result<Departure, NodeError>> {
        Box::pin(async move { Ok(self.departure_of(&self.find(&name).await?)) })
    }

    fn remove_region(&self, name: String) -> BoxFuture<'_, Result<(), RegionError>> {
        Box::pin(self.remove(name))
    }

    fn verify(&self, shard: u16) -> BoxFuture<'_, Result<Comparison, VerifyError>> {
        Box::pin(self.geo.verify(shard))
    }
}

/// The node that is meant by its number, its name, the first part of that, or its `rpc` address.
fn named_node(topology: &Topology, name: &str) -> Result<NodeInfo, NodeError> {
    if let Some(node) = name.parse().ok().and_then(|id| topology.node(id)) {
        return Ok(node.clone());
    }
    let there = || {
        let nodes = topology.nodes().iter();
        nodes.filter(|node| node.state != NodeState::Removed)
    };
    let exact = |node: &&NodeInfo| node.display_name() == name || node.rpc == name;
    let first_part = |node: &&NodeInfo| {
        let host = node.display_name();
        host.parse::<IpAddr>().is_err() && host.split('.').next() == Some(name)
    };
    let mut found: Vec<&NodeInfo> = there().filter(exact).collect();
    if found.is_empty() {
        found = there().filter(first_part).collect();
    }
    match found[..] {
        [] => Err(NodeError::Unknown(name.to_owned())),
        [node] => Ok(node.clone()),
        _ => Err(NodeError::Ambiguous {
            name: name.to_owned(),
            nodes: found
                .iter()
                .map(|node| format!("{} ({})", node.rpc, node.id))
                .collect(),
        }),
    }
}
