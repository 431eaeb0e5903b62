//! Tracks when each member last acknowledged this leader. The lease counts from these times.
//!
//! Invariant: a member's time is that of a message which it acknowledged, taken before the message
//! was sent. openraft keeps such times, too, but with several appends in flight it takes an
//! acknowledgement of the first for one of all that end at the same entry: a leader that had
//! paused, and received an old response after it had sent a new message, would hold a lease that
//! nobody granted.

use std::collections::{BTreeSet, HashMap};
use std::time::Instant;

use parking_lot::Mutex;

use crate::types::NodeId;

/// Acknowledgements of the members of one group.
#[derive(Debug, Default)]
pub(super) struct AckTracker {
    last: Mutex<HashMap<NodeId, Ack>>,
}

#[derive(Clone, Copy, Debug)]
struct Ack {
    term: u64,
    sent: Instant,
}

impl AckTracker {
    /// Records that a member has accepted a message of this leader, sent in `term` at `sent` or
    /// later.
    pub(super) fn record(&self, member: NodeId, term: u64, sent: Instant) {
        let mut last = self.last.lock();
        let ack = last.entry(member).or_insert(Ack { term, sent });
        if term > ack.term || (term == ack.term && sent > ack.sent) {
            *ack = Ack { term, sent };
        }
    }

    /// Returns the latest time at which a majority of each of `configs` had this node, `me`, as
    /// their leader of `term`. This node itself counts as of `now`.
    pub(super) fn quorum_ack_time(
        &self,
        term: u64,
        (me, now): (NodeId, Instant),
        configs: &[BTreeSet<NodeId>],
    ) -> Option<Instant> {
        let last = self.last.lock();
        let time = |voter: &NodeId| match last.get(voter) {
            _ if *voter == me => Some(now),
            Some(ack) if ack.term == term => Some(ack.sent),
            Some(_) | None => None,
        };
        let of_config = |voters: &BTreeSet<NodeId>| {
            let mut times: Vec<Option<Instant>> = voters.iter().map(time).collect();
            times.sort_unstable_by(|a, b| b.cmp(a));
            times.get(voters.len() / 2).copied().flatten()
        };
        let times: Option<Vec<Instant>> = configs.iter().map(of_config).collect();
        times?.into_iter().min()
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;

    fn id(number: u64) -> NodeId {
        NodeId::from(number)
    }

    fn set(ids: &[u64]) -> BTreeSet<NodeId> {
        ids.iter().copied().map(NodeId::from).collect()
    }

    #[test]
    fn a_quorum_counts_from_its_slowest_member() {
        let (acks, begin) = (AckTracker::default(), Instant::now());
        let at = |millis| begin + Duration::from_millis(millis);
        let me = (id(1), at(100));
        assert_eq!(acks.quorum_ack_time(5, me, &[set(&[1, 2, 3])]), None);
        acks.record(id(2), 5, at(10));
        assert_eq!(
            acks.quorum_ack_time(5, me, &[set(&[1, 2, 3])]),
            Some(at(10))
        );
        acks.record(id(3), 5, at(20));
        assert_eq!(
            acks.quorum_ack_time(5, me, &[set(&[1, 2, 3])]),
            Some(at(20))
        );
        assert_eq!(
            acks.quorum_ack_time(5, me, &[set(&[1, 2, 3, 4, 5])]),
            Some(at(10))
        );
        // While members change, a majority of both sets is needed.
        assert_eq!(
            acks.quorum_ack_time(5, me, &[set(&[1, 2, 3]), set(&[1, 2])]),
            Some(at(10))
        );
        assert_eq!(
            acks.quorum_ack_time(5, me, &[set(&[1, 2, 3]), set(&[1, 4, 5])]),
            None
        );
        assert_eq!(acks.quorum_ack_time(5, me, &[set(&[1])]), Some(at(100)));
        assert_eq!(
            acks.quorum_ack_time(5, me, &[set(&[2, 3, 4])]),
            Some(at(10))
        );
        assert_eq!(acks.quorum_ack_time(5, me, &[]), None);
    }

    #[test]
    fn older_acks_and_acks_of_another_term_are_ignored() {
        let (acks, begin) = (AckTracker::default(), Instant::now());
        let at = |millis| begin + Duration::from_millis(millis);
        let me = (id(1), at(100));
        let pair = [set(&[1, 2])];
        acks.record(id(2), 5, at(20));
        acks.record(id(2), 5, at(10));
        acks.record(id(2), 4, at(90));
        assert_eq!(acks.quorum_ack_time(5, me, &pair), Some(at(20)));
        assert_eq!(acks.quorum_ack_time(4, me, &pair), None);
        acks.record(id(2), 6, at(15));
        assert_eq!(acks.quorum_ack_time(6, me, &pair), Some(at(15)));
        assert_eq!(acks.quorum_ack_time(5, me, &pair), None);
    }
}
