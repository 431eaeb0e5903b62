//! Keeps the cluster as it should be: addresses known, shards placed, members and leaders where
//! they are wanted.
//!
//! Whoever leads the metadata decides the placement, from the nodes that there are; whoever leads
//! a group carries it out, one safe step at a time. Nothing is remembered between two looks, so
//! it doesn't matter who leads when, or what was under way.

use std::collections::{BTreeMap, HashMap};
use std::sync::Arc;
use std::time::{Duration, Instant};

use cloudkv_proto::v1::{self as pb, meta_command::Kind as Command};
use futures_util::future::BoxFuture;
use tokio_util::sync::CancellationToken;

use super::hearsay::Hearsay;
use super::identity::Identity;
use super::joining::REMOVED;
use super::placement::{Candidate, CurrentPlacement, MetaCandidate, plan_meta, plan_shards};
use super::vitals::Vitals;
use crate::meta::{Catalog, Meta, NAMES_LEVEL, NodeState, Placement, Topology};
use crate::raft::{Group, Machine, Members, NodeId, Step};
use crate::rpc::{Dialer, Peers};
use crate::shard::{Shard, ShardHandle};
use crate::store::keys::GroupId;
use crate::store::{DiskSpace, Gate};

/// How often the keeper looks.
const LOOK: Duration = Duration::from_millis(250);
/// Time that a step has to make room for the next look.
const PROPOSE_WITHIN: Duration = Duration::from_secs(5);
/// A leader stays for this long before it gives way to the one that is preferred, which must have
/// lived for as long.
const SETTLED: Duration = Duration::from_secs(5);
/// A voter of the metadata that is silent for this long is replaced.
const LOST_AFTER: Duration = Duration::from_secs(30);

/// What the keeper looks after.
pub struct Keeper {
    /// Who this node is.
    pub identity: Identity,
    /// What it says of itself.
    pub registration: pb::RegisterNode,
    /// The metadata.
    pub meta: Arc<Group<Meta>>,
    /// The metadata in memory.
    pub catalog: Arc<Catalog>,
    /// All shards of this node.
    pub shards: Vec<Arc<ShardHandle>>,
    /// The other nodes.
    pub peers: Arc<Peers>,
    /// Their signs of life.
    pub vitals: Arc<Vitals>,
    /// Takes commands to the metadata's leader, wherever it is.
    pub propose: Proposer,
    /// Connects to other nodes.
    pub dialer: Dialer,
    /// Nodes of the cluster that an operator has named.
    pub named: Vec<String>,
    /// The room on this node's disk.
    pub space: Arc<DiskSpace>,
    /// What the metadata takes.
    pub meta_gate: Arc<Gate>,
    /// Ends this node as a signal would, once it was decommissioned.
    pub stop_node: CancellationToken,
}

/// Why a command of the cluster's own came to nothing.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Declined {
    /// In words.
    pub reason: String,
    /// Whether trying again would change nothing.
    pub is_final: bool,
    /// Whether it would once a person has done something about it.
    pub needs_person: bool,
}

/// Takes a command to the metadata's leader; tells whether it was done.
pub type Proposer = Arc<dyn Fn(Command) -> BoxFuture<'static, Result<(), Declined>> + Send + Sync>;

impl Keeper {
    /// Looks after the cluster until `stop`, or until this node has no place in it any more: then
    /// it tells why.
    pub async fn run(self: Arc<Self>, stop: CancellationToken) -> Option<String> {
        let run = async {
            let mut silent_since: HashMap<NodeId, Instant> = HashMap::new();
            let mut hearsay = Hearsay::default();
            let mut was_leaving = false;
            loop {
                let topology = self.catalog.topology();
                was_leaving |= self.is_leaving(&topology);
                if topology.is_gone(self.identity.node_id)
                    || self.hears_of_removal(&mut hearsay).await
                {
                    if !was_leaving {
                        return REMOVED.to_owned();
                    }
                    tracing::info!(
                        "decommissioned: this node holds nothing any more, and was removed from \
                         the cluster; its data directory can be deleted"
                    );
                    self.stop_node.cancel();
                    return std::future::pending().await;
                }
                self.learn(&topology);
                self.note_shards(&topology);
                self.guard_leadership().await;
                self.mind_disks().await;
                if self.is_known(&topology) {
                    self.place_shards(&topology).await;
                } else {
                    self.register().await;
                }
                if self.meta.may_read() {
                    self.raise_level(&topology).await;
                    self.decide(&topology).await;
                    self.end_decommissions(&topology).await;
                    self.place_meta(&topology, &mut silent_since).await;
                }
                tokio::time::sleep(LOOK).await;
            }
        };
        stop.run_until_cancelled(run).await
    }

    /// Takes the addresses of the nodes that there are, and forgets those that were removed.
    pub fn learn(&self, topology: &Topology) {
        for node in topology.nodes() {
            if node.state == NodeState::Removed {
                self.peers.forget(node.id);
            } else {
                self.peers.learn(node.id, &node.rpc);
                let near = topology.region_name(node.region) == Some(&self.identity.region);
                self.peers.set_near(node.id, near);
            }
        }
    }

    /// Tells the shards which of them belong here, and who leads those that don't.
    fn note_shards(&self, topology: &Topology) {
        let region = topology.region_number(&self.identity.region).unwrap_or(0);
        for (number, shard) in self.shards.iter().enumerate() {
            let number = u16::try_from(number).unwrap_or(u16::MAX);
            let placement = topology.placement(region, number);
            let hosted = placement.is_none_or(|it| it.names(self.identity.node_id));
            let near = |node| {
                topology
                    .node(node)
                    .is_some_and(|node| node.region == region)
            };
            shard.note(hosted, self.vitals.leader_of(shard.group().id(), near));
            let group = shard.group();
            group.avoid(self.vitals.damaged(group.id()));
        }
        self.meta.avoid(self.vitals.damaged(GroupId::META));
    }

    /// Whether the metadata says of this node what is true.
    fn is_known(&self, topology: &Topology) -> bool {
        let me = &self.registration;
        topology.node(self.identity.node_id).is_some_and(|known| {
            known.rpc == me.rpc
                && known.http == me.http
                && known.level == me.level
                && known.version == me.version
                && (known.name == me.name || self.catalog.header().level < NAMES_LEVEL)
        })
    }

    async fn register(&self) {
        if self.catalog.header().cluster_id.is_empty() {
            return;
        }
        let command = Command::RegisterNode(self.registration.clone());
        self.try_propose(command, "register this node").await;
    }

    pub(super) async fn try_propose(&self, command: Command, what: &'static str) {
        match tokio::time::timeout(PROPOSE_WITHIN, (self.propose)(command)).await {
            Ok(Ok(())) => {}
            Ok(Err(declined)) => {
                let reason = declined.reason;
                tracing::info!(what, reason, "change of the metadata refused, trying again");
            }
            Err(_) => tracing::info!(what, "change of the metadata took too long, trying again"),
        }
    }

    /// A node whose clock is off gives its leadership away, and takes none.
    async fn guard_leadership(&self) {
        let ok = self.vitals.clock_ok();
        let near = self.peers.near();
        for shard in &self.shards {
            guard(shard.group(), ok, &near).await;
        }
        guard(&self.meta, ok, &self.peers.known()).await;
    }

    /// Raises the metadata's feature level once all nodes support a higher one.
    async fn raise_level(&self, topology: &Topology) {
        let nodes = topology.nodes().iter();
        let nodes = nodes.filter(|node| node.state != NodeState::Removed);
        let Some(level) = nodes.map(|node| node.level).min() else {
            return;
        };
        let level = level.min(crate::meta::LEVEL);
        let header = self.catalog.header();
        if level > header.level && !header.cluster_id.is_empty() {
            let command = Command::SetLevel(pb::SetMetaLevel { level });
            self.try_propose(command, "raise the feature level").await;
        }
    }

    /// Decides where shards belong.
    async fn decide(&self, topology: &Topology) {
        let shards = u16::try_from(self.catalog.header().shards).unwrap_or(0);
        for (region, _) in topology.regions() {
            let nodes = topology.nodes_of(region);
            let nodes: Vec<Candidate> = nodes
                .map(|node| Candidate {
                    id: node.id,
                    active: node.state == NodeState::Active,
                })
                .collect();
            let current: Vec<_> = (0..shards)
                .map(|shard| topology.placement(region, shard).map(current))
                .collect();
            for plan in plan_shards(&nodes, shards, &current) {
                let epoch = topology.placement(region, plan.shard).map(|it| it.epoch);
                let command = Command::SetPlacement(pb::SetPlacement {
                    region,
                    shard: u32::from(plan.shard),
                    expected_epoch: epoch.unwrap_or(0),
                    voters: plan.voters,
                    learners: plan.learners,
                });
                self.try_propose(command, "place a shard").await;
            }
        }
    }

    /// Brings the groups that this node leads to the nodes where they belong.
    async fn place_shards(&self, topology: &Topology) {
        let Some(region) = topology.region_number(&self.identity.region) else {
            return;
        };
        for (number, shard) in self.shards.iter().enumerate() {
            let group = shard.group();
            let number = u16::try_from(number).unwrap_or(u16::MAX);
            let Some(placement) = topology.placement(region, number) else {
                continue;
            };
            if !shard.leads() {
                continue;
            }
            let members = members(topology, placement);
            match group.approach(&members).await {
                Step::Done => self.prefer(group, placement).await,
                Step::Changed => {}
                Step::CatchingUp(node) => tracing::debug!(group = %group.id(), node, "catching up"),
                Step::Later(reason) => {
                    tracing::debug!(group = %group.id(), reason, "members: later")
                }
            }
        }
    }

    /// Gives way to the preferred leader, once both have settled.
    async fn prefer(&self, group: &Group<Shard>, placement: &Placement) {
        let preferred = placement.preferred_leader();
        let Some(preferred) = preferred.filter(|node| *node != self.identity.node_id) else {
            return;
        };
        // What a node still receives fills its link: writes to shards that it leads would wait.
        let is_ready =
            !self.vitals.disk_is_low(preferred) && !self.vitals.is_catching_up(preferred);
        let fit = self.vitals.fit_to_lead(preferred, SETTLED);
        if is_ready && fit && group.led_for() > SETTLED {
            tracing::debug!(group = %group.id(), to = preferred, "giving way to the preferred leader");
            group
                .hand_over(&[preferred], "the new leader is the preferred one")
                .await;
        }
    }

    /// Keeps the metadata's voters on nodes that live, spread over regions.
    async fn place_meta(&self, topology: &Topology, silent_since: &mut HashMap<NodeId, Instant>) {
        let (voters, _) = self.meta.members();
        let me = self.identity.node_id;
        let mut candidates = Vec::new();
        for node in topology.nodes() {
            if node.state == NodeState::Removed {
                continue;
            }
            let alive = node.id == me || self.vitals.lives(node.id);
            if alive {
                silent_since.remove(&node.id);
            }
            let lost = !alive
                && silent_since
                    .entry(node.id)
                    .or_insert_with(Instant::now)
                    .elapsed()
                    > LOST_AFTER;
            let voter = voters.contains(&node.id);
            candidates.push(MetaCandidate {
                id: node.id,
                region: node.region,
                active: node.state == NodeState::Active,
                // A voter is given some time to come back, a learner none to be made one.
                alive: if voter { !lost } else { alive },
                voter,
            });
        }
        if candidates.is_empty() {
            return;
        }
        let plan = plan_meta(&candidates);
        let members = Members {
            voters: plan.voters,
            learners: plan.learners,
            addresses: addresses(topology),
        };
        if let Step::Later(reason) = self.meta.approach(&members).await {
            tracing::debug!(reason, "members of the metadata: later");
        }
    }
}

/// Lets this node lead a group if its clock is right. Else, or if it is no voter of the group any
/// more, one of `others` takes over.
async fn guard<M: Machine>(group: &Group<M>, clock_ok: bool, others: &[NodeId]) {
    group.may_lead(clock_ok);
    group.recover_lease().await;
    if group.led_term().is_none() {
        return;
    }
    if !clock_ok {
        group.hand_over(others, "the leader's clock is off").await;
    } else if group.leads_as_removed() {
        let why = "the node that led is no member of the group any more";
        group.hand_over(others, why).await;
    }
}

fn current(placement: &Placement) -> CurrentPlacement {
    CurrentPlacement {
        voters: placement.voters.clone(),
        learners: placement.learners.clone(),
    }
}

fn members(topology: &Topology, placement: &Placement) -> Members {
    Members {
        voters: placement.voters.clone(),
        learners: placement.learners.clone(),
        addresses: addresses(topology),
    }
}

fn addresses(topology: &Topology) -> BTreeMap<NodeId, String> {
    let nodes = topology.nodes().iter();
    nodes.map(|node| (node.id, node.rpc.clone())).collect()
}
