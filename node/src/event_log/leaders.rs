//! Logs changes of leadership, with their reasons.

use std::collections::BTreeMap;
use std::sync::Arc;

use super::text::list_names;
use crate::cluster::LocalGroups;
use crate::raft::{Group, StateMachine};
use crate::store::keys::GroupId;
use crate::types::NodeId;

/// A change of leadership: the previous leader, the new one, and the reason.
type LeaderChange = (NodeId, NodeId, String);

/// Last known leaders.
pub(super) struct LeadershipEvents {
    groups: Arc<LocalGroups>,
    known: BTreeMap<GroupId, NodeId>,
}

impl LeadershipEvents {
    /// Creates the state, with no known leader.
    pub(super) fn new(groups: Arc<LocalGroups>) -> Self {
        Self {
            groups,
            known: BTreeMap::new(),
        }
    }

    /// Logs groups whose leadership has moved, as one event where several moved for one reason.
    pub(super) fn check(&mut self) {
        let mut moves: BTreeMap<LeaderChange, Vec<GroupId>> = BTreeMap::new();
        let groups = self.groups.clone();
        self.check_group(&groups.meta, &mut moves);
        for shard in groups.hosted_shards() {
            self.check_group(shard.group(), &mut moves);
        }
        for ((from, to, reason), moved) in moves {
            let (from, to) = (self.node_name(from), self.node_name(to));
            let groups = list_names(&moved);
            tracing::info!(groups, from, to, reason, "leadership moved");
        }
    }

    fn check_group<M: StateMachine>(
        &mut self,
        group: &Group<M>,
        moves: &mut BTreeMap<LeaderChange, Vec<GroupId>>,
    ) {
        let leader = *group.leader().borrow();
        let Some(leader) = leader.filter(|_| self.groups.has_leader(group)) else {
            return;
        };
        let before = self.known.insert(group.id(), leader);
        if let Some(before) = before.filter(|before| *before != leader) {
            let reason = self.change_reason(group, before);
            let moved = moves.entry((before, leader, reason)).or_default();
            moved.push(group.id());
        }
    }

    fn change_reason<M: StateMachine>(&self, group: &Group<M>, before: NodeId) -> String {
        if let Some(reason) = group.take_transfer_reason() {
            return reason.to_owned();
        }
        if before == self.groups.identity.node_id {
            return "this node got no response of a majority in time".to_owned();
        }
        let name = self.groups.node_name(before);
        if self.groups.failure_detector.is_alive(before) {
            format!("{name} was unreachable for too long, or lost an election")
        } else {
            format!("{name} is unreachable")
        }
    }

    fn node_name(&self, node: NodeId) -> String {
        if node == self.groups.identity.node_id {
            return "this node".to_owned();
        }
        self.groups.node_name(node)
    }
}
