//! Display names of nodes: as short as they are unique.

use std::collections::BTreeMap;
use std::net::IpAddr;

use super::model::{NodeReport, StatusReport};
use crate::types::NodeId;

/// Names of all nodes, by number.
pub(super) struct NodeNames(BTreeMap<NodeId, NodeName>);

struct NodeName {
    /// Name in texts, with the number where another node has the same.
    shown: String,
    /// Name by which commands find the node.
    argument: String,
}

impl NodeNames {
    /// Chooses a name for each node of a status.
    pub(super) fn of(status: &StatusReport) -> Self {
        let nodes = status.nodes.iter();
        let nodes: Vec<(&NodeReport, &str)> =
            nodes.map(|node| (node, base_name(status, node))).collect();
        let name = |(node, base): &(&NodeReport, &str)| {
            let others = nodes.iter().filter(|(other, _)| other.id != node.id);
            let same: Vec<&NodeReport> = others
                .filter(|(_, other_base)| other_base == base)
                .map(|(other, _)| *other)
                .collect();
            let has_number = !same.is_empty() && !base.is_empty();
            // Commands find present nodes by name.
            let is_found = !node.is_removed() && same.iter().all(|other| other.is_removed());
            let name = NodeName {
                shown: if has_number {
                    format!("{base} ({})", node.id)
                } else {
                    (*base).to_owned()
                },
                argument: if is_found && !base.is_empty() {
                    (*base).to_owned()
                } else {
                    node.id.to_string()
                },
            };
            (node.id, name)
        };
        Self(nodes.iter().map(name).collect())
    }

    /// Name of a node in texts; its number if there is no other.
    pub(super) fn get(&self, node: NodeId) -> String {
        let name = self.0.get(&node).map(|name| &name.shown);
        let name = name.filter(|name| !name.is_empty());
        name.cloned().unwrap_or_else(|| node.to_string())
    }

    /// Name of a node as an argument of a command.
    pub(super) fn argument(&self, node: NodeId) -> String {
        let name = self.0.get(&node).map(|name| name.argument.clone());
        name.unwrap_or_else(|| node.to_string())
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

/// Shortest name of a node that no two present nodes have. A removed node may share it with one
/// that came in its place.
fn base_name<'a>(status: &StatusReport, node: &'a NodeReport) -> &'a str {
    if is_unique(status, node, short_name) {
        short_name(node)
    } else if is_unique(status, node, full_name) {
        full_name(node)
    } else {
        // Several nodes on one host: no two present ones have the same address.
        &node.rpc
    }
}

/// Returns whether at most one present node has a node's name by `name_of`.
fn is_unique(status: &StatusReport, node: &NodeReport, name_of: fn(&NodeReport) -> &str) -> bool {
    let present = status.nodes.iter().filter(|other| !other.is_removed());
    let same_name = present.filter(|other| name_of(other) == name_of(node));
    same_name.count() <= 1
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
