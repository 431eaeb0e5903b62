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
    End(usize),
    /// A grant arrives at the node that requested it.
    Arrive(usize),
    Lose(usize),
    Wait(u8),
    Lead(usize, NodeId),
    /// A node is cut off, or is reachable again.
    Cut(NodeId, bool),
    Crash(NodeId),
}

fn step() -> impl Strategy<Value = Step> {
    let (node, shard) = (0..NODES, 0..SHARDS);
    prop_oneof![
        12 => (node.clone(), shard.clone(), 1..20_u8).prop_map(|(a, b, c)| Step::Write(a, b, c)),
        8 => any::<usize>().prop_map(Step::End),
        8 => any::<usize>().prop_map(Step::Arrive),
        1 => any::<usize>().prop_map(Step::Lose),
        4 => (1..250_u8).prop_map(Step::Wait),
        3 => (shard, node.clone()).prop_map(|(a, b)| Step::Lead(a, b)),
        3 => (node.clone(), any::<bool>()).prop_map(|(a, b)| Step::Cut(a, b)),
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
    budget: Arc<KeyBudget>,
    /// Terms that the node believes to lead.
    leads: BTreeMap<usize, Term>,
    cut: bool,
}

struct UnderWay {
    shard: usize,
    term: u64,
    node: NodeId,
    room: Option<Reservation>,
}

struct Sent {
    to: NodeId,
    grant: Grant,
    request: GrantRequest,
}

struct Region {
    /// True if quota can be used only in terms that its node led when it requested the quota.
    room_ends: bool,
    now: Instant,
    nodes: Vec<Node>,
    terms: Vec<Term>,
    keys: Vec<u64>,
    writes: Vec<UnderWay>,
    grants: Vec<Sent>,
}

fn budget() -> Arc<KeyBudget> {
    let quota = Arc::new(KeyBudget::default());
    quota.set_limit(LIMIT);
    quota
}

impl Region {
    fn new(expires_with_term: bool) -> Self {
        let node = |_| Node {
            budget: budget(),
            leads: BTreeMap::new(),
            cut: false,
        };
        let nodes: Vec<Node> = (0..NODES).map(node).collect();
        let now = Instant::now();
        let term = Term {
            number: 0,
            leader: 0,
            since: now,
        };
        let mut region = Self {
            room_ends: expires_with_term,
            now,
            nodes,
            terms: vec![term; SHARDS],
            keys: vec![0; SHARDS],
            writes: Vec::new(),
            grants: Vec::new(),
        };
        for shard in 0..SHARDS {
            region.lead(shard, shard as NodeId);
        }
        region
    }

    fn node(&self, node: NodeId) -> &Node {
        &self.nodes[usize::try_from(node).unwrap()]
    }

    fn node_mut(&mut self, node: NodeId) -> &mut Node {
        &mut self.nodes[usize::try_from(node).unwrap()]
    }

    fn do_step(&mut self, step: &Step) {
        match step {
            Step::Write(node, shard, count) => self.write(*node, *shard, *count),
            Step::End(number) if !self.writes.is_empty() => {
                let write = self.writes.swap_remove(number % self.writes.len());
                self.end(write);
            }
            Step::Arrive(number) if !self.grants.is_empty() => {
                let sent = self.grants.swap_remove(number % self.grants.len());
                let now = || self.now;
                let quota = &self.node(sent.to).budget;
                quota.receive_at(now, sent.grant, sent.request, Duration::ZERO);
            }
            Step::Lose(number) if !self.grants.is_empty() => {
                self.grants.swap_remove(number % self.grants.len());
            }
            Step::End(_) | Step::Arrive(_) | Step::Lose(_) => {}
            Step::Wait(ms) => self.now += Duration::from_millis((*ms).into()),
            Step::Lead(shard, node) if !self.node(*node).cut => self.lead(*shard, *node),
            Step::Lead(..) => {}
            Step::Cut(node, cut) => self.node_mut(*node).cut = *cut,
            Step::Crash(node) => {
                self.node_mut(*node).budget = budget();
                self.node_mut(*node).leads.clear();
                self.grants.retain(|sent| sent.to != *node);
                for write in &mut self.writes {
                    // Its entry may be in the logs of the others.
                    if write.node == *node {
                        write.room = None;
                    }
                }
            }
        }
    }

    /// Elects another node, which has all entries that may be committed and applies them.
    fn lead(&mut self, shard: usize, node: NodeId) {
        self.now += LEASE_MARGIN;
        let old = self.terms[shard];
        let mut index = 0;
        while index < self.writes.len() {
            let write = &self.writes[index];
            // The others have no entry of a leader that was cut off.
            if write.shard == shard && !self.node(old.leader).cut {
                let write = self.writes.swap_remove(index);
                self.end(write);
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
        if !self.node(old.leader).cut {
            self.node_mut(old.leader).leads.remove(&shard);
        }
        self.node_mut(node).leads.insert(shard, term);
    }

    fn end(&mut self, write: UnderWay) {
        let committed = self.terms[write.shard].number == write.term;
        match (committed, write.room) {
            (true, _) => self.keys[write.shard] += 1,
            (false, Some(reservation)) => reservation.unused(),
            (false, None) => {}
        }
    }

    fn write(&mut self, node: NodeId, shard: usize, count: u8) {
        for _ in 0..count {
            let Some(term) = self.node(node).leads.get(&shard).copied() else {
                return;
            };
            let quota = &self.node(node).budget;
            let since = if self.room_ends {
                term.since
            } else {
                quota.start
            };
            let Some(reservation) = quota.take(since) else {
                return self.ask(node);
            };
            // Proposed now: admitted again, and for this term.
            assert!(reservation.was_asked_since(since));
            self.writes.push(UnderWay {
                shard,
                term: term.number,
                node,
                room: Some(reservation),
            });
        }
    }

    /// Requests quota for a node.
    fn ask(&mut self, node: NodeId) {
        let request = GrantRequest {
            asked: self.now,
            limit: LIMIT,
        };
        // A node that asks again takes no response to an earlier request.
        self.grants.retain(|sent| sent.to != node);
        if let Some(grant) = self.grant(node, false).or_else(|| self.grant(node, true)) {
            self.grants.push(Sent {
                to: node,
                grant,
                request,
            });
        }
    }

    fn grant(&mut self, node: NodeId, recall: bool) -> Option<Grant> {
        let home = self.terms[HOME];
        let is_reachable = !self.node(home.leader).cut && !self.node(node).cut;
        if !is_reachable || self.now.duration_since(home.since) < GRANT_TIMEOUT {
            return None;
        }
        let home_quota = self.node(home.leader).budget.clone();
        home_quota.forget_grant_to(node);
        let mut survey = Survey::default();
        for (number, other) in (0..).zip(&self.nodes) {
            if !other.cut {
                let lease = other.budget.held(recall);
                survey.told.insert(number);
                survey.held += lease.left + lease.taken;
                home_quota.seen_grant(number, lease.last_grant);
            }
        }
        survey.held += home_quota.unseen_grants(self.now);
        for (shard, (term, keys)) in self.terms.iter().zip(&self.keys).enumerate() {
            let leader = self.node(term.leader);
            // A crashed node leads no more, until there is another term.
            if leader.cut || leader.leads.get(&shard) != Some(term) {
                return None;
            }
            survey.leaders.insert(term.leader);
            survey.keys += keys;
        }
        match survey.grantable(LIMIT, 4) {
            Grantable::Block(keys) => {
                let grant = home_quota.next_grant(keys);
                home_quota.sent_grant(node, grant, self.now);
                Some(grant)
            }
            Grantable::Later => None,
            Grantable::Full => {
                assert!(self.all_keys() >= LIMIT, "refused below the limit");
                None
            }
        }
    }

    /// Heals all failures and fills the bucket.
    fn fill(&mut self) {
        for node in 0..NODES {
            self.node_mut(node).cut = false;
        }
        for shard in 0..SHARDS {
            self.lead(shard, shard as NodeId);
        }
        self.now += GRANT_SEEN_AFTER;
        self.write_until_full(&[0, 1]);
    }

    /// Writes through the leaders of all shards.
    fn write_until_full(&mut self, leaders: &[NodeId]) {
        for _ in 0..2 * LIMIT {
            for (shard, leader) in leaders.iter().enumerate() {
                let write = Step::Write(*leader, shard, 10);
                self.do_step(&write);
                // A node that gets quota uses some before it is recalled.
                while !self.grants.is_empty() {
                    self.do_step(&Step::Arrive(0));
                    self.do_step(&write);
                }
                while !self.writes.is_empty() {
                    self.do_step(&Step::End(0));
                }
            }
        }
    }

    fn all_keys(&self) -> u64 {
        self.keys.iter().sum()
    }
}

/// Returns the number of keys after a node gets quota, is cut off while the bucket is filled, and
/// leads again.
fn keys_after_a_leader_comes_back(expires_with_term: bool) -> u64 {
    let mut region = Region::new(expires_with_term);
    region.now += GRANT_TIMEOUT;
    for step in [
        Step::Write(1, 1, 1),
        Step::Arrive(0),
        Step::Cut(1, true),
        Step::Lead(1, 2),
        Step::Wait(250),
    ] {
        region.do_step(&step);
    }
    region.write_until_full(&[0, 2]);
    assert_eq!(region.all_keys(), LIMIT);
    // It writes before it is asked for its lease.
    for step in [Step::Cut(1, false), Step::Lead(1, 1), Step::Write(1, 1, 10)] {
        region.do_step(&step);
    }
    region.write_until_full(&[0, 1]);
    region.all_keys()
}

#[test]
fn quota_that_outlived_its_term_would_exceed_the_limit() {
    assert_eq!(keys_after_a_leader_comes_back(false), LIMIT + 10);
    assert_eq!(keys_after_a_leader_comes_back(true), LIMIT);
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(300))]
    #[test]
    fn with_any_failure_the_limit_holds_and_can_be_reached(
        steps in proptest::collection::vec(step(), 0..150),
    ) {
        let mut region = Region::new(true);
        for step in &steps {
            region.do_step(step);
            let keys = region.all_keys();
            prop_assert!(keys <= LIMIT, "{} keys", keys);
        }
        region.fill();
        prop_assert_eq!(region.all_keys(), LIMIT);
    }
}
