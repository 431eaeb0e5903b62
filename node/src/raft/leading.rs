//! Who leads: the lease kept true to it, and leadership handed over.
//!
//! Invariant: a read is answered under the lease only while no other node can have been elected.
//! Followers promise not to vote for anybody else for `election_max` after they heard from the
//! leader; the lease counts 0.6 of that from when the acknowledged message was sent, so clocks may
//! run 40 % apart. Handing over goes around that promise: the lease is closed first, for the term.
//!
//! Members change (`members`) only under these rules, which keep that true:
//! - a leader proposes no configuration without itself, nor thus one that another node can win
//!   alone: a leader that is to leave hands over first, which closes its term;
//! - no lease outlives the configuration that it was counted in (`lease`);
//! - nobody but this code hands leadership over: openraft's own way for a leader that was removed
//!   closes nothing, and is switched off (`group`).

use std::sync::Arc;
use std::time::{Duration, Instant};

use openraft::async_runtime::{Instant as _, WatchReceiver};
use openraft::raft::VoteRequest;
use openraft::{Raft, RaftMetrics, ServerState};
use tokio::sync::watch;

use super::acks::Acks;
use super::asking::ask;
use super::contact::Contact;
use super::group::Group;
use super::lease::Lease;
use super::replica::Replica;
use super::types::{Machine, NodeId, Types, Vote};

/// How often the lease follows the acknowledgements, at most.
const FOLLOW: Duration = Duration::from_millis(10);
/// Part of the followers' promise that a lease lasts.
const LEASE_TENTHS: u32 = 6;

/// How long a lease lasts, of the time for which followers promise to vote for nobody else.
pub(super) fn lease_length(promise: Duration) -> Duration {
    promise * LEASE_TENTHS / 10
}

/// Time for a member's log to become level before leadership is handed over to it.
const LEVEL_WITHIN: Duration = Duration::from_millis(500);
/// A member that hasn't answered for this long isn't counted on.
const HEARD_WITHIN: Duration = Duration::from_secs(1);
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
    /// When the group last had a leader.
    pub contact: Arc<Contact>,
    /// How long a lease lasts.
    pub length: Duration,
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
        let changed = |known: &mut Option<NodeId>| std::mem::replace(known, current) != current;
        if leader.send_if_modified(changed) {
            leadership.contact.changed();
        }
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
        let members = &metrics.membership_config;
        if !members.voter_ids().any(|id| id == metrics.id) {
            return self.lease.follow();
        }
        let config = members.log_id().map_or(0, |at| at.index);
        let me = (metrics.id, Instant::now());
        if members.voter_ids().eq([metrics.id]) {
            // Nobody else can be elected.
            self.contact.led(me.1);
            return self.lease.lead(term, config, None);
        }
        let configs = members.membership().get_joint_config();
        match self.acks.quorum(term, me, configs) {
            Some(acked) => {
                self.contact.led(acked);
                self.lease.lead(term, config, Some(acked + self.length));
            }
            None => self.lease.follow(),
        }
    }
}

/// Whether a member has answered this leader lately.
pub(super) fn hears<M: Machine>(metrics: &RaftMetrics<Types<M>>, node: NodeId) -> bool {
    let heard = metrics.heartbeat.as_ref();
    let at = heard.and_then(|all| all.get(&node)).copied().flatten();
    at.is_some_and(|at| at.into_inner().elapsed() < HEARD_WITHIN)
}

impl<M: Machine> Group<M> {
    /// Hands leadership over to one of `to` whose log is level and which may lead. Returns whether
    /// another node leads then; else the group has no leader yet, or this node leads a new term, in
    /// which it answers reads again. `why` is for the log.
    pub async fn hand_over(&self, to: &[NodeId], why: &'static str) -> bool {
        let Some(term) = self.led_term() else {
            return true;
        };
        let Some(target) = self.level_member(to).await else {
            return false;
        };
        self.note_hand_over(why);
        self.lease().close_term(term);
        if self.raft().trigger().transfer_leader(target).await.is_err() {
            return true;
        }
        if !self.leader_after(term).await {
            self.resign(term, target).await;
            self.leader_after(term).await;
        }
        self.led_term().is_none() && self.leader_now().is_some()
    }

    fn leader_now(&self) -> Option<NodeId> {
        self.raft().metrics().borrow_watched().current_leader
    }

    /// Waits a moment for the leader of a later term.
    async fn leader_after(&self, term: u64) -> bool {
        let until = Instant::now() + ELECTED_WITHIN;
        while Instant::now() < until {
            let is_led = {
                let metrics = self.raft().metrics();
                let metrics = metrics.borrow_watched();
                metrics.current_term > term && metrics.current_leader.is_some()
            };
            if is_led {
                return true;
            }
            tokio::time::sleep(LOOK).await;
        }
        false
    }

    /// Ends a term whose lease is closed, and stands for election again, if this node may lead.
    ///
    /// openraft never takes back what it was told to hand over: it would take no write and send no
    /// heartbeat until somebody else is elected, who may not be able to. A vote of this node's own
    /// ends that: it is given to `rival` for the next term, as if it had asked for it, and like any
    /// vote it counts only if `rival` does ask. The election then is an ordinary one, which
    /// respects what other voters, and this one, have promised to a leader that was elected
    /// meanwhile.
    async fn resign(&self, term: u64, rival: NodeId) {
        let Some(last) = ask(self.raft(), |state| state.log_ids.last().copied()).await else {
            return;
        };
        let mut request = VoteRequest::new(Vote::new(term + 1, rival), last);
        request.leadership_transfer = true;
        let target = self.peers().name_of(rival);
        tracing::info!(group = %self.id(), term, target, "leadership transfer failed, resigning");
        if self.raft().vote(request).await.is_ok() && self.is_fit_to_lead() {
            // An error means that Raft has stopped.
            let _ = self.raft().trigger().elect(true).await;
        }
    }

    /// Whether this node leads the group without being one of its voters any more.
    pub fn leads_as_removed(&self) -> bool {
        let metrics = self.raft().metrics();
        let metrics = metrics.borrow_watched();
        let mut voters = metrics.membership_config.voter_ids();
        metrics.state == ServerState::Leader && !voters.any(|id| id == metrics.id)
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
        to.iter()
            .filter(|node| **node != metrics.id && voters.contains(node))
            .filter(|node| hears(&metrics, **node) && self.peers().may_lead(**node))
            .filter(|node| !self.avoids(**node))
            .filter_map(|node| {
                let matched = replication.get(node)?.as_ref()?.index;
                Some((*node, last.saturating_sub(matched)))
            })
            .min_by_key(|(_, lag)| *lag)
    }
}
