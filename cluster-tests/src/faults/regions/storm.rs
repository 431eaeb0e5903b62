//! Injects the faults of a schedule into several regions.

use std::collections::BTreeSet;
use std::time::Duration;

use super::cut_restart;
use super::doomed::{self, Doomed};
use crate::faults::aim::Aim;
use crate::faults::harm;
use crate::faults::kind::{Counts, Kind};
use crate::faults::nemesis::witness;
use crate::faults::schedule::Step;
use crate::harness::{Bucket, try_eventually};
use crate::region::{Flow, World};
use crate::rng::Rng;

/// Factor by which faults between regions last longer, so that changes accumulate.
const LONGER: u32 = 2;

/// Injects faults into regions, one step at a time, and repairs them.
pub(super) struct Storm<'a> {
    pub world: &'a mut World,
    /// Faults that happened so far.
    pub counts: Counts,
    /// Regions in which a fault hit a shard's leader.
    pub leaders_in: BTreeSet<usize>,
    /// Buckets that were deleted while an isolated region wrote to them.
    pub doomed: Vec<Doomed>,
    /// Buckets that a region got just before it was isolated and killed.
    pub newest: Vec<Bucket>,
}

/// A network fault that is active.
struct Harmed {
    kind: Kind,
    pairs: Vec<(usize, usize)>,
    /// Effect counter of its links before the fault.
    before: u64,
}

impl<'a> Storm<'a> {
    /// Creates a nemesis for these regions.
    pub fn new(cluster: &'a mut World) -> Self {
        Self {
            world: cluster,
            counts: Counts::default(),
            leaders_in: BTreeSet::new(),
            doomed: vec![],
            newest: vec![],
        }
    }

    /// Injects the faults of a step and repairs the regions. All started nodes run before and
    /// after.
    ///
    /// # Panics
    /// Panics if a node doesn't come back, or has exited by itself.
    pub async fn carry_out(&mut self, step: &Step) {
        let mut rng = Rng::new(step.detail);
        let seat = self.aim(step.aim, &mut rng).await;
        let second = match step.second {
            Some((kind, aim)) => {
                let second = self.aim(aim, &mut rng).await;
                Some(self.begin(kind, second, &mut rng))
            }
            None => None,
        };
        self.first(step, seat, &mut rng).await;
        if let Some(second) = second {
            self.end(second).await;
        }
        self.world.network.heal();
        self.assert_all_run();
        tokio::time::sleep(step.rest).await;
    }

    /// Removes all network faults.
    pub fn heal(&mut self) {
        self.world.network.heal();
        self.assert_all_run();
    }

    fn assert_all_run(&mut self) {
        let exits = self.world.unexpected_ends();
        assert!(exits.is_empty(), "{}", exits.join("\n"));
    }

    /// Returns the seat of the target, and counts a leader that is hit.
    async fn aim(&mut self, aim: Aim, rng: &mut Rng) -> usize {
        let running = self.world.running();
        let fallback = running[rng.index(running.len())];
        let regions = self.world.running_regions();
        let region = regions[rng.index(regions.len())];
        let leader = match aim {
            Aim::Seat(seat) => return running[seat % running.len()],
            Aim::MetaLeader => self.world.leader_of("meta").await,
            Aim::ShardLeader(shard) => {
                let group = format!("shard-{shard}");
                self.world.leader_in(region, &group).await
            }
        };
        match (aim, leader) {
            (Aim::MetaLeader, Some(_)) => self.counts.meta_leaders += 1,
            (Aim::ShardLeader(_), Some(_)) => {
                self.counts.shard_leaders += 1;
                self.leaders_in.insert(region);
            }
            (Aim::MetaLeader | Aim::ShardLeader(_) | Aim::Seat(_), _) => {}
        }
        leader.unwrap_or(fallback)
    }

    async fn first(&mut self, step: &Step, seat: usize, rng: &mut Rng) {
        match step.kind {
            Kind::Kill => harm::kill(self.world, &[seat], step.hold).await,
            Kind::KillAll => {
                let all = self.world.running();
                harm::kill(self.world, &all, step.hold).await;
            }
            Kind::RegionKill => {
                let seats = self.running_beside(seat);
                harm::kill(self.world, &seats, step.hold).await;
            }
            Kind::Pause => harm::pause(self.world, seat, step.hold).await,
            Kind::Restart => harm::restart(self.world, seat, step.hold).await,
            Kind::ClockJump => harm::clock_jump(self.world, seat, step.hold, rng).await,
            Kind::RegionCutKill => {
                let region = self.world.region_of(seat);
                let bucket = cut_restart::restart(self.world, region, step.hold).await;
                self.newest.push(bucket);
            }
            Kind::DropBucket => {
                let cut_off = self.world.region_of(seat);
                let deleted = doomed::drop_bucket(self.world, cut_off, step.hold * LONGER);
                self.doomed.push(deleted.await);
            }
            Kind::Isolate
            | Kind::OneWay
            | Kind::Bridge
            | Kind::RegionCut
            | Kind::RegionOneWay
            | Kind::RegionOff
            | Kind::RegionReset
            | Kind::RegionDelay
            | Kind::RegionLoss => {
                let fault = self.begin(step.kind, seat, rng);
                tokio::time::sleep(step.hold * LONGER).await;
                self.end(fault).await;
                return;
            }
            Kind::Refuse
            | Kind::Delay
            | Kind::Loss
            | Kind::Wipe
            | Kind::SlowSnapshot
            | Kind::Members
            | Kind::Damage => {
                panic!("{} is a fault of one region", step.kind)
            }
        }
        self.counts.add(step.kind);
    }

    /// Returns the running nodes of a node's region, itself included.
    fn running_beside(&self, seat: usize) -> Vec<usize> {
        let seats = self.world.seats(self.world.region_of(seat));
        seats.filter(|it| self.world.members[*it].runs()).collect()
    }

    /// Begins a network fault of a node or its region.
    fn begin(&self, kind: Kind, seat: usize, rng: &mut Rng) -> Harmed {
        let cluster = &*self.world;
        let region = cluster.region_of(seat);
        let mut others = cluster.running_regions();
        others.retain(|it| *it != region);
        let other = others[rng.index(others.len())];
        let region_peers: Vec<usize> = cluster.seats(region).filter(|it| *it != seat).collect();
        let all = (0..cluster.members.len()).filter(|it| *it != seat);
        let pairs: Vec<(usize, usize)> = match kind {
            Kind::Isolate => all.map(|it| (seat, it)).collect(),
            Kind::OneWay | Kind::Bridge => {
                let region_peers = region_peers.get(rng.index(region_peers.len().max(1)));
                region_peers.map(|it| (seat, *it)).into_iter().collect()
            }
            Kind::RegionOff => others
                .iter()
                .flat_map(|it| cluster.pairs(region, *it))
                .collect(),
            _ => cluster.pairs(region, other),
        };
        let before = cluster.network.sum_between(&pairs, witness(kind));
        let (delay, stalls, resets) = (rng.millis(50..500), rng.within(100..400), rng.within(0..3));
        for (one, other) in &pairs {
            self.harm(kind, (*one, *other), (delay, stalls, resets));
        }
        Harmed {
            kind,
            pairs,
            before,
        }
    }

    fn harm(
        &self,
        kind: Kind,
        (one, other): (usize, usize),
        (delay, stalls, resets): (Duration, u64, u64),
    ) {
        let network = &self.world.network;
        let both = |change: &dyn Fn(&mut Flow)| {
            for (from, to) in [(one, other), (other, one)] {
                network.shape(from, to, |link| {
                    change(&mut link.requests);
                    change(&mut link.replies);
                });
            }
        };
        match kind {
            Kind::Isolate | Kind::Bridge | Kind::RegionCut | Kind::RegionOff => {
                network.cut(one, other);
            }
            Kind::OneWay | Kind::RegionOneWay => network.cut_direction(one, other),
            Kind::RegionReset => {
                for (from, to) in [(one, other), (other, one)] {
                    network.shape(from, to, |link| link.refuse = true);
                }
            }
            Kind::RegionDelay => both(&|flow| flow.delay += delay),
            Kind::RegionLoss => both(&|flow| {
                flow.stalls = stalls;
                flow.resets = resets;
            }),
            Kind::Kill
            | Kind::KillAll
            | Kind::RegionKill
            | Kind::Pause
            | Kind::Restart
            | Kind::ClockJump
            | Kind::RegionCutKill
            | Kind::DropBucket
            | Kind::Refuse
            | Kind::Delay
            | Kind::Loss
            | Kind::Wipe
            | Kind::SlowSnapshot
            | Kind::Members
            | Kind::Damage => {}
        }
    }

    /// Ends a network fault. It counts if it affected any traffic.
    async fn end(&mut self, fault: Harmed) {
        let network = &self.world.network;
        let (pairs, counter) = (&fault.pairs, witness(fault.kind));
        let has_effect = async || (network.sum_between(pairs, counter) > fault.before).then_some(());
        if try_eventually(Duration::from_secs(1), has_effect).await.is_some() {
            self.counts.add(fault.kind);
        }
        self.world.network.heal();
    }
}
