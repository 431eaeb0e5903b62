//! Plan of power losses: decided by the seed alone.

use std::time::Duration;

use super::disk_failure::DiskFailure;
use cloudkv_test_harness::power::Area;
use cloudkv_test_harness::rng::Rng;

/// A power loss, and the events around it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PowerLoss {
    /// Nodes whose disks sync slowly, until the power loss is over.
    pub slow_nodes: Vec<usize>,
    /// Part of the data directory whose syncs are slow.
    pub slow_area: Area,
    /// Duration of a slow sync.
    pub sync_delay: Duration,
    /// Duration of load before anything else.
    pub load_duration: Duration,
    /// Node that is killed first, with its power on, and started again.
    pub killed_first: Option<usize>,
    /// Time between that start and the power loss.
    pub delay_after_start: Duration,
    /// Disk failure before the power loss.
    pub failure: Option<DiskFailure>,
    /// Nodes that lose power, all at once, in the order in which they are started again. If empty,
    /// there are slow disks only.
    pub seats: Vec<usize>,
    /// Time without power.
    pub off_time: Duration,
    /// Additional delay until the last of them is started.
    pub last_start_delay: Duration,
    /// True if the next power loss waits until all groups are healthy.
    pub waits_until_healthy: bool,
    /// Decides what the disks lose.
    pub seed: u64,
}

/// An endless list of power losses, in one region or in several of the same size.
#[derive(Debug)]
pub struct PowerLossPlan {
    rng: Rng,
    /// Decides which disks fail.
    failures: Rng,
    regions: usize,
    /// Number of nodes in each region.
    nodes_per_region: usize,
}

impl PowerLossPlan {
    /// Creates the plan of this seed for a region of `nodes` nodes.
    pub fn new(seed: u64, nodes: usize) -> Self {
        Self::for_regions(seed, 1, nodes)
    }

    /// Creates the plan of this seed for several regions of the same size.
    pub fn for_regions(seed: u64, regions: usize, nodes_per_region: usize) -> Self {
        Self {
            rng: Rng::derived(seed, 0x50f7),
            failures: Rng::derived(seed, 0xd15c),
            regions,
            nodes_per_region,
        }
    }

    /// Draws `count` nodes of the region whose first node is at `first`.
    fn some_seats(&mut self, first: usize, count: usize) -> Vec<usize> {
        let mut seats: Vec<usize> = (first..first + self.nodes_per_region).collect();
        self.rng.shuffle(&mut seats);
        seats.truncate(count);
        seats
    }

    /// Draws `count` regions and returns all of their nodes.
    fn some_regions(&mut self, count: usize) -> Vec<usize> {
        let mut regions: Vec<usize> = (0..self.regions).collect();
        self.rng.shuffle(&mut regions);
        regions.truncate(count);
        let each = self.nodes_per_region;
        let seats = regions
            .into_iter()
            .flat_map(|it| it * each..(it + 1) * each);
        let mut seats: Vec<usize> = seats.collect();
        self.rng.shuffle(&mut seats);
        seats
    }

    /// Draws the nodes that lose power: in one region one, a majority or all; of several regions
    /// mostly whole ones.
    fn draw_seats(&mut self, first: usize) -> Vec<usize> {
        let majority = self.nodes_per_region / 2 + 1;
        let drawn = self.rng.range(0..10);
        if self.regions == 1 {
            let count = match drawn {
                0..3 => 1,
                3..6 => majority,
                _ => self.nodes_per_region,
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

    /// Draws a disk failure before the power loss, now and then, in the region whose first node is
    /// at `first`.
    fn draw_failure(&mut self, first: usize) -> Option<DiskFailure> {
        if !self.failures.chance_permille(400) {
            return None;
        }
        let mut seats: Vec<usize> = (first..first + self.nodes_per_region).collect();
        self.failures.shuffle(&mut seats);
        Some(DiskFailure::draw(&mut self.failures, &seats))
    }

    /// Draws the next power loss.
    pub fn next_power_loss(&mut self) -> PowerLoss {
        let majority = self.nodes_per_region / 2 + 1;
        let first = match self.regions {
            1 => 0,
            regions => self.rng.index(regions) * self.nodes_per_region,
        };
        let slow = match self.rng.range(0..10) {
            0..3 => 0,
            3 => 1,
            // With a slow majority no entry is committed without a slow sync.
            _ => majority,
        };
        let slow = self.some_seats(first, slow);
        let killed = match slow.first() {
            Some(seat) => self.rng.chance_permille(750).then_some(*seat),
            None => self
                .rng
                .chance_permille(300)
                .then(|| first + self.rng.index(self.nodes_per_region)),
        };
        let mut seats = self.draw_seats(first);
        let is_held_back = seats.len() > 1 && self.rng.chance_permille(650);
        // A node with a fast disk has entries that the others may have lost.
        let fast_index = seats.iter().position(|seat| !slow.contains(seat));
        if let Some(fast_index) = fast_index
            && is_held_back
            && self.rng.chance_permille(700)
        {
            let seat = seats.remove(fast_index);
            seats.push(seat);
        }
        let failure = self.draw_failure(first);
        let rng = &mut self.rng;
        let held_back = rng.millis(2500..6000);
        // A start syncs much besides the log.
        let (slow_area, sync_delay) = match rng.range(0..10) {
            // Longer than a start takes.
            0..6 => (Area::Log, rng.millis(2500..6000)),
            6..8 => (Area::Log, rng.millis(200..1500)),
            _ => (Area::Everywhere, rng.millis(20..300)),
        };
        PowerLoss {
            slow_nodes: slow,
            slow_area,
            sync_delay,
            load_duration: rng.millis(100..900),
            killed_first: killed,
            delay_after_start: rng.millis(0..600),
            failure,
            seats,
            off_time: rng.millis(0..700),
            last_start_delay: if is_held_back {
                held_back
            } else {
                Duration::ZERO
            },
            waits_until_healthy: rng.chance_permille(700),
            seed: rng.next_u64(),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_seed_always_yields_the_same_plan_with_all_patterns() {
        let power_losses = |seed| {
            let mut plan = PowerLossPlan::new(seed, 3);
            (0..100).map(|_| plan.next_power_loss()).collect::<Vec<_>>()
        };
        assert_eq!(power_losses(7), power_losses(7));
        assert_ne!(power_losses(7), power_losses(8));
        let power_losses = power_losses(7);
        for count in 1..=3 {
            assert!(
                power_losses
                    .iter()
                    .any(|power_loss| power_loss.seats.len() == count),
                "{count}"
            );
        }
        let is_killed_while_slow = |power_loss: &PowerLoss| {
            power_loss
                .killed_first
                .is_some_and(|seat| power_loss.slow_nodes.contains(&seat))
        };
        assert!(power_losses.iter().any(is_killed_while_slow));
        assert!(
            power_losses
                .iter()
                .any(|power_loss| power_loss.failure.is_some())
        );
    }

    #[test]
    fn whole_regions_lose_power_one_several_and_all() {
        let mut plan = PowerLossPlan::for_regions(1, 3, 3);
        let power_losses: Vec<_> = (0..100).map(|_| plan.next_power_loss()).collect();
        for count in [1, 2, 3, 6, 9] {
            let matching = || {
                power_losses
                    .iter()
                    .filter(|power_loss| power_loss.seats.len() == count)
            };
            assert!(matching().count() > 0, "{count}");
            let regions = |power_loss: &PowerLoss| {
                let regions = power_loss.seats.iter().map(|seat| seat / 3);
                regions.collect::<std::collections::BTreeSet<_>>().len()
            };
            assert!(matching().all(|power_loss| regions(power_loss) == count.div_ceil(3)));
        }
    }

    #[test]
    fn a_single_node_loses_power() {
        let mut plan = PowerLossPlan::new(1, 1);
        assert!((0..50).all(|_| plan.next_power_loss().seats == [0]));
    }
}
