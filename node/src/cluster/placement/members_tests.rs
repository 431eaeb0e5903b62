use std::collections::BTreeSet;

use proptest::prelude::*;

use super::members::{MetaCandidate, MetaMembers, plan_meta};
use crate::raft::NodeId;

fn member(id: NodeId, region: u32) -> MetaCandidate {
    MetaCandidate {
        id,
        region,
        active: true,
        alive: true,
        voter: false,
    }
}

fn carry_out(members: &mut [MetaCandidate], plan: &MetaMembers) {
    for member in members {
        member.voter = plan.voters.contains(&member.id);
    }
}

fn members_strategy() -> impl Strategy<Value = Vec<MetaCandidate>> {
    let flags = (
        1_u32..6,
        proptest::bool::weighted(0.85),
        proptest::bool::weighted(0.75),
        proptest::bool::weighted(0.3),
    );
    proptest::collection::btree_map(1_u64..30, flags, 0..14).prop_map(|members| {
        members
            .into_iter()
            .map(|(id, (region, active, alive, voter))| MetaCandidate {
                id,
                region,
                active,
                alive,
                voter,
            })
            .collect()
    })
}

fn of<'a>(members: &'a [MetaCandidate], ids: &[NodeId]) -> Vec<&'a MetaCandidate> {
    members
        .iter()
        .filter(|member| ids.contains(&member.id))
        .collect()
}

fn regions<'a>(members: impl IntoIterator<Item = &'a MetaCandidate>) -> BTreeSet<u32> {
    members.into_iter().map(|member| member.region).collect()
}

fn in_region(voters: &[&MetaCandidate], region: u32) -> usize {
    voters.iter().filter(|voter| voter.region == region).count()
}

/// Returns whether any region may be lost without losing the majority.
fn survives_a_region(voters: &[&MetaCandidate]) -> bool {
    regions(voters.iter().copied())
        .into_iter()
        .all(|region| 2 * in_region(voters, region) < voters.len())
}

fn alive_regions(members: &[MetaCandidate]) -> usize {
    regions(
        members
            .iter()
            .filter(|member| member.active && member.alive),
    )
    .len()
}

proptest! {
    #[test]
    fn every_node_is_a_voter_or_learner_and_only_active_nodes_vote(members in members_strategy()) {
        let plan = plan_meta(&members);
        let mut all = [plan.voters.clone(), plan.learners.clone()].concat();
        all.sort_unstable();
        let ids: Vec<_> = members.iter().map(|member| member.id).collect();
        prop_assert_eq!(all, ids);
        if members.iter().any(|member| member.active) {
            prop_assert!(of(&members, &plan.voters).iter().all(|voter| voter.active));
        } else {
            prop_assert!(of(&members, &plan.voters).iter().all(|voter| voter.voter));
        }
    }

    #[test]
    fn the_number_of_voters_follows_the_active_nodes(members in members_strategy()) {
        let active: Vec<_> = members.iter().filter(|member| member.active).copied().collect();
        let spread: usize = regions(&active)
            .into_iter()
            .map(|region| in_region(&active.iter().collect::<Vec<_>>(), region).min(2))
            .sum();
        let expected = match active.len() {
            0 => return Ok(()),
            1 | 2 => 1,
            3 | 4 => 3,
            _ if regions(&active).len() >= 3 && spread < 5 => 3,
            _ => 5,
        };
        prop_assert_eq!(plan_meta(&members).voters.len(), expected);
    }

    #[test]
    fn losing_a_region_of_three_leaves_a_majority(members in members_strategy()) {
        let plan = plan_meta(&members);
        if alive_regions(&members) >= 3 {
            prop_assert!(survives_a_region(&of(&members, &plan.voters)), "{plan:?}");
        }
    }

    #[test]
    fn no_dead_voter_could_be_replaced_by_an_alive_learner(members in members_strategy()) {
        let plan = plan_meta(&members);
        let spread = alive_regions(&members) >= 3;
        let voters = of(&members, &plan.voters);
        if voters.iter().all(|voter| !voter.active) {
            return Ok(());
        }
        for dead in voters.iter().filter(|voter| !voter.alive) {
            for other in of(&members, &plan.learners) {
                let mut swapped: Vec<_> =
                    voters.iter().copied().filter(|voter| voter.id != dead.id).collect();
                swapped.push(other);
                let is_better = other.alive && other.active
                    && (!spread || survives_a_region(&swapped));
                prop_assert!(!is_better, "{} instead of {} in {plan:?}", other.id, dead.id);
            }
        }
    }

    #[test]
    fn no_voter_that_is_alive_is_dropped_without_need(members in members_strategy()) {
        let plan = plan_meta(&members);
        let spread = alive_regions(&members) >= 3;
        let voters = of(&members, &plan.voters);
        let newcomers = voters.iter().filter(|voter| !voter.voter);
        for newcomer in newcomers {
            for dropped in of(&members, &plan.learners) {
                let mut swapped: Vec<_> =
                    voters.iter().copied().filter(|voter| voter.id != newcomer.id).collect();
                swapped.push(dropped);
                let could_stay = dropped.voter && dropped.active && dropped.alive
                    && (!spread || survives_a_region(&swapped));
                prop_assert!(!could_stay, "{} instead of {} in {plan:?}", newcomer.id, dropped.id);
            }
        }
    }

    #[test]
    fn a_plan_carried_out_is_the_next_plan_in_any_order(
        mut members in members_strategy(),
        rotation in 0_usize..14,
    ) {
        let plan = plan_meta(&members);
        carry_out(&mut members, &plan);
        let rotation = rotation.min(members.len());
        members.rotate_left(rotation);
        prop_assert_eq!(plan_meta(&members), plan);
    }
}

#[test]
fn a_cluster_of_one_region_spreads_when_two_more_join() {
    let mut members: Vec<_> = (1..=3).map(|id| member(id, 1)).collect();
    let plan = plan_meta(&members);
    assert_eq!(plan.voters, [1, 2, 3]);
    carry_out(&mut members, &plan);
    members.push(member(4, 2));
    assert_eq!(plan_meta(&members).voters, [1, 2, 3]);
    members.push(member(5, 3));
    let plan = plan_meta(&members);
    // Five voters can't be spread over 3, 1 and 1 nodes.
    assert_eq!(plan.voters, [1, 4, 5]);
    assert_eq!(plan.learners, [2, 3]);
}

#[test]
fn three_regions_of_three_have_five_voters_two_at_most_of_each() {
    let mut members: Vec<_> = (1..=9).map(|id| member(id, (id as u32 - 1) / 3)).collect();
    let plan = plan_meta(&members);
    assert_eq!(plan.voters.len(), 5);
    carry_out(&mut members, &plan);
    // A voter fails: a learner replaces it, and the others stay.
    let dead = plan.voters[0];
    members.iter_mut().find(|m| m.id == dead).unwrap().alive = false;
    let next = plan_meta(&members);
    assert!(!next.voters.contains(&dead));
    let stayed = next.voters.iter().filter(|id| plan.voters.contains(id));
    assert_eq!(stayed.count(), 4);
}

#[test]
fn a_dead_voter_stays_without_a_replacement() {
    let mut members: Vec<_> = (1..=3).map(|id| member(id, 1)).collect();
    let plan = plan_meta(&members);
    carry_out(&mut members, &plan);
    members[1].alive = false;
    assert_eq!(plan_meta(&members).voters, [1, 2, 3]);
    members.push(member(4, 1));
    assert_eq!(plan_meta(&members).voters, [1, 3, 4]);
}

#[test]
fn without_an_active_node_the_voters_stay() {
    let mut members: Vec<_> = (1..=3).map(|id| member(id, 1)).collect();
    for member in &mut members {
        member.active = false;
    }
    members[2].voter = true;
    let plan = plan_meta(&members);
    assert_eq!((plan.voters, plan.learners), (vec![3], vec![1, 2]));
    assert_eq!(plan_meta(&[]), MetaMembers::default());
}
