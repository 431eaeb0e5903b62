//! Decides which survivor of a region imports what it has of a shard, after the region has joined
//! the others anew: of each shard the one with the most up-to-date log.
//!
//! An imported key gets a new version. If several nodes imported a shard, the older value of one
//! could come first, and hide the newer one of another.

use std::cmp::Reverse;
use std::collections::BTreeMap;

use crate::cluster::rejoin_scope::ShardScope;
use crate::raft::LogPosition;
use crate::types::{Nanos, NodeId};

/// What the survivors of a region have of one of its shards.
#[derive(Clone, Debug, Default)]
pub(super) struct ShardSurvivors {
    /// Last entries of the survivors that are members.
    pub logs: BTreeMap<NodeId, Option<LogPosition>>,
    /// Survivor that leads it, with a majority.
    pub leader: Option<NodeId>,
    /// Watermark of the region that all other regions have received.
    pub watermark: Nanos,
}

impl ShardSurvivors {
    /// Node that imports the shard: its leader, or else the one with the most up-to-date log.
    fn importer(&self) -> Option<NodeId> {
        let leader = self.leader.filter(|node| self.logs.contains_key(node));
        let newest = || {
            let logs = self.logs.iter();
            let newest = logs.max_by_key(|(node, last)| (**last, Reverse(**node)));
            newest.map(|(node, _)| *node)
        };
        leader.or_else(newest)
    }
}

/// Returns what a survivor imports of each shard, in the order of their numbers.
pub(super) fn scopes_of(node: NodeId, shards: &[ShardSurvivors]) -> Vec<ShardScope> {
    let scope = |shard: &ShardSurvivors| ShardScope {
        is_imported: shard.importer().is_none_or(|importer| importer == node),
        watermark: shard.watermark,
    };
    shards.iter().map(scope).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn shard(logs: &[(u64, u64, u64)], leader: Option<u64>) -> ShardSurvivors {
        let logs = logs.iter().map(|(node, term, index)| {
            let (term, index) = (*term, *index);
            (NodeId::from(*node), Some(LogPosition { term, index }))
        });
        ShardSurvivors {
            logs: logs.collect(),
            leader: leader.map(NodeId::from),
            watermark: 7,
        }
    }

    /// Shards that each of the nodes 1 to 3 imports.
    fn imported(shards: &[ShardSurvivors]) -> Vec<Vec<usize>> {
        let of = |node| {
            let scopes = scopes_of(NodeId::from(node), shards);
            assert!(scopes.iter().all(|scope| scope.watermark == 7));
            let imported = scopes.iter().enumerate();
            let imported = imported.filter(|(_, scope)| scope.is_imported);
            imported.map(|(number, _)| number).collect()
        };
        (1..=3).map(of).collect()
    }

    #[test]
    fn each_shard_is_imported_by_the_survivor_with_the_most() {
        let shards = [
            shard(&[(1, 5, 10), (2, 5, 9)], None),
            shard(&[(1, 5, 10), (2, 6, 2)], None),
            shard(&[(2, 4, 4), (3, 4, 4)], None),
        ];
        assert_eq!(imported(&shards), [vec![0], vec![1, 2], vec![]]);
    }

    #[test]
    fn the_leader_imports_even_if_another_has_more() {
        let shards = [shard(&[(1, 5, 10), (2, 5, 9), (3, 5, 10)], Some(2))];
        assert_eq!(imported(&shards), [vec![], vec![0], vec![]]);
        // One that has told nothing doesn't count.
        let shards = [shard(&[(1, 5, 10), (2, 5, 9)], Some(3))];
        assert_eq!(imported(&shards), [vec![0], vec![], vec![]]);
    }

    #[test]
    fn what_is_known_of_no_survivor_is_imported_by_all() {
        let shards = [shard(&[], None)];
        assert_eq!(imported(&shards), [vec![0], vec![0], vec![0]]);
    }
}
