//! What nodes are called: as short as it is clear.

use std::collections::BTreeMap;
use std::net::IpAddr;

use super::model::{Node, Status};

/// The names of all nodes, by their numbers.
pub(super) struct Names(BTreeMap<u64, String>);

impl Names {
    pub fn of(status: &Status) -> Self {
        let name = |node: &Node| {
            let name = match (is_own(status, node, short), is_own(status, node, full)) {
                (true, _) => short(node),
                (false, true) => full(node),
                // Several nodes of one host: no two have the same address.
                (false, false) => &node.rpc,
            };
            (node.id, name.to_owned())
        };
        Self(status.nodes.iter().map(name).collect())
    }

    /// What a node is called; its number if there is nothing better.
    pub fn get(&self, node: u64) -> String {
        let name = self.0.get(&node).filter(|name| !name.is_empty());
        name.cloned().unwrap_or_else(|| node.to_string())
    }

    /// Several of them, in the order of their names, with commas.
    pub fn list(&self, nodes: &[u64]) -> String {
        self.sorted(nodes.iter().copied()).join(", ")
    }

    /// What several nodes are called, in order.
    pub fn sorted(&self, nodes: impl IntoIterator<Item = u64>) -> Vec<String> {
        let mut names: Vec<String> = nodes.into_iter().map(|node| self.get(node)).collect();
        names.sort_unstable();
        names
    }
}

/// Whether no other node that is there is called the same by `call`.
fn is_own(status: &Status, node: &Node, call: fn(&Node) -> &str) -> bool {
    let mut others = status.nodes.iter();
    !others.any(|other| other.id != node.id && !other.is_removed() && call(other) == call(node))
}

fn full(node: &Node) -> &str {
    &node.name
}

/// The first part of a host's name.
fn short(node: &Node) -> &str {
    if node.name.parse::<IpAddr>().is_ok() {
        return &node.name;
    }
    let first = node.name.split('.').next();
    first
        .filter(|first| !first.is_empty())
        .unwrap_or(&node.name)
}
