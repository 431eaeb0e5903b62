//! Asks the nodes that can be reached how far their logs reach, for a recovery by force.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use cloudkv_proto::v1::{self as pb, call, reply};
use futures_util::future::join_all;
use tokio::time::Instant;

use super::node_lookup::name_with_successor;
use super::recovery_facts::{ClusterFacts, GroupFacts, MemberFacts, MemberLog, OtherRegion};
use crate::admin::RecoveryScope;
use crate::cluster::LocalGroups;
use crate::meta::{NodeState, Topology};
use crate::raft::{Group, LogPosition, StateMachine};
use crate::rpc::StreamKind;
use crate::service::MetadataClient;
use crate::store::keys::GroupId;
use crate::types::NodeId;

/// Time for a node to be reached: after a start connections take a moment.
const REACH_TIMEOUT: Duration = Duration::from_secs(2);
/// Interval between attempts to reach a node.
const RETRY_INTERVAL: Duration = Duration::from_millis(100);
/// Time for a node's answer.
const ANSWER_TIMEOUT: Duration = Duration::from_secs(1);

/// Answer of another node about a group's log.
pub(super) enum Answer {
    /// None in time, or there is no connection.
    Silent,
    /// The node is reached, but doesn't tell.
    Withheld,
    /// The log.
    Log(pb::LogReply),
}

/// Collects the facts on which a recovery is decided. Takes up to four seconds if nodes are lost.
pub(super) async fn survey(
    groups: &LocalGroups,
    metadata: &MetadataClient,
    scope: RecoveryScope,
) -> ClusterFacts {
    let me = groups.identity.node_id;
    let mut surveyed = survey_local_groups(groups, scope).await;
    let others = nodes_to_reach(groups, &surveyed, scope);
    let answers = join_all(others.iter().map(|node| reach(groups, *node)));
    let is_metadata_led = is_metadata_led(groups, metadata, scope);
    let (answers, is_metadata_led) = futures_util::join!(answers, is_metadata_led);
    let answers: BTreeMap<NodeId, Answer> = others.into_iter().zip(answers).collect();
    let is_alive = |(node, answer): (&NodeId, &Answer)| {
        let is_reached = !matches!(answer, Answer::Silent) || groups.is_alive(*node);
        is_reached.then_some(*node)
    };
    let mut alive: BTreeSet<NodeId> = answers.iter().filter_map(is_alive).collect();
    match scope {
        RecoveryScope::Metadata => {
            for group in &mut surveyed {
                group.others = metadata_members(&answers, &alive);
            }
        }
        RecoveryScope::Shards => {
            let asked = surveyed
                .iter()
                .map(|group| ask_members(groups, group, &alive));
            let asked = join_all(asked).await;
            for (group, others) in surveyed.iter_mut().zip(asked) {
                group.others = others;
            }
        }
    }
    let metadata = groups.meta.log_summary().await.unwrap_or_default();
    let topology = groups.catalog.topology();
    let nodes = topology.nodes().iter().map(|node| node.id);
    // One that was asked, and has come back only now, counts as lost: its log isn't known.
    let is_alive = |node: &NodeId| !answers.contains_key(node) && groups.is_alive(*node);
    alive.extend(nodes.filter(is_alive));
    alive.insert(me);
    let region = groups.identity.region_number;
    ClusterFacts {
        node: me,
        region: groups.identity.region.clone(),
        region_nodes: topology.nodes_of(region).map(|node| node.id).collect(),
        names: node_names(groups, &topology, &surveyed),
        alive,
        is_metadata_led,
        metadata_voters: metadata.voter_sets,
        other_regions: other_regions(groups, &topology),
        groups: surveyed,
    }
}

/// Returns whether the metadata has a leader, and this node has applied what it has committed. The
/// metadata itself is recovered without asking.
async fn is_metadata_led(
    groups: &LocalGroups,
    metadata: &MetadataClient,
    scope: RecoveryScope,
) -> bool {
    match scope {
        RecoveryScope::Metadata => groups.has_leader(&groups.meta),
        RecoveryScope::Shards => metadata.barrier().await.is_ok(),
    }
}

/// Describes this node's logs of the groups: of the metadata, or of the shards that it hosts.
async fn survey_local_groups(groups: &LocalGroups, scope: RecoveryScope) -> Vec<GroupFacts> {
    match scope {
        RecoveryScope::Metadata => vec![local_facts(groups, &groups.meta).await],
        RecoveryScope::Shards => {
            let shards = groups.hosted_shards();
            let shards = shards.filter(|shard| shard.group().is_member());
            join_all(shards.map(|shard| local_facts(groups, shard.group()))).await
        }
    }
}

async fn local_facts<M: StateMachine>(groups: &LocalGroups, group: &Group<M>) -> GroupFacts {
    let log = group.log_summary().await.unwrap_or_default();
    let leader = *group.leader().borrow();
    GroupFacts {
        group: group.id(),
        has_leader: groups.has_leader(group),
        is_damaged: group.damage().is_damaged(),
        log,
        leader,
        leaderless_for: group.leaderless_for(),
        others: Vec::new(),
    }
}

/// Returns the other nodes that may have a part in the decision: all for the metadata, those of the
/// region for shards.
fn nodes_to_reach(
    groups: &LocalGroups,
    surveyed: &[GroupFacts],
    scope: RecoveryScope,
) -> BTreeSet<NodeId> {
    let topology = groups.catalog.topology();
    let region = groups.identity.region_number;
    let is_concerned =
        |region_of_node| scope == RecoveryScope::Metadata || region_of_node == region;
    let nodes = topology.nodes().iter();
    let nodes = nodes.filter(|node| node.state != NodeState::Removed && is_concerned(node.region));
    let mut others: BTreeSet<NodeId> = nodes.map(|node| node.id).collect();
    for group in surveyed {
        others.extend(group.log.voters());
        others.extend(&group.log.learners);
    }
    others.remove(&groups.identity.node_id);
    others
}

/// Asks a node for its log of the metadata until it answers, or doesn't for too long.
async fn reach(groups: &LocalGroups, node: NodeId) -> Answer {
    let deadline = Instant::now() + REACH_TIMEOUT;
    loop {
        let answer = query_log(groups, node, GroupId::META).await;
        let is_known = groups.peers.contains(node);
        if !matches!(answer, Answer::Silent) || !is_known || Instant::now() >= deadline {
            return answer;
        }
        tokio::time::sleep(RETRY_INTERVAL).await;
    }
}

/// Asks a node for its log of a group, once.
pub(super) async fn query_log(groups: &LocalGroups, node: NodeId, group: GroupId) -> Answer {
    let body = call::Body::Log(pb::LogQuery {
        group: u32::from(group.0),
    });
    let peers = &groups.peers;
    let reply = peers.call(node, StreamKind::Forwarded, body, ANSWER_TIMEOUT);
    match reply.await {
        Ok(reply::Body::Log(log)) => Answer::Log(log),
        Ok(_) => Answer::Withheld,
        Err(_) => Answer::Silent,
    }
}

/// What the nodes that can be reached have told of the metadata.
fn metadata_members(
    answers: &BTreeMap<NodeId, Answer>,
    alive: &BTreeSet<NodeId>,
) -> Vec<MemberFacts> {
    let reached = answers.iter().filter(|(node, _)| alive.contains(*node));
    let facts = reached.map(|(node, answer)| member_facts(*node, answer));
    facts.collect()
}

/// Asks the members of a shard that can be reached, also those that it has only by its placement.
async fn ask_members(
    groups: &LocalGroups,
    group: &GroupFacts,
    alive: &BTreeSet<NodeId>,
) -> Vec<MemberFacts> {
    let topology = groups.catalog.topology();
    let region = groups.identity.region_number;
    let number = group.group.shard_number();
    let placement = number.and_then(|number| topology.placement(region, number));
    let is_placed = |node| placement.is_some_and(|placement| placement.has_member(node));
    let members = alive.iter().copied();
    let members = members.filter(|node| group.log.has_member(*node) || is_placed(*node));
    let queries = members.map(|node| async move {
        let answer = query_log(groups, node, group.group).await;
        member_facts(node, &answer)
    });
    join_all(queries).await
}

fn member_facts(node: NodeId, answer: &Answer) -> MemberFacts {
    let log = match answer {
        Answer::Log(log) => Some(MemberLog {
            is_member: log.is_member,
            last: log.last.as_ref().map(position_from_pb),
            leader: NodeId::nonzero(log.leader),
        }),
        Answer::Silent | Answer::Withheld => None,
    };
    MemberFacts { node, log }
}

/// Decodes the position of an entry.
pub(super) fn position_from_pb(last: &pb::LogId) -> LogPosition {
    LogPosition {
        term: last.term,
        index: last.index,
    }
}

/// Names of all nodes of the topology, and of members that it doesn't have.
fn node_names(
    groups: &LocalGroups,
    topology: &Topology,
    surveyed: &[GroupFacts],
) -> BTreeMap<NodeId, String> {
    let nodes = topology.nodes().iter();
    let nodes = nodes.map(|node| (node.id, name_with_successor(topology, node).0));
    let mut names: BTreeMap<NodeId, String> = nodes.collect();
    for node in surveyed.iter().flat_map(|group| group.log.voters()) {
        let name = || groups.peers.name_of(node);
        names.entry(node).or_insert_with(name);
    }
    names
}

/// The other regions that aren't being removed, with the nodes that can be reached.
fn other_regions(groups: &LocalGroups, topology: &Topology) -> Vec<OtherRegion> {
    let here = groups.identity.region_number;
    let regions = topology.all_regions().iter();
    let others = regions.filter(|(number, region)| **number != here && !region.is_removing);
    let others = others.map(|(number, region)| {
        let nodes = topology.nodes_of(*number);
        let active =
            nodes.filter(|node| node.state == NodeState::Active && groups.is_alive(node.id));
        OtherRegion {
            name: region.name.clone(),
            is_joining: region.is_joining,
            addresses: active.map(|node| node.rpc.clone()).collect(),
        }
    });
    others.collect()
}
