//! Leadership of a group: transfers it.
//!
//! Invariant: a read is answered under the lease only while no other node can have been elected
//! (`lease_renewal`). A leadership transfer bypasses the followers' promise, on which the lease
//! rests: the lease of the term is closed first.
//!
//! Members change (`membership`) only under these rules, which preserve the invariant:
//! - a leader proposes no configuration without itself, and so none that another node can win
//!   alone: a leader that is to be removed transfers leadership first, which closes its term;
//! - no lease outlives the configuration that it was counted in (`lease`);
//! - only this code transfers leadership: openraft's own step-down of a removed leader closes no
//!   lease, and is switched off (`group/settings`).

use std::time::{Duration, Instant};

use openraft::async_runtime::{Instant as _, WatchReceiver};
use openraft::raft::VoteRequest;
use openraft::{RaftMetrics, ServerState};

use super::group::Group;
use super::query::query_state;
use super::types::{StateMachine, TypeConfig, Vote};
use crate::types::NodeId;

/// Maximum wait for a member's log to catch up before leadership is transferred to it.
const TARGET_CATCH_UP_TIMEOUT: Duration = Duration::from_millis(500);
/// Time without a response after which a member isn't counted on.
const MEMBER_RESPONSE_TIMEOUT: Duration = Duration::from_secs(1);
/// Maximum wait for the election of the transfer's target.
const TRANSFER_ELECTION_TIMEOUT: Duration = Duration::from_secs(1);
/// Interval at which the metrics are polled while waiting.
const METRICS_POLL_INTERVAL: Duration = Duration::from_millis(2);

/// Returns whether a member has responded to this leader recently.
pub(super) fn is_responsive<M: StateMachine>(
    metrics: &RaftMetrics<TypeConfig<M>>,
    node: NodeId,
) -> bool {
    let all = metrics.heartbeat.as_ref();
    let at = all.and_then(|times| times.get(&node)).copied().flatten();
    at.is_some_and(|at| at.into_inner().elapsed() < MEMBER_RESPONSE_TIMEOUT)
}

impl<M: StateMachine> Group<M> {
    /// Transfers leadership to a voter of `targets` that is caught up and may lead. Returns whether
    /// another node leads afterwards; else the group has no leader yet, or this node leads a new
    /// term, in which it answers reads again. `reason` is for the log.
    pub async fn transfer_leadership(&self, targets: &[NodeId], reason: &'static str) -> bool {
        let Some(term) = self.led_term() else {
            return true;
        };
        let Some(target) = self.caught_up_voter(targets).await else {
            return false;
        };
        self.record_transfer(reason);
        self.lease().close_term(term);
        if self.raft().trigger().transfer_leader(target).await.is_err() {
            return true;
        }
        if !self.wait_for_later_term(term).await {
            self.step_down(term, target).await;
            self.wait_for_later_term(term).await;
        }
        self.led_term().is_none() && self.current_leader().is_some()
    }

    fn current_leader(&self) -> Option<NodeId> {
        self.raft().metrics().borrow_watched().current_leader
    }

    /// Waits up to `TRANSFER_ELECTION_TIMEOUT` for the leader of a later term.
    async fn wait_for_later_term(&self, term: u64) -> bool {
        let deadline = Instant::now() + TRANSFER_ELECTION_TIMEOUT;
        while Instant::now() < deadline {
            let is_led = {
                let metrics = self.raft().metrics();
                let metrics = metrics.borrow_watched();
                metrics.current_term > term && metrics.current_leader.is_some()
            };
            if is_led {
                return true;
            }
            tokio::time::sleep(METRICS_POLL_INTERVAL).await;
        }
        false
    }

    /// Ends a term whose lease is closed, and stands for election again, if this node may lead.
    ///
    /// openraft never takes a transfer back: it would accept no write and send no heartbeat until
    /// another node is elected, which may be impossible. A vote of this node ends that: it is cast
    /// for `rival` in the next term, as if `rival` had requested it, and like any vote it counts
    /// only if `rival` does request it. The election then is an ordinary one, which respects what
    /// other voters, and this one, have promised to a leader that was elected meanwhile.
    async fn step_down(&self, term: u64, rival: NodeId) {
        let Some(last) = query_state(self.raft(), |state| state.log_ids.last().copied()).await
        else {
            return;
        };
        let mut request = VoteRequest::new(Vote::new(term + 1, rival), last);
        request.leadership_transfer = true;
        let target = self.peers().name_of(rival);
        let group = self.id();
        tracing::info!(%group, term, target, "leadership transfer failed, stepping down");
        if self.raft().vote(request).await.is_ok() && self.is_eligible_leader() {
            // An error means that Raft has stopped.
            let _ = self.raft().trigger().elect(true).await;
        }
    }

    /// Returns whether this node leads the group without being one of its voters any more.
    pub fn is_removed_leader(&self) -> bool {
        let metrics = self.raft().metrics();
        let metrics = metrics.borrow_watched();
        let mut voters = metrics.membership_config.voter_ids();
        metrics.state == ServerState::Leader && !voters.any(|id| id == metrics.id)
    }

    /// Term that this node leads.
    pub fn led_term(&self) -> Option<u64> {
        let metrics = self.raft().metrics();
        let metrics = metrics.borrow_watched();
        let leads = metrics.state == ServerState::Leader && metrics.vote.committed;
        leads.then_some(metrics.vote.leader_id.term)
    }

    /// Waits up to `TARGET_CATCH_UP_TIMEOUT` for a voter of `targets` whose log is caught up with
    /// this node's.
    async fn caught_up_voter(&self, targets: &[NodeId]) -> Option<NodeId> {
        let deadline = Instant::now() + TARGET_CATCH_UP_TIMEOUT;
        loop {
            let (best, lag) = self.least_lagging_voter(targets)?;
            if lag == 0 || (lag < 64 && Instant::now() > deadline) {
                return Some(best);
            }
            if Instant::now() > deadline {
                return None;
            }
            tokio::time::sleep(METRICS_POLL_INTERVAL).await;
        }
    }

    fn least_lagging_voter(&self, targets: &[NodeId]) -> Option<(NodeId, u64)> {
        let metrics = self.raft().metrics();
        let metrics = metrics.borrow_watched();
        let last = metrics.last_log_index.unwrap_or(0);
        let voters: Vec<NodeId> = metrics.membership_config.voter_ids().collect();
        let replication = metrics.replication.as_ref()?;
        targets
            .iter()
            .filter(|node| **node != metrics.id && voters.contains(node))
            .filter(|node| is_responsive(&metrics, **node) && self.peers().may_lead(**node))
            .filter(|node| !self.is_excluded_target(**node))
            .filter_map(|node| {
                let matched = replication.get(node)?.as_ref()?.index;
                Some((*node, last.saturating_sub(matched)))
            })
            .min_by_key(|(_, lag)| *lag)
    }
}
