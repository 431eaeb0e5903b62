//! Carries out a schedule on several regions.

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

/// How much longer than others faults between regions last: changes should gather meanwhile.
const LONGER: u32 = 2;

/// Does harm to regions, one step at a time, and mends it.
pub(super) struct Storm<'a> {
    pub world: &'a mut World,
    /// What happened so far.
    pub counts: Counts,
    /// The regions in which a leader of a shard was hit.
    pub leaders_in: BTreeSet<usize>,
    /// Buckets that were deleted while a region that was cut off wrote to them.
    pub doomed: Vec<Doomed>,
    /// Buckets that a region got just before it was cut off and killed.
    pub newest: Vec<Bucket>,
}

/// A fault of the network that goes on.
struct Harmed {
    kind: Kind,
    pairs: Vec<(usize, usize)>,
    /// What its links had met before.
    before: u64,
}

impl<'a> Storm<'a> {
    /// Nothing happened yet.
    pub fn new(world: &'a mut World) -> Self {
        Self {
            world,
            counts: Counts::default(),
            leaders_in: BTreeSet::new(),
            doomed: vec![],
            newest: vec![],
        }
    }

    /// Does what a step says, and mends it. All started nodes run before and after.
    ///
    /// # Panics
    /// When a node doesn't come back, or has ended by itself.
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

    /// Mends what is left to mend.
    pub fn heal(&mut self) {
        self.world.network.heal();
        self.assert_all_run();
    }

    fn assert_all_run(&mut self) {
        let ended = self.world.unexpected_ends();
        assert!(ended.is_empty(), "{}", ended.join("\n"));
    }

    /// The seat that is meant, and if it is a leader's, that it was hit.
    async fn aim(&mut self, aim: Aim, rng: &mut Rng) -> usize {
        let running = self.world.running();
        let otherwise = running[rng.index(running.len())];
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
        leader.unwrap_or(otherwise)
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
                let doomed = doomed::drop_bucket(self.world, cut_off, step.hold * LONGER);
                self.doomed.push(doomed.await);
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
                let harmed = self.begin(step.kind, seat, rng);
                tokio::time::sleep(step.hold * LONGER).await;
                self.end(harmed).await;
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

    /// The running nodes of a node's region, itself included.
    fn running_beside(&self, seat: usize) -> Vec<usize> {
        let seats = self.world.seats(self.world.region_of(seat));
        seats.filter(|it| self.world.members[*it].runs()).collect()
    }

    /// Begins a fault of the network, at a node or its region.
    fn begin(&self, kind: Kind, seat: usize, rng: &mut Rng) -> Harmed {
        let world = &*self.world;
        let region = world.region_of(seat);
        let mut others = world.running_regions();
        others.retain(|it| *it != region);
        let other = others[rng.index(others.len())];
        let near: Vec<usize> = world.seats(region).filter(|it| *it != seat).collect();
        let all = (0..world.members.len()).filter(|it| *it != seat);
        let pairs: Vec<(usize, usize)> = match kind {
            Kind::Isolate => all.map(|it| (seat, it)).collect(),
            Kind::OneWay | Kind::Bridge => {
                let near = near.get(rng.index(near.len().max(1)));
                near.map(|it| (seat, *it)).into_iter().collect()
            }
            Kind::RegionOff => others
                .iter()
                .flat_map(|it| world.pairs(region, *it))
                .collect(),
            _ => world.pairs(region, other),
        };
        let before = world.network.sum_between(&pairs, witness(kind));
        let (late, stalls, resets) = (rng.millis(50..500), rng.within(100..400), rng.within(0..3));
        for (one, other) in &pairs {
            self.harm(kind, (*one, *other), (late, stalls, resets));
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
        (late, stalls, resets): (Duration, u64, u64),
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
            Kind::RegionDelay => both(&|flow| flow.delay += late),
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

    /// Ends a fault of the network. It counts if it met anything.
    async fn end(&mut self, harmed: Harmed) {
        let network = &self.world.network;
        let (pairs, counter) = (&harmed.pairs, witness(harmed.kind));
        let met = async || (network.sum_between(pairs, counter) > harmed.before).then_some(());
        if try_eventually(Duration::from_secs(1), met).await.is_some() {
            self.counts.add(harmed.kind);
        }
        self.world.network.heal();
    }
}
