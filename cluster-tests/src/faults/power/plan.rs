//! Which power goes when: decided by the seed alone.

use std::time::Duration;

use super::failure::DiskFailure;
use crate::power::Area;
use crate::rng::Rng;

/// A power loss, and what comes before and after it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Cut {
    /// Nodes whose disks sync slowly, until the cut is over.
    pub slow: Vec<usize>,
    /// The part of the data directory whose syncs are slow.
    pub slow_area: Area,
    /// Duration of a slow sync.
    pub sync_delay: Duration,
    /// How long there is load before anything else.
    pub load: Duration,
    /// A node that is killed first, with its power on, and started again.
    pub killed: Option<usize>,
    /// Time between that start and the cut.
    pub after_start: Duration,
    /// Disks that fail then.
    pub failure: Option<DiskFailure>,
    /// The nodes that lose power, all at once, in the order in which they are started again. None:
    /// there are slow disks, and no more.
    pub seats: Vec<usize>,
    /// How long the power is off.
    pub dark: Duration,
    /// How much later than the others the last one of them is started.
    pub held_back: Duration,
    /// Whether the next cut waits until all groups are whole.
    pub heals: bool,
    /// Decides what the disks lose.
    pub detail: u64,
}

/// An endless list of cuts, in a region or in several of the same size.
#[derive(Debug)]
pub struct Plan {
    rng: Rng,
    /// Decides which disks fail.
    failures: Rng,
    regions: usize,
    /// Nodes of each region.
    each: usize,
}

impl Plan {
    /// The cuts of this seed in a region of `nodes` nodes.
    pub fn new(seed: u64, nodes: usize) -> Self {
        Self::of_regions(seed, 1, nodes)
    }

    /// The cuts of this seed in regions of `each` nodes.
    pub fn of_regions(seed: u64, regions: usize, each: usize) -> Self {
        Self {
            rng: Rng::branch(seed, 0x50f7),
            failures: Rng::branch(seed, 0xd15c),
            regions,
            each,
        }
    }

    /// Some nodes of the region whose first node is at `first`.
    fn some_seats(&mut self, first: usize, count: usize) -> Vec<usize> {
        let mut seats: Vec<usize> = (first..first + self.each).collect();
        self.rng.shuffle(&mut seats);
        seats.truncate(count);
        seats
    }

    /// All nodes of some regions.
    fn some_regions(&mut self, count: usize) -> Vec<usize> {
        let mut regions: Vec<usize> = (0..self.regions).collect();
        self.rng.shuffle(&mut regions);
        regions.truncate(count);
        let each = self.each;
        let seats = regions
            .into_iter()
            .flat_map(|it| it * each..(it + 1) * each);
        let mut seats: Vec<usize> = seats.collect();
        self.rng.shuffle(&mut seats);
        seats
    }

    /// The nodes that lose power: in one region one, a majority or all; of several regions mostly
    /// whole ones.
    fn seats_to_cut(&mut self, first: usize) -> Vec<usize> {
        let majority = self.each / 2 + 1;
        let drawn = self.rng.within(0..10);
        if self.regions == 1 {
            let count = match drawn {
                0..3 => 1,
                3..6 => majority,
                _ => self.each,
            };
            return self.some_seats(first, count);
        }
        match drawn {
            0 => self.some_seats(first, 1),
            1 => self.some_seats(first, majority),
            2..7 => self.some_regions(1),
            7..9 => self.some_regions(2),
            _ => self.some_regions(self.regions),
        }
    }

    /// Disks of the region whose first node is at `first` that fail before the cut, now and then.
    fn draw_failure(&mut self, first: usize) -> Option<DiskFailure> {
        if !self.failures.permille(400) {
            return None;
        }
        let mut seats: Vec<usize> = (first..first + self.each).collect();
        self.failures.shuffle(&mut seats);
        Some(DiskFailure::draw(&mut self.failures, &seats))
    }

    /// The next cut.
    pub fn next_cut(&mut self) -> Cut {
        let majority = self.each / 2 + 1;
        let first = match self.regions {
            1 => 0,
            regions => self.rng.index(regions) * self.each,
        };
        let slow = match self.rng.within(0..10) {
            0..3 => 0,
            3 => 1,
            // Nothing is committed then without a slow sync.
            _ => majority,
        };
        let slow = self.some_seats(first, slow);
        let killed = match slow.first() {
            Some(seat) => self.rng.permille(750).then_some(*seat),
            None => self
                .rng
                .permille(300)
                .then(|| first + self.rng.index(self.each)),
        };
        let mut seats = self.seats_to_cut(first);
        let is_held_back = seats.len() > 1 && self.rng.permille(650);
        // A node whose disk was fast has what the others may have lost.
        let fast = seats.iter().position(|seat| !slow.contains(seat));
        if let Some(fast) = fast
            && is_held_back
            && self.rng.permille(700)
        {
            let seat = seats.remove(fast);
            seats.push(seat);
        }
        let failure = self.draw_failure(first);
        let rng = &mut self.rng;
        let held_back = rng.millis(2500..6000);
        // A start syncs much beside the log.
        let (slow_area, sync_delay) = match rng.within(0..10) {
            // Longer than a start takes.
            0..6 => (Area::Log, rng.millis(2500..6000)),
            6..8 => (Area::Log, rng.millis(200..1500)),
            _ => (Area::Everywhere, rng.millis(20..300)),
        };
        Cut {
            slow,
            slow_area,
            sync_delay,
            load: rng.millis(100..900),
            killed,
            after_start: rng.millis(0..600),
            failure,
            seats,
            dark: rng.millis(0..700),
            held_back: if is_held_back {
                held_back
            } else {
                Duration::ZERO
            },
            heals: rng.permille(700),
            detail: rng.draw(),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_seed_gives_the_same_cuts_and_all_patterns_come() {
        let cuts = |seed| {
            let mut plan = Plan::new(seed, 3);
            (0..100).map(|_| plan.next_cut()).collect::<Vec<_>>()
        };
        assert_eq!(cuts(7), cuts(7));
        assert_ne!(cuts(7), cuts(8));
        let cuts = cuts(7);
        for count in 1..=3 {
            assert!(cuts.iter().any(|cut| cut.seats.len() == count), "{count}");
        }
        let is_killed_while_slow =
            |cut: &Cut| cut.killed.is_some_and(|seat| cut.slow.contains(&seat));
        assert!(cuts.iter().any(is_killed_while_slow));
        assert!(cuts.iter().any(|cut| cut.failure.is_some()));
    }

    #[test]
    fn whole_regions_lose_power_one_several_and_all() {
        let mut plan = Plan::of_regions(1, 3, 3);
        let cuts: Vec<_> = (0..100).map(|_| plan.next_cut()).collect();
        for count in [1, 2, 3, 6, 9] {
            let such = || cuts.iter().filter(|cut| cut.seats.len() == count);
            assert!(such().count() > 0, "{count}");
            let regions = |cut: &Cut| {
                let regions = cut.seats.iter().map(|seat| seat / 3);
                regions.collect::<std::collections::BTreeSet<_>>().len()
            };
            assert!(such().all(|cut| regions(cut) == count.div_ceil(3)));
        }
    }

    #[test]
    fn a_node_alone_loses_power_too() {
        let mut plan = Plan::new(1, 1);
        assert!((0..50).all(|_| plan.next_cut().seats == [0]));
    }
}
