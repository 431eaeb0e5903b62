//! Carries out a plan of power losses on a region under load.

use std::time::Duration;

use super::plan::{PowerLoss, PowerLossPlan};
use super::power_nemesis::PowerNemesis;
use crate::fault_kind::FaultCounts;
use crate::panics::catch_panic;
use crate::progress::Progress;
use crate::recording_client::ClientContext;
use crate::report::Report;
use crate::run::{RegionLoad, RunOptions};
use cloudkv_test_harness::region::Region;

/// Small files and buffers, so that all kinds of them are written often.
pub(crate) const SMALL_FILE_ARGS: [&str; 2] = ["--write-buffer-mib=1", "--log-segment-mib=1"];

/// Options of a run with power losses.
#[derive(Clone, Debug)]
pub struct PowerOptions {
    /// Nodes, clients and seed. Duration and kinds of faults are ignored.
    pub run: RunOptions,
    /// Power losses, in order.
    pub power_losses: Vec<PowerLoss>,
}

impl PowerOptions {
    /// Creates a run with so many power losses of this seed.
    pub fn new(seed: u64, count: usize, nodes: usize) -> Self {
        let mut run = RunOptions::new(seed, Duration::ZERO);
        run.clients_per_node = 4;
        run.region.nodes = nodes;
        run.region.seats = nodes;
        run.region.shards = 8;
        run.region.has_power_loss = true;
        run.region.args = SMALL_FILE_ARGS.map(str::to_owned).to_vec();
        let mut plan = PowerLossPlan::new(seed, nodes);
        Self {
            run,
            power_losses: (0..count).map(|_| plan.next_power_loss()).collect(),
        }
    }
}

/// Carries out a run.
///
/// # Panics
/// Panics if the region doesn't start. Later failures are in the report.
pub async fn run_power(options: &PowerOptions) -> Report {
    let mut region = Region::start_with(options.run.region.clone()).await;
    let load = RegionLoad::start(&region, &options.run).await;
    let progress = Progress::start(options.run.is_verbose);
    region.expect_disk_errors();
    let nodes = region.nodes.len();
    let shared = load.shared.clone();
    let mut nemesis = PowerNemesis::new(&mut region, nodes, || shared.history.counts.answered());
    let power_losses = run_power_losses(&mut nemesis, options, &load.shared, &progress);
    let panicked = catch_panic(power_losses).await.err();
    nemesis.clear_disk_faults();
    let counts = nemesis.counts.clone();
    let duration = progress.elapsed();
    let failures = counts.missing(options.power_losses.len());
    let result = load
        .finish(&mut region, panicked, failures.into_iter().collect(), None)
        .await;
    let faults = FaultCounts::default();
    result.into_report(options.run.seed, duration, faults, counts.to_string())
}

async fn run_power_losses<Answered: Fn() -> u64>(
    nemesis: &mut PowerNemesis<'_, Answered>,
    options: &PowerOptions,
    shared: &ClientContext,
    progress: &Progress,
) {
    for power_loss in &options.power_losses {
        if shared.is_stopped() {
            return;
        }
        progress.report(format_args!("{power_loss:?}"));
        nemesis.carry_out(power_loss).await;
    }
    nemesis.heal().await;
}
