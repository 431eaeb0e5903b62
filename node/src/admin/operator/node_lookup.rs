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
        [] if topology.nodes().iter().any(|node| exact(&node)) => {
            Err(NodeError::Removed(name.to_owned()))
        }
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
