//! Survey of a bucket's keys and leases before quota is granted, and the decision on the grant.

use std::collections::BTreeSet;

use crate::types::NodeId;

/// Survey of a bucket's keys and quota. All nodes are asked for their leases first, and all shards
/// for their numbers of keys afterwards, so that a write which ended in between is counted twice
/// rather than not at all.
#[derive(Clone, Debug, Default)]
pub(crate) struct UsageSurvey {
    /// Nodes that reported their leases.
    pub reported: BTreeSet<NodeId>,
    /// Number of keys in these leases, and in grants that may be in flight.
    pub leased: u64,
    /// Leaders of all shards when their keys were counted.
    pub leaders: BTreeSet<NodeId>,
    /// Number of keys in all shards.
    pub keys: u64,
}

/// Decision on a request for quota.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum GrantDecision {
    /// Quota for this number of keys can be granted.
    Block(u64),
    /// Nothing can be granted yet: quota that isn't used for a key is leased, or may be.
    Retry,
    /// Nothing can be granted: the limit is reached.
    Full,
}

impl UsageSurvey {
    /// Decides what may be granted at once: one of `parts` parts of the limit, if that is left.
    pub(crate) fn decide_grant(&self, limit: u64, parts: u64) -> GrantDecision {
        if self.keys >= limit {
            return GrantDecision::Full;
        }
        // A node that leads a shard and didn't report its lease could have any quota.
        if !self.leaders.is_subset(&self.reported) {
            return GrantDecision::Retry;
        }
        match limit.saturating_sub(self.keys.saturating_add(self.leased)) {
            0 => GrantDecision::Retry,
            free => GrantDecision::Block((limit / parts.max(1)).clamp(1, free)),
        }
    }
}
