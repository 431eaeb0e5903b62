//! Injects the faults of a schedule into a region.

use std::sync::atomic::AtomicU64;
use std::time::Duration;

use super::aim::Aim;
use super::damage;
use super::harm;
use super::kind::{Counts, Kind};
use super::schedule::Step;
use super::slow_snapshot::slow_snapshot;
use crate::harness::try_eventually;
use crate::region::{LinkStats, Region};
use crate::rng::Rng;

/// Time for all groups to be healthy after a wipe.
const WHOLE_WITHIN: Duration = Duration::from_secs(180);

/// Injects faults into a region, one step at a time, and repairs it.
#[derive(Debug)]
pub struct Nemesis<'a> {
    region: &'a mut Region,
    /// Faults that happened so far.
    pub counts: Counts,
}

impl<'a> Nemesis<'a> {
    /// Creates a nemesis for a region.
    pub fn new(region: &'a mut Region) -> Self {
        Self {
            region,
            counts: Counts::default(),
        }
    }

    /// Injects the faults of a step and repairs the region. All nodes run before and after.
    ///
    /// # Panics
    /// Panics if a node doesn't come back, or has exited by itself.
    pub async fn carry_out(&mut self, step: &Step) {
        let mut rng = Rng::new(step.detail);
        let seat = self.aim(step.aim, &mut rng).await;
        match step.second {
            Some((kind, aim)) => {
                let second = self.aim(aim, &mut rng).await;
                let before = self.begin_network(kind, second, &mut rng);
                self.first(step, seat, &mut rng).await;
                self.end_network(kind, before).await;
            }
            None => self.first(step, seat, &mut rng).await,
        }
        self.region.network.heal();
        self.assert_all_run();
        tokio::time::sleep(step.rest).await;
    }

    /// Removes all network faults.
    pub fn heal(&mut self) {
        self.region.network.heal();
        self.assert_all_run();
    }

    fn assert_all_run(&mut self) {
        let exits = self.region.unexpected_ends();
        assert!(exits.is_empty(), "{}", exits.join("\n"));
    }

    async fn aim(&mut self, aim: Aim, rng: &mut Rng) -> usize {
        let fallback = rng.index(self.region.members.len());
        let (seat, is_leader) = aim.resolve(self.region, fallback).await;
        match aim {
            Aim::MetaLeader if is_leader => self.counts.meta_leaders += 1,
            Aim::ShardLeader(_) if is_leader => self.counts.shard_leaders += 1,
            Aim::MetaLeader | Aim::ShardLeader(_) | Aim::Seat(_) => {}
        }
        seat
    }

    async fn first(&mut self, step: &Step, seat: usize, rng: &mut Rng) {
        match step.kind {
            Kind::Kill => harm::kill(self.region, &[seat], step.hold).await,
            Kind::KillAll => {
                let all = self.region.running();
                harm::kill(self.region, &all, step.hold).await;
            }
            Kind::Pause => harm::pause(self.region, seat, step.hold).await,
            Kind::Restart => harm::restart(self.region, seat, step.hold).await,
            Kind::ClockJump => harm::clock_jump(self.region, seat, step.hold, rng).await,
            Kind::Wipe => self.wipe(seat, rng).await,
            Kind::SlowSnapshot => {
                if !slow_snapshot(self.region, seat, step.hold, rng).await {
                    return;
                }
            }
            Kind::Members => {
                if !harm::change_members(self.region, seat, step.hold, rng).await {
                    return;
                }
            }
            Kind::Damage => {
                let flipped = damage::damage(self.region, seat, step.hold, rng).await;
                if flipped == 0 {
                    return;
                }
            }
            Kind::Isolate
            | Kind::OneWay
            | Kind::Bridge
            | Kind::Refuse
            | Kind::Delay
            | Kind::Loss => {
                let before = self.begin_network(step.kind, seat, rng);
                tokio::time::sleep(step.hold).await;
                self.end_network(step.kind, before).await;
                return;
            }
            Kind::RegionKill
            | Kind::RegionCutKill
            | Kind::RegionCut
            | Kind::RegionOneWay
            | Kind::RegionOff
            | Kind::RegionReset
            | Kind::RegionDelay
            | Kind::RegionLoss
            | Kind::DropBucket => {
                panic!("{} needs several regions", step.kind)
            }
        }
        self.counts.add(step.kind);
    }

    /// Wipes a node, only while all groups are healthy: of three copies one is lost, and two must
    /// exist.
    async fn wipe(&mut self, seat: usize, rng: &mut Rng) {
        self.region.wait_formed_within(WHOLE_WITHIN).await;
        let lost_id = self.region.node_id(seat).await;
        self.region.kill(seat);
        self.region.rejoin_wiped(seat).await;
        let nodes = self.region.members.len();
        let admin_seat = (seat + 1 + rng.index(nodes - 1)) % nodes;
        self.region.replace(admin_seat, &lost_id).await;
        self.region.wait_formed_within(WHOLE_WITHIN).await;
    }

    /// Begins a fault of the network; returns its kind's counter of affected chunks before it.
    fn begin_network(&self, kind: Kind, seat: usize, rng: &mut Rng) -> u64 {
        let network = &self.region.network;
        let nodes = self.region.members.len();
        let before = network.sum(witness(kind));
        let other = (seat + 1 + rng.index(nodes - 1)) % nodes;
        match kind {
            Kind::Isolate => network.isolate(seat),
            Kind::OneWay if rng.permille(500) => network.cut_direction(seat, other),
            Kind::OneWay => network.cut_direction(other, seat),
            Kind::Bridge => network.cut(seat, other),
            Kind::Refuse => network.refuse(seat),
            Kind::Delay => {
                let delay = rng.millis(5..150);
                network.delay(seat, delay, delay);
            }
            Kind::Loss => {
                let (stalls, resets) = (rng.within(10..100), rng.within(0..4));
                network.around(seat, |flow| {
                    flow.stalls = stalls;
                    flow.resets = resets;
                });
            }
            Kind::Kill
            | Kind::KillAll
            | Kind::Pause
            | Kind::Restart
            | Kind::ClockJump
            | Kind::Wipe
            | Kind::SlowSnapshot
            | Kind::Members
            | Kind::Damage
            | Kind::RegionKill
            | Kind::RegionCutKill
            | Kind::RegionCut
            | Kind::RegionOneWay
            | Kind::RegionOff
            | Kind::RegionReset
            | Kind::RegionDelay
            | Kind::RegionLoss
            | Kind::DropBucket => {}
        }
        before
    }

    /// Ends a fault of the network. It counts if it affected any traffic.
    async fn end_network(&mut self, kind: Kind, before: u64) {
        let network = &self.region.network;
        let has_effect = async || (network.sum(witness(kind)) > before).then_some(());
        if try_eventually(Duration::from_secs(1), has_effect).await.is_some() {
            self.counts.add(kind);
        }
        self.region.network.heal();
    }
}

/// Returns the counter that grows when a fault of this kind affects traffic.
pub(super) fn witness(kind: Kind) -> fn(&LinkStats) -> &AtomicU64 {
    match kind {
        Kind::Refuse | Kind::RegionReset => |stats| &stats.reset,
        Kind::Delay | Kind::RegionDelay => |stats| &stats.delayed,
        Kind::Loss | Kind::RegionLoss => |stats| &stats.stalled,
        Kind::Isolate
        | Kind::OneWay
        | Kind::Bridge
        | Kind::Kill
        | Kind::KillAll
        | Kind::Pause
        | Kind::Restart
        | Kind::ClockJump
        | Kind::Wipe
        | Kind::SlowSnapshot
        | Kind::Members
        | Kind::Damage
        | Kind::RegionKill
        | Kind::RegionCutKill
        | Kind::RegionCut
        | Kind::RegionOneWay
        | Kind::RegionOff
        | Kind::DropBucket => |stats| &stats.held,
    }
}
