//! Scenarios of lost nodes, and what can be recovered then.

use std::time::Duration;

use super::super::recovery_facts::{MemberLog, OtherRegion};
use super::*;
use crate::raft::LogSummary;
use crate::store::keys::GroupId;

fn ids(numbers: &[u64]) -> BTreeSet<NodeId> {
    numbers.iter().copied().map(NodeId::from).collect()
}

fn at(term: u64, index: u64) -> Option<LogPosition> {
    Some(LogPosition { term, index })
}

/// A group whose voters are nodes 1 to 3, of which this node knows 812 entries and 2 as the last
/// leader.
fn group(id: GroupId) -> GroupFacts {
    GroupFacts {
        group: id,
        has_leader: false,
        is_damaged: false,
        log: LogSummary {
            last: at(5, 812),
            committed: at(5, 810),
            voter_sets: vec![ids(&[1, 2, 3])],
            learners: BTreeSet::new(),
        },
        leader: Some(NodeId::from(2)),
        leaderless_for: Some(Duration::from_secs(35)),
        others: Vec::new(),
    }
}

fn member(number: u64, last: Option<LogPosition>) -> MemberFacts {
    MemberFacts {
        node: NodeId::from(number),
        log: Some(MemberLog {
            is_member: true,
            last,
            leader: None,
        }),
    }
}

/// Node 1 of region us, whose nodes are 1 to 3; of these `alive` are reached.
fn facts(alive: &[u64], groups: Vec<GroupFacts>) -> ClusterFacts {
    ClusterFacts {
        node: NodeId::from(1),
        region: "us".to_owned(),
        region_nodes: ids(&[1, 2, 3]),
        names: (1..=9)
            .map(|number| (NodeId::from(number), format!("n{number}")))
            .collect(),
        alive: ids(alive),
        is_metadata_led: true,
        metadata_voters: vec![ids(&[1, 7, 8])],
        other_regions: Vec::new(),
        groups,
    }
}

/// The same beside region eu, with nodes 7 and 8.
fn facts_of_two_regions(alive: &[u64], groups: Vec<GroupFacts>) -> ClusterFacts {
    let eu = OtherRegion {
        name: "eu".to_owned(),
        is_joining: false,
        addresses: vec!["n7:7070".to_owned(), "n8:7070".to_owned()],
    };
    ClusterFacts {
        other_regions: vec![eu],
        ..facts(alive, groups)
    }
}

fn decide_metadata(alive: &[u64], group: GroupFacts) -> RecoveryDecision {
    decide(&facts(alive, vec![group]), RecoveryScope::Metadata)
}

fn refusal(decision: &RecoveryDecision) -> &str {
    assert_eq!(decision.step, None);
    assert!(decision.lost.is_empty() && decision.report.confirmation.is_empty());
    decision.report.refusal.as_deref().expect("refused")
}

fn joined(texts: &[String]) -> String {
    texts.join("\n")
}

#[test]
fn the_metadata_is_recovered_where_its_majority_is_lost() {
    let decision = decide_metadata(&[1], group(GroupId::META));
    assert_eq!(decision.step, Some(RecoveryStep::Metadata));
    assert_eq!(decision.lost, ids(&[2, 3]));
    let report = decision.report;
    assert_eq!(report.refusal, None);
    assert_eq!(report.confirmation, "recover the metadata without n2, n3");
    assert_eq!((report.node.as_str(), report.rejoins), ("n1", false));
    assert_eq!(report.groups[0].group, "metadata");
    assert_eq!(report.groups[0].voters, ["n1", "n2", "n3"]);
    assert_eq!(report.groups[0].lost, ["n2", "n3"]);
    assert_eq!(report.groups[0].committed, Some(810));
    assert_eq!(report.groups[0].lead_by.as_deref(), Some("n2"));
    let losses = joined(&report.losses);
    assert!(
        losses.contains("metadata: entries after 812 of term 5 that n2 and n3 alone have")
            && losses.contains("n2, was heard 35 s ago"),
        "{losses}"
    );
}

#[test]
fn a_group_that_has_or_elects_a_leader_is_not_recovered() {
    let led = GroupFacts {
        has_leader: true,
        ..group(GroupId::META)
    };
    let decision = decide_metadata(&[1], led);
    assert!(refusal(&decision).ends_with("it has a leader"));
    let decision = decide_metadata(&[1, 3], group(GroupId::META));
    assert!(refusal(&decision).contains("they elect a leader"));
    let mut cut_off = group(GroupId::META);
    cut_off.log.learners = ids(&[4]);
    cut_off.others = vec![member(4, at(5, 812))];
    if let Some(log) = &mut cut_off.others[0].log {
        log.leader = Some(NodeId::from(2));
    }
    let decision = decide_metadata(&[1, 4], cut_off.clone());
    assert!(refusal(&decision).contains("n2, which n4 follows"));
    // It follows this node, which has lost its majority.
    if let Some(log) = &mut cut_off.others[0].log {
        log.leader = Some(NodeId::from(1));
    }
    let decision = decide_metadata(&[1, 4], cut_off);
    assert_eq!(decision.report.refusal, None);
}

#[test]
fn a_majority_of_each_set_of_a_joint_configuration_is_needed() {
    let mut joint = group(GroupId::META);
    joint.log.voter_sets = vec![ids(&[1, 2, 3]), ids(&[1, 4, 5])];
    let ask = |alive: &[u64]| {
        let mut joint = joint.clone();
        let others = alive.iter().filter(|number| **number != 1);
        joint.others = others.map(|number| member(*number, at(5, 1))).collect();
        decide_metadata(alive, joint)
    };
    // Four of five, and yet no leader can be elected.
    let decision = ask(&[1, 4, 5]);
    assert_eq!(decision.lost, ids(&[2, 3]));
    assert!(refusal(&ask(&[1, 3, 4])).contains("they elect a leader"));
}

#[test]
fn a_group_is_recovered_where_most_of_it_is_left() {
    let with_learner = |last| {
        let mut group = group(GroupId::META);
        group.log.learners = ids(&[4]);
        group.others = vec![member(4, last)];
        decide_metadata(&[1, 4], group)
    };
    for last in [None, at(4, 999), at(5, 811), at(5, 812)] {
        assert_eq!(with_learner(last).report.refusal, None, "{last:?}");
    }
    for (last, text) in [(at(5, 813), "813 of term 5"), (at(6, 12), "12 of term 6")] {
        let decision = with_learner(last);
        let refusal = refusal(&decision);
        assert!(
            refusal.contains("n4 has later entries")
                && refusal.contains(text)
                && refusal.contains("812 of term 5")
                && refusal.ends_with("recover it there"),
            "{refusal}"
        );
    }
}

#[test]
fn later_entries_of_a_node_that_is_no_member_do_not_count() {
    let mut group = group(GroupId::META);
    group.others = vec![member(4, at(9, 9))];
    if let Some(log) = &mut group.others[0].log {
        log.is_member = false;
    }
    let decision = decide_metadata(&[1, 4], group);
    assert_eq!(decision.report.refusal, None);
    assert_eq!(decision.report.groups[0].others[0].role, "none");
}

#[test]
fn a_node_that_runs_and_tells_nothing_may_have_more() {
    let mut group = group(GroupId::META);
    group.others = vec![MemberFacts {
        node: NodeId::from(4),
        log: None,
    }];
    let decision = decide_metadata(&[1, 4], group);
    assert!(refusal(&decision).contains("n4 runs, but doesn't tell"));
}

#[test]
fn a_learner_that_cannot_be_asked_is_named_and_not_declared_lost() {
    let mut group = group(GroupId::META);
    group.log.learners = ids(&[4]);
    let decision = decide_metadata(&[1], group);
    assert_eq!(decision.lost, ids(&[2, 3]));
    assert_eq!(decision.report.unreachable, ["n4"]);
    let losses = joined(&decision.report.losses);
    assert!(losses.contains("n4 can't be asked"), "{losses}");
}

#[test]
fn a_node_without_the_group_and_one_with_a_damaged_state_are_refused() {
    let mut foreign = group(GroupId::META);
    foreign.log.voter_sets = vec![ids(&[2, 3, 4])];
    assert!(refusal(&decide_metadata(&[1], foreign)).contains("holds nothing of it"));
    let mut empty = group(GroupId::META);
    empty.log.last = None;
    assert!(refusal(&decide_metadata(&[1], empty)).contains("holds nothing of it"));
    let damaged = GroupFacts {
        is_damaged: true,
        ..group(GroupId::META)
    };
    assert!(refusal(&decide_metadata(&[1], damaged)).contains("damaged"));
}

#[test]
fn shards_without_a_majority_are_recovered_and_the_others_left_out() {
    let led = GroupFacts {
        has_leader: true,
        ..group(GroupId::shard(1))
    };
    let groups = vec![group(GroupId::shard(0)), led, group(GroupId::shard(2))];
    let decision = decide(&facts(&[1], groups), RecoveryScope::Shards);
    let shards = vec![0, 2];
    assert_eq!(decision.step, Some(RecoveryStep::Shards { shards }));
    assert!(decision.survivors.is_empty());
    let report = decision.report;
    assert_eq!(
        report.confirmation,
        "recover shard-0, shard-2 without n2, n3"
    );
    let refusals = report.groups.iter().map(|it| it.refusal.as_deref());
    let refusals: Vec<Option<&str>> = refusals.collect();
    assert_eq!(refusals, [None, Some("it has a leader"), None]);
}

#[test]
fn refusals_of_shards_are_listed_by_their_reason() {
    let led = |number| GroupFacts {
        has_leader: true,
        ..group(GroupId::shard(number))
    };
    let damaged = GroupFacts {
        is_damaged: true,
        ..group(GroupId::shard(5))
    };
    let groups = vec![led(0), led(1), led(2), damaged];
    let decision = decide(&facts(&[1], groups), RecoveryScope::Shards);
    let text = refusal(&decision);
    assert!(
        text.contains("shard-0 to shard-2 can't be recovered here: it has a leader")
            && text.contains("shard-5 can't be recovered here: its state is damaged"),
        "{text}"
    );
    let decision = decide(&facts(&[1], Vec::new()), RecoveryScope::Shards);
    assert!(refusal(&decision).contains("hosts no shard"));
}

#[test]
fn shards_are_recovered_after_the_metadata() {
    let facts = ClusterFacts {
        is_metadata_led: false,
        ..facts(&[1], vec![group(GroupId::shard(0))])
    };
    let decision = decide(&facts, RecoveryScope::Shards);
    assert!(refusal(&decision).contains("admin metadata recover"));
}

#[test]
fn with_other_regions_the_region_joins_anew() {
    let groups = vec![group(GroupId::shard(0))];
    let facts = facts_of_two_regions(&[1, 7, 8], groups);
    let decision = decide(&facts, RecoveryScope::Shards);
    let (region, join) = (
        "us".to_owned(),
        vec!["n7:7070".to_owned(), "n8:7070".to_owned()],
    );
    assert_eq!(
        decision.step,
        Some(RecoveryStep::RegionExport { region, join })
    );
    assert!(decision.survivors.is_empty() && decision.report.rejoins);
    assert_eq!(decision.lost, ids(&[2, 3]));
    assert_eq!(
        decision.report.confirmation,
        "recover region us without n2, n3: it joins the other regions anew"
    );
    let losses = joined(&decision.report.losses);
    assert!(losses.contains("come back from there"), "{losses}");
    // The metadata is recovered as in a cluster with one region.
    let metadata = ClusterFacts {
        groups: vec![group(GroupId::META)],
        ..facts
    };
    let decision = decide(&metadata, RecoveryScope::Metadata);
    assert_eq!(decision.step, Some(RecoveryStep::Metadata));
    assert!(decision.survivors.is_empty() && !decision.report.rejoins);
}

#[test]
fn all_survivors_of_a_region_join_anew_together() {
    let mut shard = group(GroupId::shard(0));
    shard.log.voter_sets = vec![ids(&[1, 2, 3, 4, 5])];
    // It has more; but what this node has isn't lost by that.
    shard.others = vec![member(2, at(9, 9))];
    let facts = ClusterFacts {
        region_nodes: ids(&[1, 2, 3, 4, 5]),
        ..facts_of_two_regions(&[1, 2, 7, 8], vec![shard])
    };
    let decision = decide(&facts, RecoveryScope::Shards);
    assert!(decision.step.is_some());
    assert_eq!(decision.survivors, ids(&[2]));
    assert_eq!(decision.lost, ids(&[3, 4, 5]));
    let next = joined(&decision.report.next);
    assert!(next.contains("n1 and n2 stop; start them again"), "{next}");
    // In a cluster with one region, others stay what they are.
    let alone = ClusterFacts {
        other_regions: Vec::new(),
        ..facts
    };
    let decision = decide(&alone, RecoveryScope::Shards);
    assert!(refusal(&decision).contains("n2 has later entries"));
    assert!(decision.survivors.is_empty());
}

#[test]
fn a_region_joins_anew_only_where_others_admit_it() {
    let facts = facts_of_two_regions(&[1, 7, 8], vec![group(GroupId::shard(0))]);
    let with = |change: &dyn Fn(&mut ClusterFacts)| {
        let mut facts = facts.clone();
        change(&mut facts);
        let decision = decide(&facts, RecoveryScope::Shards);
        refusal(&decision).to_owned()
    };
    let joining = with(&|facts| facts.other_regions[0].is_joining = true);
    assert!(joining.contains("region eu is joining"), "{joining}");
    let silent = with(&|facts| facts.other_regions[0].addresses.clear());
    assert!(silent.contains("no node of another region"), "{silent}");
    let voting = with(&|facts| facts.metadata_voters = vec![ids(&[1, 2, 7])]);
    assert!(
        voting.contains("needs nodes of this region") && voting.contains("n2, n3"),
        "{voting}"
    );
    let unled = with(&|facts| facts.is_metadata_led = false);
    assert!(unled.contains("admin metadata recover"), "{unled}");
}
