//! What this version supports of the metadata log.

use std::io;

use super::topology::{NodeState, Topology};

/// Highest feature level that this version supports.
pub(crate) const MAX_FEATURE_LEVEL: u32 = 2;

/// First level with a default time to live of buckets.
pub(crate) const DEFAULT_TTL_LEVEL: u32 = 2;

/// First level with the command that restores metadata.
pub(super) const RESTORE_LEVEL: u32 = 2;

/// Checks that this version supports a feature level.
pub(super) fn check_feature_level(level: u32) -> io::Result<()> {
    if level > MAX_FEATURE_LEVEL {
        Err(unsupported_item("a feature level"))
    } else {
        Ok(())
    }
}

/// Returns the highest feature level that all nodes and this version support; nodes that are down
/// count. `None` if no node is registered.
pub(crate) fn supported_level(topology: &Topology) -> Option<u32> {
    common_level(topology, MAX_FEATURE_LEVEL)
}

/// Returns the lowest level of all nodes, or that of this version, `own`, if it is lower.
fn common_level(topology: &Topology, own: u32) -> Option<u32> {
    let nodes = topology.nodes().iter();
    let nodes = nodes.filter(|node| node.state != NodeState::Removed);
    nodes.map(|node| node.level.min(own)).min()
}

/// Builds the error of an item that a later version has written.
pub(super) fn unsupported_item(item: &str) -> io::Error {
    let message = format!(
        "the metadata has {item} that this version of cloudkv-node does not support: \
         upgrade it"
    );
    io::Error::new(io::ErrorKind::Unsupported, message)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::meta::NodeInfo;
    use crate::raft::NodeId;

    /// Creates a region with nodes of these levels, from node 1 on.
    fn nodes_of_levels(levels: &[u32]) -> Topology {
        let mut topology = Topology::default();
        for (number, level) in (1_u64..).zip(levels) {
            topology.put_node(NodeInfo {
                id: NodeId::from(number),
                region: 1,
                rpc: format!("n{number}:7070"),
                http: format!("n{number}:8080"),
                state: NodeState::Active,
                level: *level,
                version: String::new(),
                joined_at: 1,
                name: String::new(),
                removed_at: 0,
            });
        }
        topology
    }

    #[test]
    fn the_cluster_supports_what_all_nodes_support_that_are_not_removed() {
        assert_eq!(supported_level(&nodes_of_levels(&[])), None);
        assert_eq!(supported_level(&nodes_of_levels(&[1, 1, 1])), Some(1));
        assert_eq!(common_level(&nodes_of_levels(&[2, 2, 1]), 2), Some(1));
        // A leader of an older version raises nothing beyond its own level.
        assert_eq!(common_level(&nodes_of_levels(&[2, 2, 2]), 1), Some(1));
        let mut topology = nodes_of_levels(&[2, 2, 1]);
        let mut old = topology.node(NodeId::from(3)).unwrap().clone();
        old.state = NodeState::Removed;
        topology.put_node(old);
        assert_eq!(common_level(&topology, 2), Some(2));
    }
}
