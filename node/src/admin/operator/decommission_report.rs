//! Reports the consequences of decommissioning a node.

use super::node_lookup::name_with_successor;
use crate::admin::DecommissionReport;
use crate::admin::node_change::describe_successor;
use crate::cluster::{LocalGroups, MembershipView, assess_decommission};
use crate::meta::{NodeInfo, NodeState, Topology};

/// Reports the consequences of decommissioning a node, and the progress.
pub(super) fn report_decommission(groups: &LocalGroups, node: &NodeInfo) -> DecommissionReport {
    let topology = groups.catalog.topology();
    let mut report = empty_report(&topology, node);
    if node.state == NodeState::Removed {
        let (name, successor) = name_with_successor(&topology, node);
        let successor = describe_successor(successor.as_deref());
        report.obstacle = Some(format!("node {name} was removed already{successor}"));
        return report;
    }
    let view = MembershipView {
        me: groups.identity.node_id,
        topology: &topology,
        meta: &groups.meta,
        shards: &groups.shards,
        failure_detector: &groups.failure_detector,
    };
    let still_needed = view.groups_needing(node);
    report.groups = still_needed.iter().map(ToString::to_string).collect();
    let (voters, _) = groups.meta.members();
    let is_alive = |id| groups.is_alive(id);
    let shards = groups.identity.shards;
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
                node.map_or_else(
                    || id.to_string(),
                    |node| topology.unique_name(node).to_owned(),
                )
            };
            report.obstacle = Some(obstacle.describe(&report.name, &report.region, name_of));
        }
    }
    report
}

fn empty_report(topology: &Topology, node: &NodeInfo) -> DecommissionReport {
    let region = topology.region_name(node.region).unwrap_or("?").to_owned();
    DecommissionReport {
        node: node.id,
        name: topology.unique_name(node).to_owned(),
        region,
        state: node.state.name().to_owned(),
        survives_now: String::new(),
        survives_without: String::new(),
        metadata_voters_now: 0,
        metadata_voters_without: 0,
        worse: false,
        obstacle: None,
        groups: Vec::new(),
    }
}
