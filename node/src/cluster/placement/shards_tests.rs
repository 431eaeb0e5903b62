use std::collections::{BTreeMap, BTreeSet};

use proptest::prelude::*;

use super::shards::{CurrentPlacement, ShardCandidate, ShardPlan, plan_shards};
use crate::raft::NodeId;

type CurrentPlacements = Vec<Option<CurrentPlacement>>;

fn ids(numbers: &[u64]) -> Vec<NodeId> {
    numbers.iter().copied().map(NodeId::from).collect()
}

fn active_nodes(numbers: impl IntoIterator<Item = u64>) -> Vec<ShardCandidate> {
    numbers
        .into_iter()
        .map(|number| ShardCandidate {
            id: NodeId::from(number),
            is_active: true,
        })
        .collect()
}

fn apply_plans(current: &mut CurrentPlacements, plans: &[ShardPlan]) {
    for plan in plans {
        current[usize::from(plan.shard)] = Some(CurrentPlacement {
            voters: plan.voters.clone(),
            learners: plan.learners.clone(),
        });
    }
}

/// Plans and applies steps until nothing changes. Returns the number of steps.
fn apply_until_stable(nodes: &[ShardCandidate], current: &mut CurrentPlacements) -> usize {
    let shards = current.len() as u16;
    for step in 0..20 {
        let plans = plan_shards(nodes, shards, current);
        if plans.is_empty() {
            return step;
        }
        apply_plans(current, &plans);
    }
    panic!("the plans never become stable");
}

fn spread(counts: &BTreeMap<NodeId, usize>) -> usize {
    counts.values().max().unwrap() - counts.values().min().unwrap()
}

/// Numbers of shards that each active node holds, and leads.
fn counts(nodes: &[ShardCandidate], current: &CurrentPlacements) -> [BTreeMap<NodeId, usize>; 2] {
    let none: BTreeMap<_, _> = nodes
        .iter()
        .filter(|node| node.is_active)
        .map(|node| (node.id, 0))
        .collect();
    let [mut held, mut led] = [none.clone(), none];
    for placement in current.iter().flatten() {
        for id in &placement.voters {
            *held.get_mut(id).unwrap() += 1;
        }
        *led.get_mut(&placement.voters[0]).unwrap() += 1;
    }
    [held, led]
}

/// Checks the invariants of a stable region with an active node.
fn check_stable(nodes: &[ShardCandidate], current: &CurrentPlacements) {
    let ids: BTreeSet<_> = nodes.iter().filter(|n| n.is_active).map(|n| n.id).collect();
    for placement in current.iter().map(|placement| placement.as_ref().unwrap()) {
        let (voters, learners) = (&placement.voters, &placement.learners);
        let all: BTreeSet<_> = voters.iter().chain(learners).copied().collect();
        assert_eq!(all.len(), voters.len() + learners.len(), "{placement:?}");
        assert!(all.is_subset(&ids), "{placement:?}");
        let expected = match ids.len() {
            1 => (1, 0),
            2 => (1, 1),
            _ => (3, 0),
        };
        assert_eq!((voters.len(), learners.len()), expected);
    }
    if ids.len() >= 3 && !current.is_empty() {
        let [held, led] = counts(nodes, current);
        assert!(spread(&held) <= 1, "{held:?}");
        assert!(spread(&led) <= 1, "{led:?}");
    }
}

/// Checks the invariants of every single step.
fn check_step(nodes: &[ShardCandidate], current: &CurrentPlacements, plans: &[ShardPlan]) {
    let known: BTreeSet<_> = nodes.iter().map(|node| node.id).collect();
    let active: BTreeSet<_> = nodes.iter().filter(|n| n.is_active).map(|n| n.id).collect();
    for plan in plans {
        let before = current[usize::from(plan.shard)].clone().unwrap_or_default();
        let removed = before.voters.iter().filter(|id| !known.contains(id));
        let removed = removed.count();
        let is_droppable = |id: &&NodeId| known.contains(id) && !plan.voters.contains(id);
        let dropped = before.voters.iter().filter(is_droppable).count();
        assert!(plan.voters.iter().all(|id| known.contains(id)), "{plan:?}");
        assert!(active.contains(&plan.voters[0]), "{plan:?}");
        if active.len() >= 3 {
            assert_eq!((plan.voters.len(), plan.learners.len()), (3, 0));
            let allowed = usize::from(before.voters.len() == 3 && removed == 0);
            assert!(dropped <= allowed, "{before:?} -> {plan:?}");
        } else if before.voters.iter().any(|id| active.contains(id)) {
            assert!(
                before.voters.contains(&plan.voters[0]),
                "{before:?} -> {plan:?}"
            );
        }
    }
}

fn nodes_strategy() -> impl Strategy<Value = Vec<ShardCandidate>> {
    proptest::collection::btree_map(1_u64..12, proptest::bool::weighted(0.8), 0..10).prop_map(|m| {
        m.into_iter()
            .map(|(number, active)| ShardCandidate {
                id: NodeId::from(number),
                is_active: active,
            })
            .collect()
    })
}

/// Any placement that the metadata would accept, of nodes that may have been removed since.
fn placement_strategy() -> impl Strategy<Value = Option<CurrentPlacement>> {
    let nodes = proptest::sample::subsequence((1_u64..12).collect::<Vec<_>>(), 4).prop_shuffle();
    (nodes, 0..4).prop_map(|(nodes, shape)| {
        let (voters, learners) = match shape {
            0 => return None,
            1 => (&nodes[..1], &nodes[1..1]),
            2 => (&nodes[..1], &nodes[1..2]),
            _ => (&nodes[..3], &nodes[3..3]),
        };
        Some(CurrentPlacement {
            voters: ids(voters),
            learners: ids(learners),
        })
    })
}

fn current_strategy() -> impl Strategy<Value = CurrentPlacements> {
    proptest::collection::vec(placement_strategy(), 0..20)
}

proptest! {
    #[test]
    fn from_any_placement_the_steps_end_in_an_even_spread(
        nodes in nodes_strategy(),
        mut current in current_strategy(),
    ) {
        let before = current.clone();
        apply_until_stable(&nodes, &mut current);
        if nodes.iter().any(|node| node.is_active) {
            check_stable(&nodes, &current);
        } else {
            prop_assert_eq!(before, current);
        }
    }

    #[test]
    fn no_step_replaces_two_voters_that_are_still_there(
        nodes in nodes_strategy(),
        mut current in current_strategy(),
    ) {
        for _ in 0..20 {
            let plans = plan_shards(&nodes, current.len() as u16, &current);
            check_step(&nodes, &current, &plans);
            apply_plans(&mut current, &plans);
        }
    }

    #[test]
    fn the_order_of_the_nodes_does_not_matter(
        nodes in nodes_strategy()
            .prop_flat_map(|nodes| (Just(nodes.clone()), Just(nodes).prop_shuffle())),
        current in current_strategy(),
    ) {
        let shards = current.len() as u16;
        prop_assert_eq!(
            plan_shards(&nodes.0, shards, &current),
            plan_shards(&nodes.1, shards, &current)
        );
    }

    #[test]
    fn a_new_region_is_stable_after_one_step(count in 1_u64..12, shards in 0_u16..40) {
        let nodes = active_nodes(1..=count);
        let mut current = vec![None; usize::from(shards)];
        prop_assert!(apply_until_stable(&nodes, &mut current) <= 1);
        check_stable(&nodes, &current);
        let [held, led] = counts(&nodes, &current);
        prop_assert!(spread(&held) <= 1 && spread(&led) <= 1);
    }

    #[test]
    fn one_more_node_gets_its_share_and_no_more(count in 3_u64..10, shards in 1_u16..40) {
        let mut current = vec![None; usize::from(shards)];
        apply_until_stable(&active_nodes(1..=count), &mut current);
        let before = current.clone();
        apply_until_stable(&active_nodes(1..=count + 1), &mut current);
        let moved: usize = before.iter().zip(&current).map(|(before, after)| {
            let (before, after) = (before.as_ref().unwrap(), after.as_ref().unwrap());
            after.voters.iter().filter(|id| !before.voters.contains(id)).count()
        }).sum();
        let share = (3 * usize::from(shards)).div_ceil(count as usize + 1);
        prop_assert!(moved <= share, "moved {moved}, the share is {share}");
    }
}

fn placement(voters: &[u64], learners: &[u64]) -> Option<CurrentPlacement> {
    Some(CurrentPlacement {
        voters: ids(voters),
        learners: ids(learners),
    })
}

#[test]
fn a_region_grows_from_one_node_to_three() {
    let mut current = vec![None; 8];
    apply_until_stable(&active_nodes([1]), &mut current);
    assert!(current.iter().all(|shard| *shard == placement(&[1], &[])));
    apply_until_stable(&active_nodes([1, 2]), &mut current);
    assert!(current.iter().all(|shard| *shard == placement(&[1], &[2])));
    assert_eq!(
        apply_until_stable(&active_nodes([1, 2, 3]), &mut current),
        1
    );
    check_stable(&active_nodes([1, 2, 3]), &current);
}

#[test]
fn a_removed_node_is_replaced_at_once_and_the_others_stay() {
    let mut current = vec![placement(&[1, 2, 3], &[])];
    let plans = plan_shards(&active_nodes([2, 3, 4]), 1, &current);
    apply_plans(&mut current, &plans);
    let voters: BTreeSet<_> = current[0]
        .as_ref()
        .unwrap()
        .voters
        .iter()
        .copied()
        .collect();
    assert_eq!(voters, BTreeSet::from([2, 3, 4].map(NodeId::from)));
}

#[test]
fn two_decommissioned_voters_are_replaced_one_after_the_other() {
    let mut nodes = active_nodes([1, 2, 3, 4, 5]);
    nodes[0].is_active = false;
    nodes[1].is_active = false;
    let mut current = vec![placement(&[1, 2, 3], &[])];
    assert_eq!(apply_until_stable(&nodes, &mut current), 2);
    check_stable(&nodes, &current);
}

#[test]
fn a_decommissioned_node_transfers_its_leadership_to_a_voter_that_stays() {
    let mut nodes = active_nodes([1, 2, 3, 4]);
    nodes[0].is_active = false;
    let plans = plan_shards(&nodes, 1, &[placement(&[1, 2, 3], &[])]);
    assert_ne!(plans[0].voters[0], NodeId::from(1));
}

#[test]
fn two_nodes_left_of_three_keep_one_voter_each_evenly() {
    let mut current = vec![placement(&[1, 2, 3], &[]); 8];
    apply_until_stable(&active_nodes([1, 2]), &mut current);
    let [held, _] = counts(&active_nodes([1, 2]), &current);
    assert_eq!(spread(&held), 0);
}

#[test]
fn a_learner_replaces_the_only_voter_when_it_is_decommissioned() {
    let mut nodes = active_nodes([1, 2, 3]);
    nodes[0].is_active = false;
    let plans = plan_shards(&nodes, 1, &[placement(&[1], &[3])]);
    assert_eq!(
        (&plans[0].voters[..], &plans[0].learners[..]),
        (&ids(&[3])[..], &ids(&[2])[..])
    );
}

#[test]
fn without_an_active_node_nothing_changes() {
    let decommissioning = [ShardCandidate {
        id: NodeId::from(1),
        is_active: false,
    }];
    assert_eq!(
        plan_shards(&decommissioning, 1, &[placement(&[1, 2, 3], &[])]),
        []
    );
    assert_eq!(plan_shards(&[], 1, &[None]), []);
}

#[test]
fn the_order_of_voters_behind_the_leader_is_no_change() {
    let current = [placement(&[1, 3, 2], &[])];
    assert_eq!(plan_shards(&active_nodes([1, 2, 3]), 1, &current), []);
}
