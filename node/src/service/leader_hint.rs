//! The node to which operations on a group go that this node doesn't lead.

use std::sync::atomic::Ordering;

use crate::types::{AtomicNodeId, NodeId};

/// Node that led a group when it last answered, or that a refusal named as the leader.
#[derive(Debug, Default)]
pub(super) struct LeaderHint(AtomicNodeId);

impl LeaderHint {
    /// Replaces the hint, and returns the one before.
    pub(super) fn replace(&self, node: Option<NodeId>) -> Option<NodeId> {
        self.0.swap(node, Ordering::Relaxed)
    }

    /// Returns the leader if this node knows one, else the hint; never this node. A node without a
    /// replica has no news of leaders: without a hint it asks any other node.
    pub(super) fn target(
        &self,
        known: Option<NodeId>,
        me: NodeId,
        has_replica: impl FnOnce() -> bool,
        any_other: impl FnOnce() -> Option<NodeId>,
    ) -> Option<NodeId> {
        let leader = known.or_else(|| self.0.load(Ordering::Relaxed));
        let leader = leader.filter(|leader| *leader != me);
        if leader.is_some() || has_replica() {
            leader
        } else {
            any_other()
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_known_leader_wins_and_only_a_node_without_a_replica_asks_any_other() {
        let [me, known, hinted, other] = [1, 2, 3, 4].map(NodeId::new);
        let hint = LeaderHint::default();
        let target = |hint: &LeaderHint, known, has_replica| {
            hint.target(known, me, || has_replica, || Some(other))
        };
        assert_eq!(target(&hint, Some(known), false), Some(known));
        assert_eq!(target(&hint, None, false), Some(other));
        assert_eq!(target(&hint, None, true), None);
        assert_eq!(hint.replace(Some(hinted)), None);
        assert_eq!(target(&hint, Some(known), true), Some(known));
        assert_eq!(target(&hint, None, true), Some(hinted));
        assert_eq!(target(&hint, Some(me), true), None);
        assert_eq!(hint.replace(None), Some(hinted));
        assert_eq!(target(&hint, None, true), None);
    }
}
