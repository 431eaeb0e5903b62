//! Display names of nodes: as short as they are unique.

use std::collections::BTreeMap;
use std::net::IpAddr;

use super::model::{Node, Status};

/// Names of all nodes, by number.
pub(super) struct Names(BTreeMap<u64, String>);

impl Names {
    /// Chooses a name for each node of a status.
    pub fn of(status: &Status) -> Self {
        let name = |node: &Node| {
            let name = match (is_own(status, node, short), is_own(status, node, full)) {
                (true, _) => short(node),
                (false, true) => full(node),
                // Several nodes on one host: no two have the same address.
                (false, false) => &node.rpc,
            };
            (node.id, name.to_owned())
        };
        Self(status.nodes.iter().map(name).collect())
    }

    /// Name of a node; its number if there is no other.
    pub fn get(&self, node: u64) -> String {
        let name = self.0.get(&node).filter(|name| !name.is_empty());
        name.cloned().unwrap_or_else(|| node.to_string())
    }

    /// Names of several nodes, sorted and separated by commas.
    pub fn list(&self, nodes: &[u64]) -> String {
        self.sorted(nodes.iter().copied()).join(", ")
    }

    /// Names of several nodes, sorted.
    pub fn sorted(&self, nodes: impl IntoIterator<Item = u64>) -> Vec<String> {
        let mut names: Vec<String> = nodes.into_iter().map(|node| self.get(node)).collect();
        names.sort_unstable();
        names
    }
}

/// Returns whether no other present node has the same name by `name_of`.
fn is_own(status: &Status, node: &Node, name_of: fn(&Node) -> &str) -> bool {
    let mut others = status.nodes.iter();
    !others
        .any(|other| other.id != node.id && !other.is_removed() && name_of(other) == name_of(node))
}

fn full(node: &Node) -> &str {
    &node.name
}

/// First label of a host name.
fn short(node: &Node) -> &str {
    if node.name.parse::<IpAddr>().is_ok() {
        return &node.name;
    }
    let first = node.name.split('.').next();
    first
        .filter(|first| !first.is_empty())
        .unwrap_or(&node.name)
}
