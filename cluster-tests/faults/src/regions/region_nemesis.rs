//! Injects the faults of a schedule into several regions.

use std::collections::BTreeSet;
use std::time::Duration;

use super::deleted_bucket::{self, DeletedBucket};
use super::isolated_restart;
use crate::fault_kind::{FaultCounts, FaultKind, NetworkFault};
use crate::nemesis::effect_counter;
use crate::node_faults;
use crate::schedule::FaultStep;
use crate::target::FaultTarget;
use cloudkv_test_harness::region::{FlowShape, MultiRegionCluster};
use cloudkv_test_harness::rng::Rng;
use cloudkv_test_harness::{Bucket, try_eventually};

/// Factor by which faults between regions last longer, so that changes accumulate.
const REGION_FAULT_FACTOR: u32 = 2;

/// Injects faults into regions, one step at a time, and repairs them.
pub(super) struct RegionNemesis<'a> {
    pub cluster: &'a mut MultiRegionCluster,
    /// Faults that happened so far.
    pub counts: FaultCounts,
    /// Regions in which a fault hit a shard's leader.
    pub leaders_in: BTreeSet<usize>,
    /// Buckets that were deleted while an isolated region wrote to them.
    pub deleted_buckets: Vec<DeletedBucket>,
    /// Buckets that a region got just before it was isolated and killed.
    pub newest_buckets: Vec<Bucket>,
}

/// A network fault that is active.
struct ActiveFault {
    fault: NetworkFault,
    pairs: Vec<(usize, usize)>,
    /// Effect counter of its links before the fault.
    before: u64,
}

impl<'a> RegionNemesis<'a> {
    /// Creates a nemesis for these regions.
    pub(super) fn new(cluster: &'a mut MultiRegionCluster) -> Self {
        Self {
            cluster,
            counts: FaultCounts::default(),
            leaders_in: BTreeSet::new(),
            deleted_buckets: vec![],
            newest_buckets: vec![],
        }
    }

    /// Injects the faults of a step and repairs the regions. All started nodes run before and
    /// after.
    ///
    /// # Panics
    /// Panics if a node doesn't come back, or has exited by itself.
    pub(super) async fn carry_out(&mut self, step: &FaultStep) {
        let mut rng = Rng::new(step.seed);
        let seat = self.resolve_target(step.target, &mut rng).await;
        let second = match step.second_fault {
            Some((fault, aim)) => {
                let second = self.resolve_target(aim, &mut rng).await;
                Some(self.begin_network_fault(fault, second, &mut rng))
            }
            None => None,
        };
        self.inject(step, seat, &mut rng).await;
        if let Some(second) = second {
            self.end_network_fault(second).await;
        }
        self.cluster.network.heal();
        self.assert_all_run();
        tokio::time::sleep(step.pause_after).await;
    }

    /// Removes all network faults.
    pub(super) fn heal(&mut self) {
        self.cluster.network.heal();
        self.assert_all_run();
    }

    fn assert_all_run(&mut self) {
        let exits = self.cluster.unexpected_exits();
        assert!(exits.is_empty(), "{}", exits.join("\n"));
    }

    /// Returns the seat of the target, and counts a leader that is hit.
    async fn resolve_target(&mut self, aim: FaultTarget, rng: &mut Rng) -> usize {
        let running = self.cluster.running();
        let fallback = running[rng.index(running.len())];
        let regions = self.cluster.running_regions();
        let region = regions[rng.index(regions.len())];
        let leader = match aim {
            FaultTarget::Seat(seat) => return running[seat % running.len()],
            FaultTarget::MetaLeader => self.cluster.leader_of("meta").await,
            FaultTarget::ShardLeader(shard) => {
                let group = format!("shard-{shard}");
                self.cluster.leader_in_region(region, &group).await
            }
        };
        match (aim, leader) {
            (FaultTarget::MetaLeader, Some(_)) => self.counts.meta_leaders += 1,
            (FaultTarget::ShardLeader(_), Some(_)) => {
                self.counts.shard_leaders += 1;
                self.leaders_in.insert(region);
            }
            (FaultTarget::MetaLeader | FaultTarget::ShardLeader(_) | FaultTarget::Seat(_), _) => {}
        }
        leader.unwrap_or(fallback)
    }

    async fn inject(&mut self, step: &FaultStep, seat: usize, rng: &mut Rng) {
        match step.kind {
            FaultKind::Kill => node_faults::kill(self.cluster, &[seat], step.duration).await,
            FaultKind::KillAll => {
                let all = self.cluster.running();
                node_faults::kill(self.cluster, &all, step.duration).await;
            }
            FaultKind::RegionKill => {
                let seats = self.running_in_region(seat);
                node_faults::kill(self.cluster, &seats, step.duration).await;
            }
            FaultKind::Pause => node_faults::pause(self.cluster, seat, step.duration).await,
            FaultKind::Restart => node_faults::restart(self.cluster, seat, step.duration).await,
            FaultKind::ClockJump => {
                node_faults::clock_jump(self.cluster, seat, step.duration, rng).await
            }
            FaultKind::RegionCutKill => {
                let region = self.cluster.region_of(seat);
                let bucket =
                    isolated_restart::restart_isolated(self.cluster, region, step.duration).await;
                self.newest_buckets.push(bucket);
            }
            FaultKind::DropBucket => {
                let cut_off = self.cluster.region_of(seat);
                let deleted = deleted_bucket::delete_under_partition(
                    self.cluster,
                    cut_off,
                    step.duration * REGION_FAULT_FACTOR,
                );
                self.deleted_buckets.push(deleted.await);
            }
            FaultKind::Network(fault) => {
                let fault = self.begin_network_fault(fault, seat, rng);
                tokio::time::sleep(step.duration * REGION_FAULT_FACTOR).await;
                self.end_network_fault(fault).await;
                return;
            }
            FaultKind::Wipe
            | FaultKind::SlowSnapshot
            | FaultKind::MembershipChange
            | FaultKind::Damage => {
                panic!("{} is a fault of one region", step.kind)
            }
        }
        self.counts.add(step.kind);
    }

    /// Returns the running nodes of a node's region, itself included.
    fn running_in_region(&self, seat: usize) -> Vec<usize> {
        let seats = self.cluster.seats(self.cluster.region_of(seat));
        seats
            .filter(|it| self.cluster.nodes[*it].is_running())
            .collect()
    }

    /// Begins a network fault of a node or its region.
    fn begin_network_fault(&self, fault: NetworkFault, seat: usize, rng: &mut Rng) -> ActiveFault {
        let cluster = &*self.cluster;
        let region = cluster.region_of(seat);
        let mut others = cluster.running_regions();
        others.retain(|it| *it != region);
        let other = others[rng.index(others.len())];
        let region_peers: Vec<usize> = cluster.seats(region).filter(|it| *it != seat).collect();
        let all = (0..cluster.nodes.len()).filter(|it| *it != seat);
        let pairs: Vec<(usize, usize)> = match fault {
            NetworkFault::Isolate => all.map(|it| (seat, it)).collect(),
            NetworkFault::OneWay | NetworkFault::Bridge => {
                let region_peers = region_peers.get(rng.index(region_peers.len().max(1)));
                region_peers.map(|it| (seat, *it)).into_iter().collect()
            }
            NetworkFault::RegionOff => others
                .iter()
                .flat_map(|it| cluster.pairs(region, *it))
                .collect(),
            NetworkFault::RegionCut
            | NetworkFault::RegionOneWay
            | NetworkFault::RegionReset
            | NetworkFault::RegionDelay
            | NetworkFault::RegionLoss => cluster.pairs(region, other),
            NetworkFault::Refuse | NetworkFault::Delay | NetworkFault::Loss => {
                panic!("{fault:?} is a fault of one region")
            }
        };
        let before = cluster
            .network
            .sum_stats_between(&pairs, effect_counter(fault));
        let (delay, stalls, resets) = (rng.millis(50..500), rng.range(100..400), rng.range(0..3));
        for (one, other) in &pairs {
            self.apply_fault(fault, (*one, *other), (delay, stalls, resets));
        }
        ActiveFault {
            fault,
            pairs,
            before,
        }
    }

    fn apply_fault(
        &self,
        fault: NetworkFault,
        (one, other): (usize, usize),
        (delay, stalls, resets): (Duration, u64, u64),
    ) {
        let network = &self.cluster.network;
        let both = |change: &dyn Fn(&mut FlowShape)| {
            for (from, to) in [(one, other), (other, one)] {
                network.shape(from, to, |link| {
                    change(&mut link.requests);
                    change(&mut link.replies);
                });
            }
        };
        match fault {
            NetworkFault::Isolate
            | NetworkFault::Bridge
            | NetworkFault::RegionCut
            | NetworkFault::RegionOff => {
                network.cut(one, other);
            }
            NetworkFault::OneWay | NetworkFault::RegionOneWay => network.cut_direction(one, other),
            NetworkFault::RegionReset => {
                for (from, to) in [(one, other), (other, one)] {
                    network.shape(from, to, |link| link.resets_connections = true);
                }
            }
            NetworkFault::RegionDelay => both(&|flow| flow.delay += delay),
            NetworkFault::RegionLoss => both(&|flow| {
                flow.stalls_permille = stalls;
                flow.resets_permille = resets;
            }),
            NetworkFault::Refuse | NetworkFault::Delay | NetworkFault::Loss => {
                panic!("{fault:?} is a fault of one region")
            }
        }
    }

    /// Ends a network fault. It counts if it affected any traffic.
    async fn end_network_fault(&mut self, fault: ActiveFault) {
        let network = &self.cluster.network;
        let (pairs, counter) = (&fault.pairs, effect_counter(fault.fault));
        let has_effect =
            async || (network.sum_stats_between(pairs, counter) > fault.before).then_some(());
        if try_eventually(Duration::from_secs(1), has_effect)
            .await
            .is_some()
        {
            self.counts.add(FaultKind::Network(fault.fault));
        }
        self.cluster.network.heal();
    }
}
