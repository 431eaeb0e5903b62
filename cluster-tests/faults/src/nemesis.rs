//! Injects the faults of a schedule into a region.

use std::sync::atomic::AtomicU64;
use std::time::Duration;

use super::disk_damage;
use super::fault_kind::{FaultCounts, FaultKind, NetworkFault};
use super::node_faults;
use super::schedule::FaultStep;
use super::slow_snapshot::slow_snapshot;
use super::target::FaultTarget;
use cloudkv_test_harness::region::{LinkStats, Region};
use cloudkv_test_harness::rng::Rng;
use cloudkv_test_harness::try_eventually;

/// Time for all groups to be healthy after a wipe.
const HEALTHY_TIMEOUT: Duration = Duration::from_secs(180);

/// Injects faults into a region, one step at a time, and repairs it.
#[derive(Debug)]
pub struct Nemesis<'a> {
    region: &'a mut Region,
    /// Faults that happened so far.
    pub counts: FaultCounts,
}

impl<'a> Nemesis<'a> {
    /// Creates a nemesis for a region.
    pub fn new(region: &'a mut Region) -> Self {
        Self {
            region,
            counts: FaultCounts::default(),
        }
    }

    /// Injects the faults of a step and repairs the region. All nodes run before and after.
    ///
    /// # Panics
    /// Panics if a node doesn't come back, or has exited by itself.
    pub async fn carry_out(&mut self, step: &FaultStep) {
        let mut rng = Rng::new(step.seed);
        let seat = self.resolve_target(step.target, &mut rng).await;
        match step.second_fault {
            Some((fault, aim)) => {
                let second = self.resolve_target(aim, &mut rng).await;
                let before = self.begin_network_fault(fault, second, &mut rng);
                self.inject(step, seat, &mut rng).await;
                self.end_network_fault(fault, before).await;
            }
            None => self.inject(step, seat, &mut rng).await,
        }
        self.region.network.heal();
        self.assert_all_run();
        tokio::time::sleep(step.pause_after).await;
    }

    /// Removes all network faults.
    pub fn heal(&mut self) {
        self.region.network.heal();
        self.assert_all_run();
    }

    fn assert_all_run(&mut self) {
        let exits = self.region.unexpected_exits();
        assert!(exits.is_empty(), "{}", exits.join("\n"));
    }

    async fn resolve_target(&mut self, aim: FaultTarget, rng: &mut Rng) -> usize {
        let fallback = rng.index(self.region.nodes.len());
        let (seat, is_leader) = aim.resolve(self.region, fallback).await;
        match aim {
            FaultTarget::MetaLeader if is_leader => self.counts.meta_leaders += 1,
            FaultTarget::ShardLeader(_) if is_leader => self.counts.shard_leaders += 1,
            FaultTarget::MetaLeader | FaultTarget::ShardLeader(_) | FaultTarget::Seat(_) => {}
        }
        seat
    }

    async fn inject(&mut self, step: &FaultStep, seat: usize, rng: &mut Rng) {
        match step.kind {
            FaultKind::Kill => node_faults::kill(self.region, &[seat], step.duration).await,
            FaultKind::KillAll => {
                let all = self.region.running();
                node_faults::kill(self.region, &all, step.duration).await;
            }
            FaultKind::Pause => node_faults::pause(self.region, seat, step.duration).await,
            FaultKind::Restart => node_faults::restart(self.region, seat, step.duration).await,
            FaultKind::ClockJump => {
                node_faults::clock_jump(self.region, seat, step.duration, rng).await
            }
            FaultKind::Wipe => self.wipe(seat, rng).await,
            FaultKind::SlowSnapshot => {
                if !slow_snapshot(self.region, seat, step.duration, rng).await {
                    return;
                }
            }
            FaultKind::MembershipChange => {
                if !node_faults::change_members(self.region, seat, step.duration, rng).await {
                    return;
                }
            }
            FaultKind::Damage => {
                let flipped = disk_damage::damage(self.region, seat, step.duration, rng).await;
                if flipped == 0 {
                    return;
                }
            }
            FaultKind::Network(fault) => {
                let before = self.begin_network_fault(fault, seat, rng);
                tokio::time::sleep(step.duration).await;
                self.end_network_fault(fault, before).await;
                return;
            }
            FaultKind::RegionKill | FaultKind::RegionCutKill | FaultKind::DropBucket => {
                panic!("{} needs several regions", step.kind)
            }
        }
        self.counts.add(step.kind);
    }

    /// Wipes a node, only while all groups are healthy: of three copies one is lost, and two must
    /// exist.
    async fn wipe(&mut self, seat: usize, rng: &mut Rng) {
        self.region.wait_formed_within(HEALTHY_TIMEOUT).await;
        let nodes = self.region.nodes.len();
        let admin_seat = (seat + 1 + rng.index(nodes - 1)) % nodes;
        let region = &mut *self.region;
        region.replace_after_disk_loss(seat, admin_seat).await;
        self.region.wait_formed_within(HEALTHY_TIMEOUT).await;
    }

    /// Begins a fault of the network; returns its counter of affected chunks before it.
    fn begin_network_fault(&self, fault: NetworkFault, seat: usize, rng: &mut Rng) -> u64 {
        let network = &self.region.network;
        let nodes = self.region.nodes.len();
        let before = network.sum_stats(effect_counter(fault));
        let other = (seat + 1 + rng.index(nodes - 1)) % nodes;
        match fault {
            NetworkFault::Isolate => network.isolate(seat),
            NetworkFault::OneWay if rng.chance_permille(500) => network.cut_direction(seat, other),
            NetworkFault::OneWay => network.cut_direction(other, seat),
            NetworkFault::Bridge => network.cut(seat, other),
            NetworkFault::Refuse => network.reset_connections(seat),
            NetworkFault::Delay => {
                let delay = rng.millis(5..150);
                network.delay(seat, delay, delay);
            }
            NetworkFault::Loss => {
                let (stalls, resets) = (rng.range(10..100), rng.range(0..4));
                network.shape_all(seat, |flow| {
                    flow.stalls_permille = stalls;
                    flow.resets_permille = resets;
                });
            }
            NetworkFault::RegionCut
            | NetworkFault::RegionOneWay
            | NetworkFault::RegionOff
            | NetworkFault::RegionReset
            | NetworkFault::RegionDelay
            | NetworkFault::RegionLoss => panic!("{fault:?} needs several regions"),
        }
        before
    }

    /// Ends a fault of the network. It counts if it affected any traffic.
    async fn end_network_fault(&mut self, fault: NetworkFault, before: u64) {
        let network = &self.region.network;
        let counter = effect_counter(fault);
        let has_effect = async || (network.sum_stats(counter) > before).then_some(());
        if try_eventually(Duration::from_secs(1), has_effect)
            .await
            .is_some()
        {
            self.counts.add(FaultKind::Network(fault));
        }
        self.region.network.heal();
    }
}

/// Returns the counter that grows when a fault affects traffic.
pub(super) fn effect_counter(fault: NetworkFault) -> fn(&LinkStats) -> &AtomicU64 {
    match fault {
        NetworkFault::Refuse | NetworkFault::RegionReset => |stats| &stats.reset,
        NetworkFault::Delay | NetworkFault::RegionDelay => |stats| &stats.delayed,
        NetworkFault::Loss | NetworkFault::RegionLoss => |stats| &stats.stalled,
        NetworkFault::Isolate
        | NetworkFault::OneWay
        | NetworkFault::Bridge
        | NetworkFault::RegionCut
        | NetworkFault::RegionOneWay
        | NetworkFault::RegionOff => |stats| &stats.held_back,
    }
}
