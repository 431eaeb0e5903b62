//! Decides whether this node can recover groups by force, and at which price: a function of the
//! facts alone.
//!
//! A group can be recovered only if it can't elect a leader any more, and only at the member whose
//! log is the most up-to-date one of those that can be reached. Where there are other regions, the
//! region's own history can't go on: all surviving nodes join the others anew together, and for each
//! shard the most up-to-date one of them imports what it has (`rejoin_scopes`). So the command can
//! be given to any of them.

use std::collections::BTreeSet;

use super::recovery_facts::{ClusterFacts, GroupFacts, MemberFacts};
use super::recovery_plan::plan_recovery;
use super::recovery_text::{confirmation_text, losses, next_steps};
use crate::admin::{RecoveryGroup, RecoveryMember, RecoveryReport, RecoveryScope};
use crate::cluster::recovery_file::RecoveryStep;
use crate::raft::LogPosition;
use crate::types::NodeId;

/// Decision on a recovery by force.
#[derive(Clone, Debug)]
pub(super) struct RecoveryDecision {
    /// The decision in words.
    pub report: RecoveryReport,
    /// What the next start of this node is to do; `None` if the recovery is refused.
    pub step: Option<RecoveryStep>,
    /// Nodes that are declared lost for good.
    pub lost: BTreeSet<NodeId>,
    /// The other nodes of the region that are recovered together with this one, if the region
    /// joins the others anew.
    pub survivors: BTreeSet<NodeId>,
}

/// Decides on a recovery from the facts.
pub(super) fn decide(facts: &ClusterFacts, scope: RecoveryScope) -> RecoveryDecision {
    let rejoins = scope == RecoveryScope::Shards && !facts.other_regions.is_empty();
    let refusal_of = |group| group_refusal(facts, group, rejoins);
    let refusals: Vec<Option<String>> = facts.groups.iter().map(refusal_of).collect();
    let plan = plan_recovery(facts, scope, rejoins, &refusals);
    let groups = facts.groups.iter().zip(&refusals);
    let groups = groups.map(|(group, refusal)| report_group(facts, group, refusal.clone()));
    let mut report = RecoveryReport {
        scope,
        node: facts.name(facts.node),
        region: facts.region.clone(),
        rejoins,
        groups: groups.collect(),
        lost: Vec::new(),
        unreachable: facts.names(&unreachable_learners(facts)),
        losses: Vec::new(),
        next: Vec::new(),
        refusal: None,
        confirmation: String::new(),
    };
    match plan {
        Ok(plan) => {
            report.lost = facts.names(&plan.lost);
            report.losses = losses(facts, &plan);
            report.next = next_steps(facts, &plan);
            report.confirmation = confirmation_text(facts, &plan);
            RecoveryDecision {
                report,
                step: Some(plan.step),
                lost: plan.lost,
                survivors: if rejoins {
                    facts.other_survivors()
                } else {
                    BTreeSet::new()
                },
            }
        }
        Err(refusal) => {
            report.refusal = Some(refusal);
            RecoveryDecision {
                report,
                step: None,
                lost: BTreeSet::new(),
                survivors: BTreeSet::new(),
            }
        }
    }
}

/// Returns the reason why a group can't be recovered at this node.
fn group_refusal(facts: &ClusterFacts, group: &GroupFacts, rejoins: bool) -> Option<String> {
    if !group.log.has_member(facts.node) || group.log.last.is_none() {
        return Some("this node holds nothing of it: recover it at a node that does".to_owned());
    }
    if group.has_leader {
        return Some("it has a leader".to_owned());
    }
    if let Some((node, leader)) = group.others.iter().find_map(|other| followed(facts, other)) {
        return Some(format!(
            "it has a leader, {}, which {} follows: this node is cut off from it",
            facts.name(leader),
            facts.name(node)
        ));
    }
    if group.has_majority(&facts.alive) {
        return Some(
            "most of its voters can be reached: they elect a leader within some seconds".to_owned(),
        );
    }
    if rejoins {
        return None;
    }
    if group.is_damaged {
        return Some(
            "its state is damaged on the disk of this node: recover it at another member"
                .to_owned(),
        );
    }
    later_log_refusal(facts, group)
}

/// Returns the leader that another member follows, with that member. A leader that has lost its
/// majority is none, and this node knows itself that it doesn't lead.
fn followed(facts: &ClusterFacts, other: &MemberFacts) -> Option<(NodeId, NodeId)> {
    let leader = other.log.and_then(|log| log.leader);
    let leader = leader.filter(|leader| *leader != facts.node);
    leader.map(|leader| (other.node, leader))
}

/// Returns the refusal if another member that can be reached has, or may have, later entries.
fn later_log_refusal(facts: &ClusterFacts, group: &GroupFacts) -> Option<String> {
    if let Some(silent) = group.others.iter().find(|other| other.log.is_none()) {
        let name = facts.name(silent.node);
        return Some(format!(
            "{name} runs, but doesn't tell how far its log reaches: try again; if it is of an \
             earlier version, upgrade it, or stop it for good if it is to be lost"
        ));
    }
    let most = group.others.iter().max_by_key(|other| last_entry(other))?;
    let (here, there) = (group.log.last, last_entry(most));
    if there <= here {
        return None;
    }
    let name = facts.name(most.node);
    Some(format!(
        "{name} has later entries (the last one is {}; here it is {}): recover it there",
        describe_position(there),
        describe_position(here)
    ))
}

/// Last entry of another node's log, if the node is a member.
fn last_entry(other: &MemberFacts) -> Option<LogPosition> {
    other.log.filter(|log| log.is_member)?.last
}

fn describe_position(position: Option<LogPosition>) -> String {
    position.map_or_else(
        || "none".to_owned(),
        |at| format!("{} of term {}", at.index, at.term),
    )
}

/// Members without a vote that can't be reached, of all groups.
fn unreachable_learners(facts: &ClusterFacts) -> BTreeSet<NodeId> {
    let learners = facts.groups.iter().flat_map(|group| &group.log.learners);
    let learners = learners.filter(|node| !facts.alive.contains(*node));
    learners.copied().collect()
}

fn report_group(
    facts: &ClusterFacts,
    group: &GroupFacts,
    refusal: Option<String>,
) -> RecoveryGroup {
    let voters = group.log.voters();
    let role = |node: &NodeId| {
        if voters.contains(node) {
            "voter"
        } else if group.log.learners.contains(node) {
            "learner"
        } else {
            "none"
        }
    };
    let others = group.others.iter().map(|other| RecoveryMember {
        node: facts.name(other.node),
        role: role(&other.node).to_owned(),
        last: other.log.and_then(|log| log.last),
    });
    RecoveryGroup {
        group: group.name(),
        voters: facts.names(&voters),
        lost: facts.names(&group.lost(&facts.alive)),
        last: group.log.last,
        committed: group.log.committed.map(|at| at.index),
        others: others.collect(),
        lead_by: group.leader.map(|leader| facts.name(leader)),
        refusal,
    }
}

#[cfg(test)]
#[path = "recovery_decision_tests.rs"]
mod tests;
