//! Carries out a plan of power losses on a region under load.

use std::panic::AssertUnwindSafe;
use std::time::{Duration, Instant};

use futures_util::FutureExt;

use super::plan::{PowerLoss, PowerLossPlan};
use super::power_nemesis::PowerNemesis;
use crate::fault_kind::FaultCounts;
use crate::recording_client::ClientContext;
use crate::report::Report;
use crate::run::{RegionLoad, RunOptions, panic_message};
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
    let started = Instant::now();
    region.expect_disk_errors();
    let nodes = region.nodes.len();
    let shared = load.shared.clone();
    let mut nemesis = PowerNemesis::new(&mut region, nodes, || shared.history.counts.answered());
    let panicked = {
        let cuts = run_power_losses(&mut nemesis, options, &load.shared);
        AssertUnwindSafe(cuts).catch_unwind().await
    };
    nemesis.clear_disk_faults();
    let tally = nemesis.counts.clone();
    let duration = started.elapsed();
    let panicked = panicked.err().map(|panic| panic_message(&*panic));
    let (count, planned) = (tally.total(), options.power_losses.len());
    let too_few =
        (count < planned as u64).then(|| format!("{count} power losses, and not {planned}"));
    let failures = too_few.into_iter().collect();
    let findings = load.finish(&mut region, panicked, failures).await;
    Report {
        seed: options.run.seed,
        duration,
        calls: findings.shared.history.counts.total(),
        outcomes: findings.shared.history.counts.to_string(),
        checked_calls: findings.checked_calls,
        checked_lists: findings.checked_lists,
        faults: FaultCounts::default(),
        notes: vec![tally.to_string()],
        failures: findings.failures,
        kept_dir: findings.kept_dir,
    }
}

async fn run_power_losses<Answered: Fn() -> u64>(
    nemesis: &mut PowerNemesis<'_, Answered>,
    options: &PowerOptions,
    shared: &ClientContext,
) {
    let started = Instant::now();
    for power_loss in &options.power_losses {
        if shared.is_stopped() {
            return;
        }
        if options.run.is_verbose {
            println!("{:7.1} s  {power_loss:?}", started.elapsed().as_secs_f64());
        }
        nemesis.carry_out(power_loss).await;
    }
    nemesis.heal().await;
}
