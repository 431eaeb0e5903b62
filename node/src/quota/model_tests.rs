//! Model test of the key quota in a region whose nodes fail, are cut off and return, and whose
//! leaders change: there are never more keys than the limit, and no write is refused below it.
//!
//! The model includes terms, and that a write enters the log only in the term for which it was
//! admitted; grants that arrive late or never; nodes that don't learn that they no longer lead.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::{Duration, Instant};

use proptest::prelude::*;

use super::*;

const NODES: u64 = 3;
const SHARDS: usize = 2;
/// The shard whose leader grants quota.
const HOME: usize = 0;
const LIMIT: u64 = 40;
/// Time after the end of a leader's lease in which no other node leads.
const LEASE_MARGIN: Duration = Duration::from_millis(120);

#[derive(Clone, Debug)]
enum Step {
    /// A node writes a number of new keys to a shard, if it believes that it leads it.
    Write(NodeId, usize, u8),
    /// A write in progress ends: it is committed if its entry is in the log.
    EndWrite(usize),
    /// A grant arrives at the node that requested it.
    DeliverGrant(usize),
    LoseGrant(usize),
    Wait(u8),
    Elect(usize, NodeId),
    /// A node is cut off, or is reachable again.
    SetPartitioned(NodeId, bool),
    Crash(NodeId),
}

fn step_strategy() -> impl Strategy<Value = Step> {
    let (node, shard) = ((0..NODES).prop_map(id), 0..SHARDS);
    prop_oneof![
        12 => (node.clone(), shard.clone(), 1..20_u8).prop_map(|(a, b, c)| Step::Write(a, b, c)),
        8 => any::<usize>().prop_map(Step::EndWrite),
        8 => any::<usize>().prop_map(Step::DeliverGrant),
        1 => any::<usize>().prop_map(Step::LoseGrant),
        4 => (1..250_u8).prop_map(Step::Wait),
        3 => (shard, node.clone()).prop_map(|(a, b)| Step::Elect(a, b)),
        3 => (node.clone(), any::<bool>()).prop_map(|(a, b)| Step::SetPartitioned(a, b)),
        1 => node.prop_map(Step::Crash),
    ]
}

/// Term of a shard.
#[derive(Clone, Copy, Debug, PartialEq)]
struct Term {
    number: u64,
    leader: NodeId,
    since: Instant,
}

struct Node {
    quota: Arc<KeyQuota>,
    /// Terms that the node believes to lead.
    led_terms: BTreeMap<usize, Term>,
    is_partitioned: bool,
}

struct PendingWrite {
    shard: usize,
    term: u64,
    node: NodeId,
    reservation: Option<Reservation>,
}

struct GrantInFlight {
    to: NodeId,
    grant: QuotaGrant,
    request: QuotaRequest,
}

struct RegionModel {
    /// True if quota can be used only in terms that its node led when it requested the quota.
    expires_with_term: bool,
    now: Instant,
    nodes: Vec<Node>,
    terms: Vec<Term>,
    keys: Vec<u64>,
    writes: Vec<PendingWrite>,
    grants: Vec<GrantInFlight>,
}

fn id(number: u64) -> NodeId {
    NodeId::from(number)
}

fn index_of(node: NodeId) -> usize {
    usize::try_from(u64::from(node)).unwrap()
}

fn new_quota() -> Arc<KeyQuota> {
    let quota = Arc::new(KeyQuota::default());
    quota.set_limit(LIMIT);
    quota
}

impl RegionModel {
    fn new(expires_with_term: bool) -> Self {
        let node = |_| Node {
            quota: new_quota(),
            led_terms: BTreeMap::new(),
            is_partitioned: false,
        };
        let nodes: Vec<Node> = (0..NODES).map(node).collect();
        let now = Instant::now();
        let term = Term {
            number: 0,
            leader: id(0),
            since: now,
        };
        let mut region = Self {
            expires_with_term,
            now,
            nodes,
            terms: vec![term; SHARDS],
            keys: vec![0; SHARDS],
            writes: Vec::new(),
            grants: Vec::new(),
        };
        for shard in 0..SHARDS {
            region.elect(shard, id(shard as u64));
        }
        region
    }

    fn node(&self, node: NodeId) -> &Node {
        &self.nodes[index_of(node)]
    }

    fn node_mut(&mut self, node: NodeId) -> &mut Node {
        &mut self.nodes[index_of(node)]
    }

    fn apply_step(&mut self, step: &Step) {
        match step {
            Step::Write(node, shard, count) => self.write(*node, *shard, *count),
            Step::EndWrite(number) if !self.writes.is_empty() => {
                let write = self.writes.swap_remove(number % self.writes.len());
                self.end_write(write);
            }
            Step::DeliverGrant(number) if !self.grants.is_empty() => {
                let sent = self.grants.swap_remove(number % self.grants.len());
                let now = || self.now;
                let quota = &self.node(sent.to).quota;
                quota.accept_grant_at(now, sent.grant, sent.request, Duration::ZERO);
            }
            Step::LoseGrant(number) if !self.grants.is_empty() => {
                self.grants.swap_remove(number % self.grants.len());
            }
            Step::EndWrite(_) | Step::DeliverGrant(_) | Step::LoseGrant(_) => {}
            Step::Wait(ms) => self.now += Duration::from_millis((*ms).into()),
            Step::Elect(shard, node) if !self.node(*node).is_partitioned => {
                self.elect(*shard, *node)
            }
            Step::Elect(..) => {}
            Step::SetPartitioned(node, cut) => self.node_mut(*node).is_partitioned = *cut,
            Step::Crash(node) => {
                self.node_mut(*node).quota = new_quota();
                self.node_mut(*node).led_terms.clear();
                self.grants.retain(|sent| sent.to != *node);
                for write in &mut self.writes {
                    // Its entry may be in the logs of the others.
                    if write.node == *node {
                        write.reservation = None;
                    }
                }
            }
        }
    }

    /// Elects another node, which has all entries that may be committed and applies them.
    fn elect(&mut self, shard: usize, node: NodeId) {
        self.now += LEASE_MARGIN;
        let old = self.terms[shard];
        let mut index = 0;
        while index < self.writes.len() {
            let write = &self.writes[index];
            // The others have no entry of a leader that was cut off.
            if write.shard == shard && !self.node(old.leader).is_partitioned {
                let write = self.writes.swap_remove(index);
                self.end_write(write);
            } else {
                index += 1;
            }
        }
        let term = Term {
            number: old.number + 1,
            leader: node,
            since: self.now,
        };
        self.terms[shard] = term;
        if !self.node(old.leader).is_partitioned {
            self.node_mut(old.leader).led_terms.remove(&shard);
        }
        self.node_mut(node).led_terms.insert(shard, term);
    }

    fn end_write(&mut self, write: PendingWrite) {
        let committed = self.terms[write.shard].number == write.term;
        match (committed, write.reservation) {
            (true, _) => self.keys[write.shard] += 1,
            (false, Some(reservation)) => reservation.release(),
            (false, None) => {}
        }
    }

    fn write(&mut self, node: NodeId, shard: usize, count: u8) {
        for _ in 0..count {
            let Some(term) = self.node(node).led_terms.get(&shard).copied() else {
                return;
            };
            let quota = &self.node(node).quota;
            let since = if self.expires_with_term {
                term.since
            } else {
                quota.start
            };
            let Some(reservation) = quota.reserve(since) else {
                return self.request_quota(node);
            };
            // Proposed now: admitted again, and for this term.
            assert!(reservation.was_requested_since(since));
            self.writes.push(PendingWrite {
                shard,
                term: term.number,
                node,
                reservation: Some(reservation),
            });
        }
    }

    /// Requests quota for a node.
    fn request_quota(&mut self, node: NodeId) {
        let request = QuotaRequest {
            requested_at: self.now,
            limit: LIMIT,
        };
        // A node that asks again takes no response to an earlier request.
        self.grants.retain(|sent| sent.to != node);
        if let Some(grant) = self
            .make_grant(node, false)
            .or_else(|| self.make_grant(node, true))
        {
            self.grants.push(GrantInFlight {
                to: node,
                grant,
                request,
            });
        }
    }

    fn make_grant(&mut self, node: NodeId, recall: bool) -> Option<QuotaGrant> {
        let home = self.terms[HOME];
        let is_reachable =
            !self.node(home.leader).is_partitioned && !self.node(node).is_partitioned;
        if !is_reachable || self.now.duration_since(home.since) < GRANT_TIMEOUT {
            return None;
        }
        let home_quota = self.node(home.leader).quota.clone();
        home_quota.forget_grant(node);
        let mut survey = UsageSurvey::default();
        for (holder, other) in (0..NODES).map(id).zip(&self.nodes) {
            if !other.is_partitioned {
                let lease = other.quota.lease(recall);
                survey.reported.insert(holder);
                survey.leased += lease.available + lease.reserved;
                home_quota.confirm_grant(holder, lease.last_grant);
            }
        }
        survey.leased += home_quota.unconfirmed_keys(self.now);
        for (shard, (term, keys)) in self.terms.iter().zip(&self.keys).enumerate() {
            let leader = self.node(term.leader);
            // A crashed node leads no more, until there is another term.
            if leader.is_partitioned || leader.led_terms.get(&shard) != Some(term) {
                return None;
            }
            survey.leaders.insert(term.leader);
            survey.keys += keys;
        }
        match survey.decide_grant(LIMIT, 4) {
            GrantDecision::Block(keys) => {
                let grant = home_quota.new_grant(keys);
                home_quota.record_sent_grant(node, grant, self.now);
                Some(grant)
            }
            GrantDecision::Retry => None,
            GrantDecision::Full => {
                assert!(self.total_keys() >= LIMIT, "refused below the limit");
                None
            }
        }
    }

    /// Heals all failures and fills the bucket.
    fn heal_and_fill(&mut self) {
        for node in 0..NODES {
            self.node_mut(id(node)).is_partitioned = false;
        }
        for shard in 0..SHARDS {
            self.elect(shard, id(shard as u64));
        }
        self.now += GRANT_CONFIRM_TIMEOUT;
        self.write_until_full(&[0, 1]);
    }

    /// Writes through the leaders of all shards.
    fn write_until_full(&mut self, leaders: &[u64]) {
        for _ in 0..2 * LIMIT {
            for (shard, leader) in leaders.iter().enumerate() {
                let write = Step::Write(id(*leader), shard, 10);
                self.apply_step(&write);
                // A node that gets quota uses some before it is recalled.
                while !self.grants.is_empty() {
                    self.apply_step(&Step::DeliverGrant(0));
                    self.apply_step(&write);
                }
                while !self.writes.is_empty() {
                    self.apply_step(&Step::EndWrite(0));
                }
            }
        }
    }

    fn total_keys(&self) -> u64 {
        self.keys.iter().sum()
    }
}

/// Returns the number of keys after a node gets quota, is cut off while the bucket is filled, and
/// leads again.
fn keys_after_leader_returns(expires_with_term: bool) -> u64 {
    let mut region = RegionModel::new(expires_with_term);
    region.now += GRANT_TIMEOUT;
    for step in [
        Step::Write(id(1), 1, 1),
        Step::DeliverGrant(0),
        Step::SetPartitioned(id(1), true),
        Step::Elect(1, id(2)),
        Step::Wait(250),
    ] {
        region.apply_step(&step);
    }
    region.write_until_full(&[0, 2]);
    assert_eq!(region.total_keys(), LIMIT);
    // It writes before it is asked for its lease.
    for step in [
        Step::SetPartitioned(id(1), false),
        Step::Elect(1, id(1)),
        Step::Write(id(1), 1, 10),
    ] {
        region.apply_step(&step);
    }
    region.write_until_full(&[0, 1]);
    region.total_keys()
}

#[test]
fn quota_that_outlived_its_term_would_exceed_the_limit() {
    assert_eq!(keys_after_leader_returns(false), LIMIT + 10);
    assert_eq!(keys_after_leader_returns(true), LIMIT);
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(300))]
    #[test]
    fn with_any_failure_the_limit_holds_and_can_be_reached(
        steps in proptest::collection::vec(step_strategy(), 0..150),
    ) {
        let mut region = RegionModel::new(true);
        for step in &steps {
            region.apply_step(step);
            let keys = region.total_keys();
            prop_assert!(keys <= LIMIT, "{} keys", keys);
        }
        region.heal_and_fill();
        prop_assert_eq!(region.total_keys(), LIMIT);
    }
}
