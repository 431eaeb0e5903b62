//! Texts of a recovery by force: what may be lost, what happens then, and what confirms it.

use super::recovery_facts::{ClusterFacts, GroupFacts};
use super::recovery_plan::RecoveryPlan;
use crate::admin::shard_ranges::format_ranges;
use crate::cluster::recovery_file::RecoveryStep;

/// Text that confirms the recovery: it names the groups, and the nodes that are lost.
pub(super) fn confirmation_text(facts: &ClusterFacts, plan: &RecoveryPlan<'_>) -> String {
    let lost = facts.names(&plan.lost).join(", ");
    match &plan.step {
        RecoveryStep::Metadata => format!("recover the metadata without {lost}"),
        RecoveryStep::Shards { .. } => {
            format!("recover {} without {lost}", group_names(plan))
        }
        RecoveryStep::RegionExport { region, .. }
        | RecoveryStep::RegionJoin { region, .. }
        | RecoveryStep::RegionImport { region } => {
            format!("recover region {region} without {lost}: it joins the other regions anew")
        }
    }
}

/// Describes what may be lost, a sentence for each group, and the doubts that remain.
pub(super) fn losses(facts: &ClusterFacts, plan: &RecoveryPlan<'_>) -> Vec<String> {
    let groups = plan.groups.iter();
    let mut losses: Vec<String> = groups.map(|group| describe_loss(facts, group)).collect();
    let lost = join_names(&facts.names(&plan.lost));
    if let RecoveryStep::RegionExport { .. } = plan.step {
        losses.push(format!(
            "writes that {lost} had sent to the other regions come back from there; of those that \
             they hadn't, only what the surviving nodes have on their disks is left"
        ));
        return losses;
    }
    let learners = plan.groups.iter().flat_map(|group| &group.log.learners);
    let mut silent: Vec<_> = learners.filter(|it| !facts.alive.contains(*it)).collect();
    silent.sort_unstable();
    silent.dedup();
    for node in silent {
        let node = facts.name(*node);
        losses.push(format!(
            "{node} can't be asked: if its log reaches further, that is lost, too. It isn't \
             declared lost; don't recover the same groups there"
        ));
    }
    losses
}

/// Describes which entries of a group may be lost, and when its leader was last heard.
fn describe_loss(facts: &ClusterFacts, group: &GroupFacts) -> String {
    let lost = join_names(&facts.names(&group.lost(&facts.alive)));
    let after = group.log.last.map_or_else(String::new, |last| {
        format!(" after {} of term {}", last.index, last.term)
    });
    let leader = match (group.leader, group.leaderless_for) {
        (Some(leader), Some(silence)) => format!(
            "; the last leader known here, {}, was heard {} s ago",
            facts.name(leader),
            silence.as_secs()
        ),
        (None, Some(silence)) => format!("; a leader was last heard {} s ago", silence.as_secs()),
        (_, None) => "; no leader was heard since the start of this node".to_owned(),
    };
    format!(
        "{}: entries{after} that {lost} alone have, also those whose writes were acknowledged\
         {leader}",
        group.name()
    )
}

/// Describes what happens after the confirmation, and what is left to be done.
pub(super) fn next_steps(facts: &ClusterFacts, plan: &RecoveryPlan<'_>) -> Vec<String> {
    let node = facts.name(facts.node);
    let lost = join_names(&facts.names(&plan.lost));
    let stops = format!("{node} stops; start it again");
    match &plan.step {
        RecoveryStep::Metadata => vec![
            format!(
                "{stops}: it becomes the only voter of the metadata, and {lost} can never come \
                 back: stop them for good"
            ),
            "recover the shards that have no leader then, with `cloudkv-node admin shard recover`"
                .to_owned(),
        ],
        RecoveryStep::Shards { .. } => vec![format!(
            "{lost} are removed from the cluster, and can never come back: stop them for good. \
             {stops}: it becomes the only voter of {}",
            group_names(plan)
        )],
        RecoveryStep::RegionExport { region, .. }
        | RecoveryStep::RegionJoin { region, .. }
        | RecoveryStep::RegionImport { region } => rejoin_steps(facts, region),
    }
}

fn rejoin_steps(facts: &ClusterFacts, region: &str) -> Vec<String> {
    let mut survivors = facts.other_survivors();
    survivors.insert(facts.node);
    let names = join_names(&facts.names(&survivors));
    let (stop, them, they) = match survivors.len() {
        1 => ("stops", "it", "it exports"),
        _ => ("stop", "them", "they export"),
    };
    vec![
        format!(
            "region {region} is removed from the cluster; its lost nodes can never come back: stop \
             them for good"
        ),
        format!(
            "{names} {stop}; start {them} again: {they} what other regions don't have yet, joining \
             the region anew with an empty state, and importing that where no newer version exists"
        ),
    ]
}

fn group_names(plan: &RecoveryPlan<'_>) -> String {
    let names: Vec<String> = plan.groups.iter().map(|group| group.name()).collect();
    let names: Vec<&str> = names.iter().map(String::as_str).collect();
    format_ranges(&names)
}

/// Joins names as in a sentence: `n1, n2 and n3`.
fn join_names(names: &[String]) -> String {
    match names {
        [] => "nobody".to_owned(),
        [name] => name.clone(),
        [first @ .., last] => format!("{} and {last}", first.join(", ")),
    }
}
