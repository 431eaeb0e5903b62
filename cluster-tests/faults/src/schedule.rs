//! Fault schedule: decided by the seed alone, except for kinds that are still missing.

use std::time::Duration;

use super::fault_kind::{FaultKind, NetworkFault};
use super::target::FaultTarget;
use cloudkv_test_harness::rng::Rng;

/// One fault or two at once, and their timing.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct FaultStep {
    /// Kind of the fault.
    pub kind: FaultKind,
    /// Target of the fault.
    pub target: FaultTarget,
    /// Additional fault of the network, at the same time.
    pub second_fault: Option<(NetworkFault, FaultTarget)>,
    /// Duration of the fault.
    pub duration: Duration,
    /// Pause after the fault.
    pub pause_after: Duration,
    /// Seed of all other decisions: link, direction, delay.
    pub seed: u64,
}

/// An endless schedule of steps.
#[derive(Debug)]
pub struct FaultSchedule {
    rng: Rng,
    kinds: Vec<FaultKind>,
    nodes: usize,
    shards: u32,
}

impl FaultSchedule {
    /// Creates the schedule of this seed.
    ///
    /// # Panics
    /// Panics if there are no kinds to choose from.
    pub fn new(seed: u64, kinds: &[FaultKind], nodes: usize, shards: u32) -> Self {
        assert!(!kinds.is_empty(), "some kind of fault");
        Self {
            rng: Rng::derived(seed, 0xfa17),
            kinds: kinds.to_vec(),
            nodes,
            shards,
        }
    }

    /// Returns the next step, of one of the kinds in `missing` if there are any.
    pub fn next(&mut self, missing: &[FaultKind]) -> FaultStep {
        let rng = &mut self.rng;
        let kind = if missing.is_empty() {
            draw(rng, &self.kinds, FaultKind::weight)
        } else {
            missing[rng.index(missing.len())]
        };
        let network = self.kinds.iter().filter_map(|kind| kind.network_fault());
        let network: Vec<NetworkFault> = network.collect();
        let combines = matches!(
            kind,
            FaultKind::Kill
                | FaultKind::Pause
                | FaultKind::Network(NetworkFault::Delay | NetworkFault::Loss)
        );
        let second = (combines && !network.is_empty() && rng.chance_permille(300)).then(|| {
            let fault = draw(rng, &network, NetworkFault::weight);
            (fault, FaultTarget::draw(rng, self.nodes, self.shards))
        });
        // A node that returns within a lease, or before the others notice, is a case of its own.
        let hold = if rng.chance_permille(250) {
            0..300
        } else {
            500..4000
        };
        let rest = if rng.chance_permille(200) {
            0..100
        } else {
            300..2500
        };
        FaultStep {
            kind,
            target: FaultTarget::draw(rng, self.nodes, self.shards),
            second_fault: second,
            duration: rng.millis(hold),
            pause_after: rng.millis(rest),
            seed: rng.next_u64(),
        }
    }
}

/// Draws a fault with a probability that is proportional to its weight.
fn draw<F: Copy>(rng: &mut Rng, faults: &[F], weight: fn(F) -> u64) -> F {
    let total_weight: u64 = faults.iter().map(|fault| weight(*fault)).sum();
    let mut at = rng.range(0..total_weight);
    for fault in faults {
        match at.checked_sub(weight(*fault)) {
            Some(remainder) => at = remainder,
            None => return *fault,
        }
    }
    faults[0]
}

#[cfg(test)]
mod tests {
    use super::{FaultKind, FaultSchedule, FaultTarget};

    #[test]
    fn a_seed_always_yields_the_same_steps() {
        let steps = |seed| {
            let mut schedule = FaultSchedule::new(seed, &FaultKind::SINGLE_REGION, 3, 8);
            (0..50).map(|_| schedule.next(&[])).collect::<Vec<_>>()
        };
        assert_eq!(steps(5), steps(5));
        assert_ne!(steps(5), steps(6));
    }

    #[test]
    fn every_kind_and_every_target_is_drawn() {
        let mut schedule = FaultSchedule::new(1, &FaultKind::SINGLE_REGION, 3, 8);
        let steps: Vec<_> = (0..500).map(|_| schedule.next(&[])).collect();
        for kind in FaultKind::SINGLE_REGION {
            assert!(steps.iter().any(|step| step.kind == kind), "{kind}");
        }
        for target in [
            FaultTarget::MetaLeader,
            FaultTarget::ShardLeader(7),
            FaultTarget::Seat(2),
        ] {
            assert!(steps.iter().any(|step| step.target == target), "{target:?}");
        }
        assert!(steps.iter().any(|step| step.second_fault.is_some()));
    }

    #[test]
    fn missing_kinds_come_first() {
        let mut schedule = FaultSchedule::new(1, &FaultKind::SINGLE_REGION, 3, 8);
        for _ in 0..20 {
            assert_eq!(schedule.next(&[FaultKind::Wipe]).kind, FaultKind::Wipe);
        }
    }
}
