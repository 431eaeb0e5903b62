//! Logs changes of leadership, with their reasons.

use std::collections::BTreeMap;
use std::sync::Arc;

use super::names;
use crate::assembly::groups::Groups;
use crate::raft::{Group, Machine, NodeId};
use crate::store::keys::GroupId;

/// A change of leadership: the previous leader, the new one, and the reason.
type Move = (NodeId, NodeId, String);

/// Last known leaders.
pub(super) struct Leaders {
    groups: Arc<Groups>,
    seen: BTreeMap<GroupId, NodeId>,
}

impl Leaders {
    /// Creates the state, with no known leader.
    pub fn new(groups: Arc<Groups>) -> Self {
        Self {
            groups,
            seen: BTreeMap::new(),
        }
    }

    /// Logs groups whose leadership has moved, as one event where several moved for one reason.
    pub fn look(&mut self) {
        let mut moves: BTreeMap<Move, Vec<GroupId>> = BTreeMap::new();
        let groups = self.groups.clone();
        self.compare(&groups.meta, &mut moves);
        for shard in groups.shards.iter().filter(|shard| shard.is_hosted()) {
            self.compare(shard.group(), &mut moves);
        }
        for ((from, to, reason), moved) in moves {
            let (from, to) = (self.name(from), self.name(to));
            let groups = names(&moved);
            tracing::info!(groups, from, to, reason, "leadership moved");
        }
    }

    fn compare<M: Machine>(&mut self, group: &Group<M>, moves: &mut BTreeMap<Move, Vec<GroupId>>) {
        let leader = *group.leader().borrow();
        let Some(leader) = leader.filter(|_| self.groups.has_leader(group)) else {
            return;
        };
        let before = self.seen.insert(group.id(), leader);
        if let Some(before) = before.filter(|before| *before != leader) {
            let reason = self.reason(group, before);
            let moved = moves.entry((before, leader, reason)).or_default();
            moved.push(group.id());
        }
    }

    fn reason<M: Machine>(&self, group: &Group<M>, before: NodeId) -> String {
        if let Some(reason) = group.take_hand_over() {
            return reason.to_owned();
        }
        if before == self.groups.identity.node_id {
            return "this node got no response of a majority in time".to_owned();
        }
        let name = self.groups.node_name(before);
        if self.groups.vitals.lives(before) {
            format!("{name} was unreachable for too long, or lost an election")
        } else {
            format!("{name} is unreachable")
        }
    }

    fn name(&self, node: NodeId) -> String {
        if node == self.groups.identity.node_id {
            return "this node".to_owned();
        }
        self.groups.node_name(node)
    }
}
