//! Fault schedule: decided by the seed alone, except for kinds that are still missing.

use std::time::Duration;

use super::aim::Aim;
use super::kind::Kind;
use crate::rng::Rng;

/// One fault or two at once, and their timing.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Step {
    /// Kind of the fault.
    pub kind: Kind,
    /// Target of the fault.
    pub aim: Aim,
    /// Additional fault of the network, at the same time.
    pub second: Option<(Kind, Aim)>,
    /// Duration of the fault.
    pub hold: Duration,
    /// Pause after the fault.
    pub rest: Duration,
    /// Seed of all other decisions: link, direction, delay.
    pub detail: u64,
}

/// An endless schedule of steps.
#[derive(Debug)]
pub struct Schedule {
    rng: Rng,
    kinds: Vec<Kind>,
    nodes: usize,
    shards: u32,
}

impl Schedule {
    /// Creates the schedule of this seed.
    ///
    /// # Panics
    /// Panics if there are no kinds to choose from.
    pub fn new(seed: u64, kinds: &[Kind], nodes: usize, shards: u32) -> Self {
        assert!(!kinds.is_empty(), "some kind of fault");
        Self {
            rng: Rng::branch(seed, 0xfa17),
            kinds: kinds.to_vec(),
            nodes,
            shards,
        }
    }

    /// Returns the next step, of one of the kinds in `missing` if there are any.
    pub fn next(&mut self, missing: &[Kind]) -> Step {
        let rng = &mut self.rng;
        let kind = if missing.is_empty() {
            draw(rng, &self.kinds)
        } else {
            missing[rng.index(missing.len())]
        };
        let network: Vec<Kind> = self
            .kinds
            .iter()
            .copied()
            .filter(|k| k.is_network())
            .collect();
        let combines = matches!(kind, Kind::Kill | Kind::Pause | Kind::Delay | Kind::Loss);
        let second = (combines && !network.is_empty() && rng.permille(300)).then(|| {
            let kind = draw(rng, &network);
            (kind, Aim::draw(rng, self.nodes, self.shards))
        });
        // A node that returns within a lease, or before the others notice, is a case of its own.
        let hold = if rng.permille(250) { 0..300 } else { 500..4000 };
        let rest = if rng.permille(200) { 0..100 } else { 300..2500 };
        Step {
            kind,
            aim: Aim::draw(rng, self.nodes, self.shards),
            second,
            hold: rng.millis(hold),
            rest: rng.millis(rest),
            detail: rng.draw(),
        }
    }
}

fn draw(rng: &mut Rng, kinds: &[Kind]) -> Kind {
    let total_weight: u64 = kinds.iter().map(|kind| kind.weight()).sum();
    let mut at = rng.within(0..total_weight);
    for kind in kinds {
        match at.checked_sub(kind.weight()) {
            Some(remainder) => at = remainder,
            None => return *kind,
        }
    }
    kinds[0]
}

#[cfg(test)]
mod tests {
    use super::{Aim, Kind, Schedule};

    #[test]
    fn a_seed_always_yields_the_same_steps() {
        let steps = |seed| {
            let mut schedule = Schedule::new(seed, &Kind::OF_A_REGION, 3, 8);
            (0..50).map(|_| schedule.next(&[])).collect::<Vec<_>>()
        };
        assert_eq!(steps(5), steps(5));
        assert_ne!(steps(5), steps(6));
    }

    #[test]
    fn every_kind_and_every_target_is_drawn() {
        let mut schedule = Schedule::new(1, &Kind::OF_A_REGION, 3, 8);
        let steps: Vec<_> = (0..500).map(|_| schedule.next(&[])).collect();
        for kind in Kind::OF_A_REGION {
            assert!(steps.iter().any(|step| step.kind == kind), "{kind}");
        }
        for target in [Aim::MetaLeader, Aim::ShardLeader(7), Aim::Seat(2)] {
            assert!(steps.iter().any(|step| step.aim == target), "{target:?}");
        }
        assert!(steps.iter().any(|step| step.second.is_some()));
    }

    #[test]
    fn missing_kinds_come_first() {
        let mut schedule = Schedule::new(1, &Kind::OF_A_REGION, 3, 8);
        for _ in 0..20 {
            assert_eq!(schedule.next(&[Kind::Wipe]).kind, Kind::Wipe);
        }
    }
}
