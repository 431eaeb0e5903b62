//! Display names of nodes: as short as they are unique.

use std::collections::BTreeMap;
use std::net::IpAddr;

use super::model::{NodeReport, StatusReport};
use crate::types::NodeId;

/// Names of all nodes, by number.
pub(super) struct NodeNames(BTreeMap<NodeId, String>);

impl NodeNames {
    /// Chooses a name for each node of a status.
    pub(super) fn of(status: &StatusReport) -> Self {
        let name = |node: &NodeReport| {
            let name = match (
                is_unique(status, node, short_name),
                is_unique(status, node, full_name),
            ) {
                (true, _) => short_name(node),
                (false, true) => full_name(node),
                // Several nodes on one host: no two have the same address.
                (false, false) => &node.rpc,
            };
            (node.id, name.to_owned())
        };
        Self(status.nodes.iter().map(name).collect())
    }

    /// Name of a node; its number if there is no other.
    pub(super) fn get(&self, node: NodeId) -> String {
        let name = self.0.get(&node).filter(|name| !name.is_empty());
        name.cloned().unwrap_or_else(|| node.to_string())
    }

    /// Names of several nodes, sorted and separated by commas.
    pub(super) fn list(&self, nodes: &[NodeId]) -> String {
        self.sorted(nodes.iter().copied()).join(", ")
    }

    /// Names of several nodes, sorted.
    pub(super) fn sorted(&self, nodes: impl IntoIterator<Item = NodeId>) -> Vec<String> {
        let mut names: Vec<String> = nodes.into_iter().map(|node| self.get(node)).collect();
        names.sort_unstable();
        names
    }
}

/// Returns whether no other present node has the same name by `name_of`.
fn is_unique(status: &StatusReport, node: &NodeReport, name_of: fn(&NodeReport) -> &str) -> bool {
    let mut others = status.nodes.iter();
    !others
        .any(|other| other.id != node.id && !other.is_removed() && name_of(other) == name_of(node))
}

fn full_name(node: &NodeReport) -> &str {
    &node.name
}

/// First label of a host name.
fn short_name(node: &NodeReport) -> &str {
    if node.name.parse::<IpAddr>().is_ok() {
        return &node.name;
    }
    let first = node.name.split('.').next();
    first
        .filter(|first| !first.is_empty())
        .unwrap_or(&node.name)
}
