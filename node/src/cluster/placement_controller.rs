//! Keeps the cluster as planned: addresses known, shards placed, members and leaders as they should
//! be.
//!
//! The leader of the metadata plans the placement, from the existing nodes; the leader of each
//! group carries it out, one safe step at a time. No state is kept between two rounds, so it
//! doesn't matter who leads when, or what was in progress.

use std::collections::{BTreeMap, HashMap};
use std::sync::Arc;
use std::time::{Duration, Instant};

use cloudkv_proto::v1::{self as pb, meta_command::Kind as Command};
use futures_util::future::BoxFuture;
use tokio_util::sync::CancellationToken;

use super::failure_detector::FailureDetector;
use super::identity::Identity;
use super::joining::REMOVED_MESSAGE;
use super::peer_discovery::{MembershipQuery, PeerDiscovery};
use super::placement::{
    CurrentPlacement, MetadataCandidate, ShardCandidate, plan_metadata, plan_shards,
};
use crate::meta::{Catalog, Meta, NodeState, Placement, Topology, supported_level};
use crate::raft::{Group, MembershipStep, NodeId, StateMachine, TargetMembership};
use crate::rpc::{Dialer, Peers};
use crate::shard::{Shard, ShardHandle};
use crate::store::keys::GroupId;
use crate::store::{DiskSpace, WriteGate};

/// Interval between two rounds.
const CHECK_INTERVAL: Duration = Duration::from_millis(250);
/// Time for a metadata command, so that a round doesn't block.
const PROPOSE_TIMEOUT: Duration = Duration::from_secs(5);
/// Time for which a leader must have led, and the preferred leader must have been alive, before the
/// leadership moves to the latter.
const LEADER_STABLE_AFTER: Duration = Duration::from_secs(5);
/// Silence after which a voter of the metadata is replaced.
const VOTER_LOSS_TIMEOUT: Duration = Duration::from_secs(30);

/// Plans and carries out the placement of groups and their leaders.
pub(crate) struct PlacementController {
    /// Identity of this node.
    pub identity: Identity,
    /// Registration of this node in the metadata.
    pub registration: pb::RegisterNode,
    /// Metadata group.
    pub meta: Arc<Group<Meta>>,
    /// The metadata in memory.
    pub catalog: Arc<Catalog>,
    /// All shards of this node.
    pub shards: Vec<Arc<ShardHandle>>,
    /// RPC clients of the other nodes.
    pub peers: Arc<Peers>,
    /// Failure detector for the other nodes.
    pub failure_detector: Arc<FailureDetector>,
    /// Sends commands to the metadata's leader on any node.
    pub propose: MetadataProposer,
    /// Connects to other nodes.
    pub dialer: Dialer,
    /// Addresses of other nodes that the operator has configured.
    pub configured_addresses: Vec<String>,
    /// Free space on this node's disk.
    pub disk_space: Arc<DiskSpace>,
    /// Gate for commands of the metadata.
    pub meta_gate: Arc<WriteGate>,
    /// Stops this node as a signal would, once it was decommissioned.
    pub stop_node: CancellationToken,
}

/// Reason why a command to the metadata failed.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct ProposalError {
    /// Reason in words.
    pub reason: String,
    /// True if a retry would have the same result.
    pub is_final: bool,
    /// True if a retry succeeds only after an operator has acted.
    pub needs_operator: bool,
}

/// Sends a command to the metadata's leader and waits for its result.
pub(crate) type MetadataProposer =
    Arc<dyn Fn(Command) -> BoxFuture<'static, Result<(), ProposalError>> + Send + Sync>;

impl PlacementController {
    /// Runs until `stop`, or until this node is no longer a member. Returns the reason for the
    /// latter.
    pub(crate) async fn run(self: Arc<Self>, stop: CancellationToken) -> Option<String> {
        let run = async {
            let mut silent_since: HashMap<NodeId, Instant> = HashMap::new();
            let mut discovery = self.peer_discovery();
            let mut was_decommissioning = false;
            loop {
                let topology = self.catalog.topology();
                was_decommissioning |= self.is_decommissioning(&topology);
                if topology.is_removed(self.identity.node_id)
                    || discovery.is_reported_removed().await
                {
                    if !was_decommissioning {
                        return REMOVED_MESSAGE.to_owned();
                    }
                    tracing::info!(
                        "decommissioned: this node holds no replica any more, and was removed from \
                         the cluster; its data directory can be deleted"
                    );
                    self.stop_node.cancel();
                    return std::future::pending().await;
                }
                self.update_peers(&topology);
                self.update_shards(&topology);
                self.guard_leaders().await;
                self.update_disk_gates().await;
                if self.is_registered(&topology) {
                    self.apply_placements(&topology).await;
                } else {
                    self.register().await;
                }
                if self.meta.may_read() {
                    self.raise_feature_level(&topology).await;
                    self.plan_placements(&topology).await;
                    self.finish_decommissions(&topology).await;
                    self.place_metadata(&topology, &mut silent_since).await;
                }
                tokio::time::sleep(CHECK_INTERVAL).await;
            }
        };
        stop.run_until_cancelled(run).await
    }

    fn peer_discovery(&self) -> PeerDiscovery {
        PeerDiscovery {
            identity: self.identity.clone(),
            own_address: self.registration.rpc.clone(),
            catalog: Arc::clone(&self.catalog),
            peers: Arc::clone(&self.peers),
            failure_detector: Arc::clone(&self.failure_detector),
            dialer: self.dialer.clone(),
            configured_addresses: self.configured_addresses.clone(),
            query: MembershipQuery::default(),
        }
    }

    /// Updates the addresses of the members, and forgets removed nodes.
    pub(crate) fn update_peers(&self, topology: &Topology) {
        for node in topology.nodes() {
            if node.state == NodeState::Removed {
                self.peers.remove(node.id);
            } else {
                self.peers.set_address(node.id, &node.rpc);
                let is_same_region =
                    topology.region_name(node.region) == Some(&self.identity.region);
                self.peers.set_same_region(node.id, is_same_region);
            }
        }
    }

    /// Updates which shards are hosted here, and who leads the others.
    fn update_shards(&self, topology: &Topology) {
        let region = topology.region_number(&self.identity.region).unwrap_or(0);
        for (number, shard) in self.shards.iter().enumerate() {
            let number = u16::try_from(number).unwrap_or(u16::MAX);
            let placement = topology.placement(region, number);
            let is_hosted = placement.is_none_or(|it| it.has_member(self.identity.node_id));
            let is_same_region = |node| topology.is_in_region(node, region);
            shard.set_placement(
                is_hosted,
                self.failure_detector
                    .leader_of(shard.group().id(), is_same_region),
            );
            let group = shard.group();
            group.exclude_targets(self.failure_detector.damaged_replicas(group.id()));
        }
        self.meta
            .exclude_targets(self.failure_detector.damaged_replicas(GroupId::META));
    }

    /// Returns whether the metadata has the current registration of this node.
    fn is_registered(&self, topology: &Topology) -> bool {
        let own = &self.registration;
        topology.node(self.identity.node_id).is_some_and(|known| {
            known.rpc == own.rpc
                && known.http == own.http
                && known.level == own.level
                && known.version == own.version
                && known.name == own.name
        })
    }

    async fn register(&self) {
        if self.catalog.header().cluster_id.is_empty() {
            return;
        }
        let command = Command::RegisterNode(self.registration.clone());
        self.try_propose(command, "register this node").await;
    }

    pub(super) async fn try_propose(&self, command: Command, action: &'static str) {
        match tokio::time::timeout(PROPOSE_TIMEOUT, (self.propose)(command)).await {
            Ok(Ok(())) => {}
            Ok(Err(refusal)) => {
                let reason = refusal.reason;
                tracing::info!(action, reason, "metadata change refused, retrying");
            }
            Err(_) => tracing::info!(action, "metadata change timed out, retrying"),
        }
    }

    /// Transfers leadership away while this node's clock is off, and prevents new leadership.
    async fn guard_leaders(&self) {
        let is_clock_ok = self.failure_detector.is_clock_ok();
        let same_region = self.peers.same_region();
        for shard in &self.shards {
            guard_leader(shard.group(), is_clock_ok, &same_region).await;
        }
        guard_leader(&self.meta, is_clock_ok, &self.peers.node_numbers()).await;
    }

    /// Raises the metadata's feature level once all nodes support a higher one.
    async fn raise_feature_level(&self, topology: &Topology) {
        let Some(level) = supported_level(topology) else {
            return;
        };
        let header = self.catalog.header();
        if level > header.level && !header.cluster_id.is_empty() {
            let command = Command::SetLevel(pb::SetMetaLevel { level });
            self.try_propose(command, "raise the feature level").await;
        }
    }

    /// Plans the placement of shards, and proposes changes.
    async fn plan_placements(&self, topology: &Topology) {
        let shards = u16::try_from(self.catalog.header().shards).unwrap_or(0);
        for (region, _) in topology.region_names() {
            let nodes = topology.nodes_of(region);
            let nodes: Vec<ShardCandidate> = nodes
                .map(|node| ShardCandidate {
                    id: node.id,
                    is_active: node.state == NodeState::Active,
                })
                .collect();
            let current: Vec<_> = (0..shards)
                .map(|shard| topology.placement(region, shard).map(current_placement))
                .collect();
            for plan in plan_shards(&nodes, shards, &current) {
                let epoch = topology.placement(region, plan.shard).map(|it| it.epoch);
                let command = Command::SetPlacement(pb::SetPlacement {
                    region,
                    shard: u32::from(plan.shard),
                    expected_epoch: epoch.unwrap_or(0),
                    voters: plan.voters.into_iter().map(u64::from).collect(),
                    learners: plan.learners.into_iter().map(u64::from).collect(),
                });
                self.try_propose(command, "place a shard").await;
            }
        }
    }

    /// Changes the members of the groups that this node leads towards their placement.
    async fn apply_placements(&self, topology: &Topology) {
        let Some(region) = topology.region_number(&self.identity.region) else {
            return;
        };
        for (number, shard) in self.shards.iter().enumerate() {
            let group = shard.group();
            let number = u16::try_from(number).unwrap_or(u16::MAX);
            let Some(placement) = topology.placement(region, number) else {
                continue;
            };
            if !shard.is_leading() {
                continue;
            }
            let members = planned_members(topology, placement);
            match group.advance_membership(&members).await {
                MembershipStep::Done => self.transfer_to_preferred(group, placement).await,
                MembershipStep::Changed => {}
                MembershipStep::CatchingUp(node) => {
                    let node = u64::from(node);
                    tracing::debug!(group = %group.id(), node, "catching up")
                }
                MembershipStep::Retry(reason) => {
                    tracing::debug!(
                        group = %group.id(),
                        reason,
                        "membership change failed, retrying"
                    )
                }
            }
        }
    }

    /// Transfers leadership to the preferred leader, once both are stable.
    async fn transfer_to_preferred(&self, group: &Group<Shard>, placement: &Placement) {
        let preferred = placement.preferred_leader();
        let Some(preferred) = preferred.filter(|node| *node != self.identity.node_id) else {
            return;
        };
        // A snapshot that the node still receives saturates its link: writes to shards that it
        // leads would wait.
        let is_ready = !self.failure_detector.is_disk_low(preferred)
            && !self.failure_detector.is_catching_up(preferred);
        let is_fit = self
            .failure_detector
            .is_fit_to_lead(preferred, LEADER_STABLE_AFTER);
        if is_ready && is_fit && group.led_for() > LEADER_STABLE_AFTER {
            tracing::debug!(
                group = %group.id(),
                target = u64::from(preferred),
                "transferring leadership to the preferred leader"
            );
            group
                .transfer_leadership(&[preferred], "the new leader is the preferred one")
                .await;
        }
    }

    /// Keeps the metadata's voters on alive nodes, spread over regions.
    async fn place_metadata(
        &self,
        topology: &Topology,
        silent_since: &mut HashMap<NodeId, Instant>,
    ) {
        let (voters, _) = self.meta.members();
        let me = self.identity.node_id;
        let mut candidates = Vec::new();
        for node in topology.nodes() {
            if node.state == NodeState::Removed {
                continue;
            }
            let is_alive = node.id == me || self.failure_detector.is_alive(node.id);
            if is_alive {
                silent_since.remove(&node.id);
            }
            let is_lost = !is_alive
                && silent_since
                    .entry(node.id)
                    .or_insert_with(Instant::now)
                    .elapsed()
                    > VOTER_LOSS_TIMEOUT;
            let is_voter = voters.contains(&node.id);
            candidates.push(MetadataCandidate {
                id: node.id,
                region: node.region,
                is_active: node.state == NodeState::Active,
                // A voter gets some time to come back; a learner is not made a voter while it is
                // silent.
                is_alive: if is_voter { !is_lost } else { is_alive },
                is_voter,
            });
        }
        if candidates.is_empty() {
            return;
        }
        let plan = plan_metadata(&candidates);
        let members = TargetMembership {
            voters: plan.voters,
            learners: plan.learners,
            addresses: node_addresses(topology),
        };
        if let MembershipStep::Retry(reason) = self.meta.advance_membership(&members).await {
            tracing::debug!(reason, "membership change of the metadata failed, retrying");
        }
    }
}

/// Allows this node to lead a group if its clock is right. Otherwise, or if it is no longer a voter
/// of the group, one of `others` takes over.
async fn guard_leader<M: StateMachine>(group: &Group<M>, clock_ok: bool, others: &[NodeId]) {
    group.set_may_lead(clock_ok);
    group.recover_lease().await;
    if group.led_term().is_none() {
        return;
    }
    if !clock_ok {
        group
            .transfer_leadership(others, "the leader's clock is off")
            .await;
    } else if group.is_removed_leader() {
        let reason = "the node that led is no member of the group any more";
        group.transfer_leadership(others, reason).await;
    }
}

fn current_placement(placement: &Placement) -> CurrentPlacement {
    CurrentPlacement {
        voters: placement.voters.clone(),
        learners: placement.learners.clone(),
    }
}

fn planned_members(topology: &Topology, placement: &Placement) -> TargetMembership {
    TargetMembership {
        voters: placement.voters.clone(),
        learners: placement.learners.clone(),
        addresses: node_addresses(topology),
    }
}

fn node_addresses(topology: &Topology) -> BTreeMap<NodeId, String> {
    let nodes = topology.nodes().iter();
    nodes.map(|node| (node.id, node.rpc.clone())).collect()
}
