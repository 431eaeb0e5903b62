use std::collections::BTreeSet;

use proptest::prelude::*;

use super::members::{MetadataCandidate, MetadataMembers, plan_metadata};
use crate::raft::NodeId;

fn ids<const N: usize>(numbers: [u64; N]) -> [NodeId; N] {
    numbers.map(NodeId::from)
}

fn member(id: u64, region: u32) -> MetadataCandidate {
    MetadataCandidate {
        id: NodeId::from(id),
        region,
        is_active: true,
        is_alive: true,
        is_voter: false,
    }
}

fn apply_plan(members: &mut [MetadataCandidate], plan: &MetadataMembers) {
    for member in members {
        member.is_voter = plan.voters.contains(&member.id);
    }
}

fn members_strategy() -> impl Strategy<Value = Vec<MetadataCandidate>> {
    let flags = (
        1_u32..6,
        proptest::bool::weighted(0.85),
        proptest::bool::weighted(0.75),
        proptest::bool::weighted(0.3),
    );
    proptest::collection::btree_map(1_u64..30, flags, 0..14).prop_map(|members| {
        members
            .into_iter()
            .map(|(id, (region, active, alive, voter))| MetadataCandidate {
                id: NodeId::from(id),
                region,
                is_active: active,
                is_alive: alive,
                is_voter: voter,
            })
            .collect()
    })
}

fn members_with_ids<'a>(
    members: &'a [MetadataCandidate],
    ids: &[NodeId],
) -> Vec<&'a MetadataCandidate> {
    members
        .iter()
        .filter(|member| ids.contains(&member.id))
        .collect()
}

fn regions_of<'a>(members: impl IntoIterator<Item = &'a MetadataCandidate>) -> BTreeSet<u32> {
    members.into_iter().map(|member| member.region).collect()
}

fn voters_in_region(voters: &[&MetadataCandidate], region: u32) -> usize {
    voters.iter().filter(|voter| voter.region == region).count()
}

/// Returns whether any region may be lost without losing the majority.
fn survives_region_loss(voters: &[&MetadataCandidate]) -> bool {
    regions_of(voters.iter().copied())
        .into_iter()
        .all(|region| 2 * voters_in_region(voters, region) < voters.len())
}

fn alive_regions(members: &[MetadataCandidate]) -> usize {
    regions_of(
        members
            .iter()
            .filter(|member| member.is_active && member.is_alive),
    )
    .len()
}

proptest! {
    #[test]
    fn every_node_is_a_voter_or_learner_and_only_active_nodes_vote(members in members_strategy()) {
        let plan = plan_metadata(&members);
        let mut all = [plan.voters.clone(), plan.learners.clone()].concat();
        all.sort_unstable();
        let ids: Vec<_> = members.iter().map(|member| member.id).collect();
        prop_assert_eq!(all, ids);
        if members.iter().any(|member| member.is_active) {
            prop_assert!(members_with_ids(&members, &plan.voters).iter().all(|voter| voter.is_active));
        } else {
            prop_assert!(members_with_ids(&members, &plan.voters).iter().all(|voter| voter.is_voter));
        }
    }

    #[test]
    fn the_number_of_voters_follows_the_active_nodes(members in members_strategy()) {
        let active: Vec<_> = members.iter().filter(|member| member.is_active).copied().collect();
        let spread: usize = regions_of(&active)
            .into_iter()
            .map(|region| voters_in_region(&active.iter().collect::<Vec<_>>(), region).min(2))
            .sum();
        let expected = match active.len() {
            0 => return Ok(()),
            1 | 2 => 1,
            3 | 4 => 3,
            _ if regions_of(&active).len() >= 3 && spread < 5 => 3,
            _ => 5,
        };
        prop_assert_eq!(plan_metadata(&members).voters.len(), expected);
    }

    #[test]
    fn losing_a_region_of_three_leaves_a_majority(members in members_strategy()) {
        let plan = plan_metadata(&members);
        if alive_regions(&members) >= 3 {
            prop_assert!(survives_region_loss(&members_with_ids(&members, &plan.voters)), "{plan:?}");
        }
    }

    #[test]
    fn no_dead_voter_could_be_replaced_by_an_alive_learner(members in members_strategy()) {
        let plan = plan_metadata(&members);
        let spread = alive_regions(&members) >= 3;
        let voters = members_with_ids(&members, &plan.voters);
        if voters.iter().all(|voter| !voter.is_active) {
            return Ok(());
        }
        for dead in voters.iter().filter(|voter| !voter.is_alive) {
            for other in members_with_ids(&members, &plan.learners) {
                let mut swapped: Vec<_> =
                    voters.iter().copied().filter(|voter| voter.id != dead.id).collect();
                swapped.push(other);
                let is_better = other.is_alive && other.is_active
                    && (!spread || survives_region_loss(&swapped));
                prop_assert!(!is_better, "{} instead of {} in {plan:?}", other.id, dead.id);
            }
        }
    }

    #[test]
    fn no_voter_that_is_alive_is_dropped_without_need(members in members_strategy()) {
        let plan = plan_metadata(&members);
        let spread = alive_regions(&members) >= 3;
        let voters = members_with_ids(&members, &plan.voters);
        let newcomers = voters.iter().filter(|voter| !voter.is_voter);
        for newcomer in newcomers {
            for dropped in members_with_ids(&members, &plan.learners) {
                let mut swapped: Vec<_> =
                    voters.iter().copied().filter(|voter| voter.id != newcomer.id).collect();
                swapped.push(dropped);
                let could_stay = dropped.is_voter && dropped.is_active && dropped.is_alive
                    && (!spread || survives_region_loss(&swapped));
                prop_assert!(!could_stay, "{} instead of {} in {plan:?}", newcomer.id, dropped.id);
            }
        }
    }

    #[test]
    fn a_plan_carried_out_is_the_next_plan_in_any_order(
        mut members in members_strategy(),
        rotation in 0_usize..14,
    ) {
        let plan = plan_metadata(&members);
        apply_plan(&mut members, &plan);
        let rotation = rotation.min(members.len());
        members.rotate_left(rotation);
        prop_assert_eq!(plan_metadata(&members), plan);
    }
}

#[test]
fn a_cluster_of_one_region_spreads_when_two_more_join() {
    let mut members: Vec<_> = (1..=3).map(|id| member(id, 1)).collect();
    let plan = plan_metadata(&members);
    assert_eq!(plan.voters, ids([1, 2, 3]));
    apply_plan(&mut members, &plan);
    members.push(member(4, 2));
    assert_eq!(plan_metadata(&members).voters, ids([1, 2, 3]));
    members.push(member(5, 3));
    let plan = plan_metadata(&members);
    // Five voters can't be spread over 3, 1 and 1 nodes.
    assert_eq!(plan.voters, ids([1, 4, 5]));
    assert_eq!(plan.learners, ids([2, 3]));
}

#[test]
fn three_regions_of_three_have_five_voters_two_at_most_of_each() {
    let mut members: Vec<_> = (1..=9).map(|id| member(id, (id as u32 - 1) / 3)).collect();
    let plan = plan_metadata(&members);
    assert_eq!(plan.voters.len(), 5);
    apply_plan(&mut members, &plan);
    // A voter fails: a learner replaces it, and the others stay.
    let dead = plan.voters[0];
    members.iter_mut().find(|m| m.id == dead).unwrap().is_alive = false;
    let next = plan_metadata(&members);
    assert!(!next.voters.contains(&dead));
    let stayed = next.voters.iter().filter(|id| plan.voters.contains(id));
    assert_eq!(stayed.count(), 4);
}

#[test]
fn a_dead_voter_stays_without_a_replacement() {
    let mut members: Vec<_> = (1..=3).map(|id| member(id, 1)).collect();
    let plan = plan_metadata(&members);
    apply_plan(&mut members, &plan);
    members[1].is_alive = false;
    assert_eq!(plan_metadata(&members).voters, ids([1, 2, 3]));
    members.push(member(4, 1));
    assert_eq!(plan_metadata(&members).voters, ids([1, 3, 4]));
}

#[test]
fn without_an_active_node_the_voters_stay() {
    let mut members: Vec<_> = (1..=3).map(|id| member(id, 1)).collect();
    for member in &mut members {
        member.is_active = false;
    }
    members[2].is_voter = true;
    let plan = plan_metadata(&members);
    assert_eq!(
        (plan.voters, plan.learners),
        (ids([3]).to_vec(), ids([1, 2]).to_vec())
    );
    assert_eq!(plan_metadata(&[]), MetadataMembers::default());
}
