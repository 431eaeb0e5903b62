//! Which power goes when: decided by the seed alone.

use std::time::Duration;

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

/// An endless list of cuts in a region of `nodes` nodes.
#[derive(Debug)]
pub struct Plan {
    rng: Rng,
    nodes: usize,
}

impl Plan {
    /// The cuts of this seed.
    pub fn new(seed: u64, nodes: usize) -> Self {
        Self {
            rng: Rng::branch(seed, 0x50f7),
            nodes,
        }
    }

    fn some_seats(&mut self, count: usize) -> Vec<usize> {
        let mut seats: Vec<usize> = (0..self.nodes).collect();
        self.rng.shuffle(&mut seats);
        seats.truncate(count);
        seats
    }

    /// The next cut.
    pub fn next_cut(&mut self) -> Cut {
        let majority = self.nodes / 2 + 1;
        let slow = match self.rng.within(0..10) {
            0..3 => 0,
            3 => 1,
            // Nothing is committed then without a slow sync.
            _ => majority,
        };
        let slow = self.some_seats(slow);
        let killed = match slow.first() {
            Some(seat) => self.rng.permille(750).then_some(*seat),
            None => self.rng.permille(300).then(|| self.rng.index(self.nodes)),
        };
        let count = match self.rng.within(0..10) {
            0..3 => 1,
            3..6 => majority,
            _ => self.nodes,
        };
        let mut seats = self.some_seats(count);
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
    }

    #[test]
    fn a_node_alone_loses_power_too() {
        let mut plan = Plan::new(1, 1);
        assert!((0..50).all(|_| plan.next_cut().seats == [0]));
    }
}
