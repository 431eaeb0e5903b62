use super::decommission::*;
use crate::meta::{NodeInfo, NodeState, Placement, Topology};

/// A region of nodes 1 and so on, with these voters and learners of its shards.
fn region(nodes: u64, shards: &[(&[u64], &[u64])]) -> Topology {
    let mut topology = Topology::default();
    for id in 1..=nodes {
        topology.put_node(NodeInfo {
            id,
            region: 1,
            rpc: format!("n{id}:7070"),
            http: format!("n{id}:8080"),
            state: NodeState::Active,
            level: 5,
            version: String::new(),
            joined_at: 1,
            name: String::new(),
            removed_at: 0,
        });
    }
    for (shard, (voters, learners)) in (0..).zip(shards) {
        let placement = Placement {
            epoch: 1,
            voters: voters.to_vec(),
            learners: learners.to_vec(),
        };
        topology.put_placement(1, shard, placement);
    }
    topology
}

/// The outlook without node 1, where the metadata has these voters and some nodes are dead.
fn without_first(topology: &Topology, voters: &[u64], dead: &[u64]) -> Result<Outlook, Obstacle> {
    let shards = u16::try_from(topology.placements_of(1).count()).unwrap();
    let node = topology.node(1).unwrap();
    let voters = voters.iter().copied().collect();
    outlook(topology, shards, node, &voters, |id| !dead.contains(&id))
}

fn survives(losses: usize, copies: usize, metadata_voters: usize) -> Survival {
    Survival {
        losses,
        copies,
        metadata_voters,
    }
}

#[test]
fn one_of_three_leaves_single_voters_and_one_of_four_changes_nothing() {
    let three = region(3, &[(&[1, 2, 3], &[]), (&[2, 1, 3], &[])]);
    let outlook = without_first(&three, &[1, 2, 3], &[]).unwrap();
    assert_eq!(outlook.now, survives(1, 3, 3));
    assert_eq!(outlook.without, survives(0, 2, 1));
    assert!(outlook.without.is_less_than(&outlook.now));
    let four = region(4, &[(&[1, 2, 3], &[]), (&[2, 3, 4], &[])]);
    let outlook = without_first(&four, &[1, 2, 3], &[]).unwrap();
    assert_eq!(
        (outlook.now, outlook.without),
        (survives(1, 3, 3), survives(1, 3, 3))
    );
    // The dead one goes: that makes it better.
    let outlook = without_first(&four, &[1, 2, 3], &[1]).unwrap();
    assert_eq!((outlook.now.losses, outlook.without.losses), (0, 1));
}

#[test]
fn one_of_two_leaves_a_copy_alone() {
    let two = region(2, &[(&[1], &[2])]);
    let outlook = without_first(&two, &[1], &[]).unwrap();
    assert_eq!(
        (outlook.now, outlook.without),
        (survives(0, 2, 1), survives(0, 1, 1))
    );
    assert!(outlook.without.is_less_than(&outlook.now));
}

#[test]
fn what_cannot_work_is_an_obstacle() {
    let one = region(1, &[(&[1], &[])]);
    assert_eq!(without_first(&one, &[1], &[]), Err(Obstacle::OnlyNode));
    let three = region(3, &[(&[1, 2, 3], &[]), (&[2, 1, 3], &[])]);
    let silent = vec![2, 3];
    let lost = Err(Obstacle::NoMajority { shard: 0, silent });
    assert_eq!(without_first(&three, &[1, 2, 3], &[2, 3]), lost);
    // One of the shards would have the dead one as its only voter.
    let dead = Err(Obstacle::Silent(vec![3]));
    assert_eq!(without_first(&three, &[1, 2, 3], &[3]), dead);
    // The only node that could take its place is dead.
    let four = region(4, &[(&[1, 2, 3], &[])]);
    let dead = Err(Obstacle::Silent(vec![4]));
    assert_eq!(without_first(&four, &[1, 2, 3], &[4]), dead);
}
