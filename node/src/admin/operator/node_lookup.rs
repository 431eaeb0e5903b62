//! Finds the node that an operator names.

use std::net::IpAddr;

use crate::admin::NodeError;
use crate::meta::{NodeInfo, NodeState, Topology};

/// Finds a node by its number, its name, the first label of that, or its `rpc` address.
pub(super) fn find_by_name(topology: &Topology, name: &str) -> Result<NodeInfo, NodeError> {
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
        [] if topology.nodes().iter().any(|node| exact(&node)) => Err(NodeError::Removed {
            name: name.to_owned(),
            successor: None,
        }),
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

/// Names a node, and the present node at its address with its number if it was removed. Then the
/// name of the removed one is its number, since they may have the same name.
pub(super) fn name_with_successor(
    topology: &Topology,
    node: &NodeInfo,
) -> (String, Option<String>) {
    let Some(successor) = find_successor(topology, node) else {
        return (topology.unique_name(node).to_owned(), None);
    };
    let name = topology.unique_name(successor);
    (
        node.id.to_string(),
        Some(format!("{name} ({})", successor.id)),
    )
}

/// Returns the present node at the address of a removed one, if there is one.
fn find_successor<'a>(topology: &'a Topology, node: &NodeInfo) -> Option<&'a NodeInfo> {
    if node.state != NodeState::Removed {
        return None;
    }
    let mut nodes = topology.nodes().iter();
    nodes.find(|other| other.state != NodeState::Removed && other.rpc == node.rpc)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::types::NodeId;

    fn node(number: u64, state: NodeState) -> NodeInfo {
        NodeInfo {
            id: NodeId::from(number),
            region: 1,
            rpc: "n1:7070".to_owned(),
            http: "n1:8080".to_owned(),
            state,
            level: 1,
            version: String::new(),
            joined_at: 1,
            name: String::new(),
            removed_at: 0,
        }
    }

    #[test]
    fn the_node_at_the_address_of_a_removed_one_is_named() {
        let removed = node(1, NodeState::Removed);
        let mut topology = Topology::default();
        topology.put_node(removed.clone());
        let names = name_with_successor(&topology, &removed);
        assert_eq!(names, ("n1".to_owned(), None));
        let present = node(2, NodeState::Active);
        topology.put_node(present.clone());
        let names = name_with_successor(&topology, &present);
        assert_eq!(names, ("n1".to_owned(), None));
        let (name, successor) = name_with_successor(&topology, &removed);
        let refusal = NodeError::Removed { name, successor };
        assert_eq!(
            refusal.to_string(),
            "node 1 was removed from the cluster already; n1 (2) is at its address now"
        );
    }
}
