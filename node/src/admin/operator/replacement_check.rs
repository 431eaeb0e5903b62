//! Checks whether other nodes can replace a lost one.

use crate::admin::NodeError;
use crate::meta::{NodeInfo, Topology};

/// Returns an error if a node is the last one of its region: none can replace it.
pub(super) fn check_replacement(topology: &Topology, node: &NodeInfo) -> Result<(), NodeError> {
    let mut region_nodes = topology.nodes_of(node.region);
    if region_nodes.any(|other| other.id != node.id) {
        return Ok(());
    }
    let mut regions = topology.all_regions().iter();
    let has_other_regions =
        regions.any(|(number, other)| *number != node.region && !other.is_removing);
    let name = topology.unique_name(node);
    let region = topology.region_name(node.region).unwrap_or("?");
    let refusal = describe_last_node(name, region, has_other_regions);
    Err(NodeError::Refused(refusal))
}

/// Describes why the last node of a region can't be replaced, and what to do.
fn describe_last_node(name: &str, region: &str, has_other_regions: bool) -> String {
    if has_other_regions {
        return format!(
            "node {name} is the last one of region {region}, so none can replace it: start it; if \
             it is lost for good, remove the region with `cloudkv-node admin remove-region \
             {region}`"
        );
    }
    format!(
        "node {name} is the last one of {region}, the only region, so none can replace it, and all \
         data would be lost: start it; if its disk is lost, restore a backup of its data directory"
    )
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::meta::NodeState;
    use crate::types::NodeId;

    fn node(number: u64, state: NodeState) -> NodeInfo {
        NodeInfo {
            id: NodeId::from(number),
            region: 1,
            rpc: format!("n{number}:7070"),
            http: format!("n{number}:8080"),
            state,
            level: 1,
            version: String::new(),
            joined_at: 1,
            name: String::new(),
            removed_at: 0,
        }
    }

    #[test]
    fn the_last_node_of_a_region_cannot_be_replaced() {
        let first = node(1, NodeState::Active);
        let mut topology = Topology::default();
        topology.put_node(first.clone());
        topology.put_node(node(2, NodeState::Decommissioning));
        assert_eq!(check_replacement(&topology, &first), Ok(()));
        topology.put_node(node(2, NodeState::Removed));
        let refused = check_replacement(&topology, &first).unwrap_err();
        assert!(refused.to_string().contains("all data would be lost"));
    }

    #[test]
    fn the_refusal_advises_what_fits_the_number_of_regions() {
        let text = describe_last_node("n1", "eu", true);
        assert!(
            text.contains("`cloudkv-node admin remove-region eu`"),
            "{text}"
        );
        let text = describe_last_node("n1", "eu", false);
        assert!(
            !text.contains("remove-region") && text.contains("backup"),
            "{text}"
        );
    }
}
