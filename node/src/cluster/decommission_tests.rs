use super::decommission::*;
use crate::meta::{NodeInfo, NodeState, Placement, Topology};
use crate::raft::NodeId;

fn ids(numbers: &[u64]) -> Vec<NodeId> {
    numbers.iter().copied().map(NodeId::from).collect()
}

/// Creates a region with nodes from 1 on, and with these voters and learners of its shards.
fn region_topology(nodes: u64, shards: &[(&[u64], &[u64])]) -> Topology {
    let mut topology = Topology::default();
    for number in 1..=nodes {
        topology.put_node(NodeInfo {
            id: NodeId::from(number),
            region: 1,
            rpc: format!("n{number}:7070"),
            http: format!("n{number}:8080"),
            state: NodeState::Active,
            level: 1,
            version: String::new(),
            joined_at: 1,
            name: String::new(),
            removed_at: 0,
        });
    }
    for (shard, (voters, learners)) in (0..).zip(shards) {
        let placement = Placement {
            epoch: 1,
            voters: ids(voters),
            learners: ids(learners),
        };
        topology.put_placement(1, shard, placement);
    }
    topology
}

/// Assesses the removal of node 1 with these voters of the metadata and some dead nodes.
fn without_first(
    topology: &Topology,
    voters: &[u64],
    dead: &[u64],
) -> Result<DecommissionOutlook, DecommissionObstacle> {
    let shards = u16::try_from(topology.placements_of(1).count()).unwrap();
    let node = topology.node(NodeId::from(1)).unwrap();
    let voters = ids(voters).into_iter().collect();
    let is_alive = |id: NodeId| !dead.contains(&u64::from(id));
    assess_decommission(topology, shards, node, &voters, is_alive)
}

fn tolerance(losses: usize, copies: usize, metadata_voters: usize) -> FaultTolerance {
    FaultTolerance {
        node_failures: losses,
        replicas: copies,
        metadata_voters,
    }
}

#[test]
fn without_one_of_three_single_voters_stay_and_without_one_of_four_nothing_changes() {
    let three = region_topology(3, &[(&[1, 2, 3], &[]), (&[2, 1, 3], &[])]);
    let outlook = without_first(&three, &[1, 2, 3], &[]).unwrap();
    assert_eq!(outlook.now, tolerance(1, 3, 3));
    assert_eq!(outlook.without_node, tolerance(0, 2, 1));
    assert!(outlook.without_node.is_less_than(&outlook.now));
    let four = region_topology(4, &[(&[1, 2, 3], &[]), (&[2, 3, 4], &[])]);
    let outlook = without_first(&four, &[1, 2, 3], &[]).unwrap();
    assert_eq!(
        (outlook.now, outlook.without_node),
        (tolerance(1, 3, 3), tolerance(1, 3, 3))
    );
    // Decommissioning the dead node improves the tolerance.
    let outlook = without_first(&four, &[1, 2, 3], &[1]).unwrap();
    assert_eq!(
        (
            outlook.now.node_failures,
            outlook.without_node.node_failures
        ),
        (0, 1)
    );
}

#[test]
fn without_one_of_two_a_single_replica_stays() {
    let two = region_topology(2, &[(&[1], &[2])]);
    let outlook = without_first(&two, &[1], &[]).unwrap();
    assert_eq!(
        (outlook.now, outlook.without_node),
        (tolerance(0, 2, 1), tolerance(0, 1, 1))
    );
    assert!(outlook.without_node.is_less_than(&outlook.now));
}

#[test]
fn an_impossible_decommission_is_an_obstacle() {
    let one = region_topology(1, &[(&[1], &[])]);
    assert_eq!(
        without_first(&one, &[1], &[]),
        Err(DecommissionObstacle::OnlyNode)
    );
    let three = region_topology(3, &[(&[1, 2, 3], &[]), (&[2, 1, 3], &[])]);
    let silent = ids(&[2, 3]);
    let lost = Err(DecommissionObstacle::NoMajority {
        shard: 0,
        unreachable: silent,
    });
    assert_eq!(without_first(&three, &[1, 2, 3], &[2, 3]), lost);
    // One shard would have the dead node as its only voter.
    let dead = Err(DecommissionObstacle::Unreachable(ids(&[3])));
    assert_eq!(without_first(&three, &[1, 2, 3], &[3]), dead);
    // The only replacement is dead.
    let four = region_topology(4, &[(&[1, 2, 3], &[])]);
    let dead = Err(DecommissionObstacle::Unreachable(ids(&[4])));
    assert_eq!(without_first(&four, &[1, 2, 3], &[4]), dead);
}
