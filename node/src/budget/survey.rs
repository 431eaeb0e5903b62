//! Survey of a bucket's keys and leases before quota is granted, and the decision on the grant.

use std::collections::BTreeSet;

use crate::raft::NodeId;

/// Survey of a bucket's keys and quota. All nodes are asked for their leases first, and all shards
/// for their numbers of keys afterwards, so that a write which ended in between is counted twice
/// rather than not at all.
#[derive(Clone, Debug, Default)]
pub struct Survey {
    /// Nodes that reported their leases.
    pub told: BTreeSet<NodeId>,
    /// Number of keys in these leases, and in grants that may be in flight.
    pub held: u64,
    /// Leaders of all shards when their keys were counted.
    pub leaders: BTreeSet<NodeId>,
    /// Number of keys in all shards.
    pub keys: u64,
}

/// Decision on a request for quota.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Grantable {
    /// Quota for this number of keys can be granted.
    Block(u64),
    /// Nothing can be granted yet: quota that isn't used for a key is leased, or may be.
    Later,
    /// Nothing can be granted: the limit is reached.
    Full,
}

impl Survey {
    /// Decides what may be granted at once: one of `parts` parts of the limit, if that is left.
    pub fn grantable(&self, limit: u64, parts: u64) -> Grantable {
        if self.keys >= limit {
            return Grantable::Full;
        }
        // A node that leads a shard and didn't report its lease could have any quota.
        if !self.leaders.is_subset(&self.told) {
            return Grantable::Later;
        }
        match limit.saturating_sub(self.keys.saturating_add(self.held)) {
            0 => Grantable::Later,
            free => Grantable::Block((limit / parts.max(1)).clamp(1, free)),
        }
    }
}
