//! What is found out before room is granted, and what may be granted then.

use std::collections::BTreeSet;

use crate::raft::NodeId;

/// What is known of a bucket's keys and room: first all nodes were asked what they hold, then all
/// shards how many keys they have, so that a write which ended between is counted twice rather than
/// not at all.
#[derive(Clone, Debug, Default)]
pub struct Survey {
    /// The nodes that told what they hold.
    pub told: BTreeSet<NodeId>,
    /// The room that they hold, and the grants that may be on their way.
    pub held: u64,
    /// The leaders of all shards, as they counted their keys.
    pub leaders: BTreeSet<NodeId>,
    /// The keys of all shards.
    pub keys: u64,
}

/// What may be granted.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Grantable {
    /// Room for so many keys.
    Block(u64),
    /// None yet: some that isn't used for a key is held, or may be.
    Later,
    /// None: the keys that are there are as many as there may be.
    Full,
}

impl Survey {
    /// Decides what may be granted at once: one of `parts` parts of the limit, if so much is left.
    pub fn grantable(&self, limit: u64, parts: u64) -> Grantable {
        if self.keys >= limit {
            return Grantable::Full;
        }
        // A node that leads a shard and didn't say what it holds could hold anything.
        if !self.leaders.is_subset(&self.told) {
            return Grantable::Later;
        }
        match limit.saturating_sub(self.keys.saturating_add(self.held)) {
            0 => Grantable::Later,
            free => Grantable::Block((limit / parts.max(1)).clamp(1, free)),
        }
    }
}
