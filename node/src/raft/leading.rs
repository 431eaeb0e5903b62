//! Who leads: the lease kept true to it, and leadership handed over.
//!
//! Invariant: a read is answered under the lease only while no other node can have been elected.
//! Followers promise not to vote for anybody else for `election_max` after they heard from the
//! leader; the lease counts 0.6 of that from when the acknowledged message was sent, so clocks may
//! run 40 % apart. Handing over goes around that promise: the lease is closed first, for the term.

use std::sync::Arc;
use std::time::{Duration, Instant};

use openraft::async_runtime::{Instant as _, WatchReceiver};
use openraft::{Raft, RaftMetrics, ServerState};
use tokio::sync::watch;

use super::acks::Acks;
use super::group::Group;
use super::lease::Lease;
use super::replica::Replica;
use super::types::{Machine, NodeId, Types};

/// How often the lease follows the acknowledgements, at most.
const FOLLOW: Duration = Duration::from_millis(10);
/// Part of the followers' promise that a lease lasts.
const LEASE_TENTHS: u32 = 6;
/// Time for a member's log to become level before leadership is handed over to it.
const LEVEL_WITHIN: Duration = Duration::from_millis(500);
/// Time for the election of who takes over.
const ELECTED_WITHIN: Duration = Duration::from_secs(1);
/// How often the metrics are looked at while waiting.
const LOOK: Duration = Duration::from_millis(2);

/// What the lease of a group is made of.
pub(super) struct Leadership {
    /// The lease.
    pub lease: Arc<Lease>,
    /// When members last acknowledged this node as their leader.
    pub acks: Arc<Acks>,
    /// For how long followers promise to vote for nobody else.
    pub promise: Duration,
}

/// Keeps the lease true to the group's leadership, and tells who leads, until the group ends.
pub(super) async fn follow<M: Machine>(
    raft: Raft<Types<M>, Replica<M>>,
    leadership: Leadership,
    leader: watch::Sender<Option<NodeId>>,
) {
    let mut metrics = raft.metrics();
    loop {
        let current = {
            let metrics = metrics.borrow_watched();
            leadership.renew(&metrics);
            metrics.current_leader
        };
        leader.send_if_modified(|known| std::mem::replace(known, current) != current);
        if metrics.changed().await.is_err() {
            leadership.lease.follow();
            return;
        }
        tokio::time::sleep(FOLLOW).await;
    }
}

impl Leadership {
    fn renew<M: Machine>(&self, metrics: &RaftMetrics<Types<M>>) {
        let leads = metrics.state == ServerState::Leader
            && metrics.vote.committed
            && metrics.vote.leader_id.voted_for == metrics.id;
        if !leads || metrics.running_state.is_err() {
            return self.lease.follow();
        }
        let term = metrics.vote.leader_id.term;
        if metrics.membership_config.voter_ids().eq([metrics.id]) {
            // Nobody else can be elected.
            return self.lease.lead(term, None);
        }
        let configs = metrics.membership_config.membership().get_joint_config();
        let me = (metrics.id, Instant::now());
        match self.acks.quorum(term, me, configs) {
            Some(acked) => {
                let until = acked + self.promise * LEASE_TENTHS / 10;
                self.lease.lead(term, Some(until));
            }
            None => self.lease.follow(),
        }
    }
}

impl<M: Machine> Group<M> {
    /// Hands leadership over to one of `to` whose log is level. Returns whether this node doesn't
    /// lead any more; if it does, it leads a new term, in which it answers reads again.
    pub async fn hand_over(&self, to: &[NodeId]) -> bool {
        let Some(term) = self.led_term() else {
            return true;
        };
        let Some(target) = self.level_member(to).await else {
            return false;
        };
        self.lease().close_term(term);
        if self.raft().trigger().transfer_leader(target).await.is_err() {
            return true;
        }
        let until = Instant::now() + ELECTED_WITHIN;
        while self.led_term() == Some(term) && Instant::now() < until {
            tokio::time::sleep(LOOK).await;
        }
        match self.led_term() {
            None => true,
            Some(now) => {
                if now == term {
                    // The term's lease is closed for good.
                    let _ = self.raft().trigger().elect(false).await;
                }
                false
            }
        }
    }

    /// The term that this node leads.
    pub fn led_term(&self) -> Option<u64> {
        let metrics = self.raft().metrics();
        let metrics = metrics.borrow_watched();
        let leads = metrics.state == ServerState::Leader && metrics.vote.committed;
        leads.then_some(metrics.vote.leader_id.term)
    }

    /// A voter out of `to` whose log holds all that this one's does, waited for a moment.
    async fn level_member(&self, to: &[NodeId]) -> Option<NodeId> {
        let until = Instant::now() + LEVEL_WITHIN;
        loop {
            let (best, lag) = self.least_behind(to)?;
            if lag == 0 || (lag < 64 && Instant::now() > until) {
                return Some(best);
            }
            if Instant::now() > until {
                return None;
            }
            tokio::time::sleep(LOOK).await;
        }
    }

    fn least_behind(&self, to: &[NodeId]) -> Option<(NodeId, u64)> {
        let metrics = self.raft().metrics();
        let metrics = metrics.borrow_watched();
        let last = metrics.last_log_index.unwrap_or(0);
        let voters: Vec<NodeId> = metrics.membership_config.voter_ids().collect();
        let replication = metrics.replication.as_ref()?;
        let heard = metrics.heartbeat.as_ref()?;
        let lives = |node: &NodeId| {
            let at = heard.get(node).copied().flatten();
            at.is_some_and(|at| at.into_inner().elapsed() < Duration::from_secs(1))
        };
        to.iter()
            .filter(|node| **node != metrics.id && voters.contains(node) && lives(node))
            .filter(|node| !self.avoids(**node))
            .filter_map(|node| {
                let matched = replication.get(node)?.as_ref()?.index;
                Some((*node, last.saturating_sub(matched)))
            })
            .min_by_key(|(_, lag)| *lag)
    }
}
