//! Options of a run over several regions.

use std::path::PathBuf;
use std::time::Duration;

use crate::fault_kind::FaultKind;
use crate::power::{PowerLoss, PowerLossPlan, SMALL_FILE_ARGS};
use crate::watch;
use cloudkv_test_harness::region::RegionOptions;

/// Names of the regions.
pub(super) const REGION_NAMES: [&str; 3] = ["eu", "us", "ap"];

/// Options of a run.
#[derive(Clone, Debug)]
pub struct RegionsOptions {
    /// Seed of the faults and of the clients' calls.
    pub seed: u64,
    /// Duration of the faults.
    pub duration: Duration,
    /// Kinds of faults.
    pub kinds: Vec<FaultKind>,
    /// Nodes of each region.
    pub nodes_per_region: usize,
    /// Number of shards.
    pub shards: u32,
    /// Clients of each node, and as many of each region's shared keys.
    pub clients_per_node: u32,
    /// True if the third region joins after a third of the time.
    pub has_late_region: bool,
    /// True if further clients watch the shared keys, and export and import them, through routers.
    /// Not in an upgrade, whose older build may not know that, and not with power losses.
    pub has_watchers: bool,
    /// Older build that all nodes begin with: they are upgraded to this one, downgraded and
    /// upgraded again, and there are no faults.
    pub old_binary: Option<PathBuf>,
    /// Power losses, instead of other faults, in order; the run ends with the last of them.
    pub power_losses: Vec<PowerLoss>,
    /// True to print each fault, and the progress every 10 s.
    pub is_verbose: bool,
}

impl RegionsOptions {
    /// Creates a run of this seed, with regions of so many nodes and all kinds of faults.
    pub fn new(seed: u64, duration: Duration, nodes_per_region: usize) -> Self {
        let mut kinds = FaultKind::MULTI_REGION.to_vec();
        if nodes_per_region > 1 {
            kinds.extend(FaultKind::LARGE_REGIONS);
        }
        Self {
            seed,
            duration,
            kinds,
            nodes_per_region,
            shards: 4,
            clients_per_node: 2,
            has_late_region: false,
            has_watchers: true,
            old_binary: None,
            power_losses: vec![],
            is_verbose: false,
        }
    }

    /// Creates a run with so many power losses of this seed, in regions of so many nodes.
    pub fn with_power_losses(seed: u64, count: usize, each: usize) -> Self {
        let mut plan = PowerLossPlan::for_regions(seed, REGION_NAMES.len(), each);
        Self {
            power_losses: (0..count).map(|_| plan.next_power_loss()).collect(),
            ..Self::new(seed, Duration::ZERO, each)
        }
    }

    /// Returns whether clients watch.
    pub(super) fn is_watched(&self) -> bool {
        self.has_watchers && self.old_binary.is_none() && !self.has_power_losses()
    }

    /// Returns whether the run has power losses, and no other faults.
    pub(super) fn has_power_losses(&self) -> bool {
        !self.power_losses.is_empty()
    }

    /// Returns the number of regions that run from the start; they are the first ones.
    pub(super) fn initial_regions(&self) -> usize {
        REGION_NAMES.len() - usize::from(self.has_late_region)
    }

    /// Returns the options of the regions' nodes.
    pub(super) fn region_options(&self) -> RegionOptions {
        let args: &[&str] = if self.has_power_losses() {
            &SMALL_FILE_ARGS
        } else if self.is_watched() {
            &watch::NODE_ARGS
        } else {
            &[]
        };
        RegionOptions {
            seed: self.seed,
            shards: self.shards,
            binary: self.old_binary.clone(),
            has_power_loss: self.has_power_losses(),
            args: args.iter().map(ToString::to_string).collect(),
            ..RegionOptions::default()
        }
    }
}
