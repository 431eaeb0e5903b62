//! Renews a group's read lease while this node leads.
//!
//! Invariant: a read is answered under the lease only while no other node can have been elected.
//! Followers promise not to vote for any other node for `election_timeout_max` after a message of
//! the leader; the lease lasts 0.6 of that from when the acknowledged message was sent, so clock
//! rates may differ by 40 %. A leadership transfer bypasses that promise: the lease of the term is
//! closed first (`leadership`).

use std::sync::Arc;
use std::time::{Duration, Instant};

use openraft::async_runtime::WatchReceiver;
use openraft::{Raft, RaftMetrics, ServerState};
use tokio::sync::watch;

use super::ack_tracker::AckTracker;
use super::leader_contact::LeaderContact;
use super::lease::Lease;
use super::replica::Replica;
use super::types::{StateMachine, TypeConfig};
use crate::types::NodeId;

/// Minimum time between two renewals of the lease.
const LEASE_RENEW_INTERVAL: Duration = Duration::from_millis(10);
/// Lease duration in tenths of the followers' promise.
const LEASE_TENTHS: u32 = 6;

/// Lease duration, given the time for which followers promise to vote for no other node.
pub(super) fn lease_duration(promise: Duration) -> Duration {
    promise * LEASE_TENTHS / 10
}

/// Renews the lease of a group.
pub(super) struct LeaseRenewer {
    /// Lease to renew.
    pub lease: Arc<Lease>,
    /// Times at which members last acknowledged this node as their leader.
    pub acks: Arc<AckTracker>,
    /// Contact of this node with the group's leader.
    pub contact: Arc<LeaderContact>,
    /// Duration of a lease.
    pub duration: Duration,
}

/// Renews the lease while this node leads, and publishes who leads, until the group stops.
pub(super) async fn run_lease_renewal<M: StateMachine>(
    raft: Raft<TypeConfig<M>, Replica<M>>,
    renewer: LeaseRenewer,
    leader: watch::Sender<Option<NodeId>>,
) {
    let mut metrics = raft.metrics();
    loop {
        let current = {
            let metrics = metrics.borrow_watched();
            renewer.renew(&metrics);
            metrics.current_leader
        };
        let changed = |old: &mut Option<NodeId>| std::mem::replace(old, current) != current;
        if leader.send_if_modified(changed) {
            renewer.contact.record_leader_change();
        }
        if metrics.changed().await.is_err() {
            renewer.lease.revoke();
            return;
        }
        tokio::time::sleep(LEASE_RENEW_INTERVAL).await;
    }
}

impl LeaseRenewer {
    fn renew<M: StateMachine>(&self, metrics: &RaftMetrics<TypeConfig<M>>) {
        let leads = metrics.state == ServerState::Leader
            && metrics.vote.committed
            && metrics.vote.leader_id.voted_for == metrics.id;
        if !leads || metrics.running_state.is_err() {
            return self.lease.revoke();
        }
        let term = metrics.vote.leader_id.term;
        let members = &metrics.membership_config;
        if !members.voter_ids().any(|id| id == metrics.id) {
            return self.lease.revoke();
        }
        let config = members.log_id().map_or(0, |at| at.index);
        let me = (metrics.id, Instant::now());
        if members.voter_ids().eq([metrics.id]) {
            // No other node can be elected.
            self.contact.record_quorum_ack(me.1);
            return self.lease.renew(term, config, None);
        }
        let configs = members.membership().get_joint_config();
        match self.acks.quorum_ack_time(term, me, configs) {
            Some(acked) => {
                self.contact.record_quorum_ack(acked);
                self.lease.renew(term, config, Some(acked + self.duration));
            }
            None => self.lease.revoke(),
        }
    }
}
