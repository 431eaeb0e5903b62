//! Carries out a plan of power losses on a region under load.

use std::panic::AssertUnwindSafe;
use std::time::{Duration, Instant};

use futures_util::FutureExt;

use super::cutter::Cutter;
use super::plan::{Cut, Plan};
use crate::faults::client::Shared;
use crate::faults::kind::Counts;
use crate::faults::report::Report;
use crate::faults::run::{Load, RunOptions, message};
use crate::region::Region;

/// Small files and buffers, so that all kinds of them are written often.
pub(in crate::faults) const SMALL: [&str; 2] = ["--write-buffer-mib=1", "--log-segment-mib=1"];

/// Options of a run with power losses.
#[derive(Clone, Debug)]
pub struct PowerOptions {
    /// Nodes, clients and seed. Duration and kinds of faults are ignored.
    pub run: RunOptions,
    /// Power losses, in order.
    pub cuts: Vec<Cut>,
}

impl PowerOptions {
    /// Creates a run with so many power losses of this seed.
    pub fn new(seed: u64, count: usize, nodes: usize) -> Self {
        let mut run = RunOptions::new(seed, Duration::ZERO);
        run.clients = 4;
        run.region.nodes = nodes;
        run.region.seats = nodes;
        run.region.shards = 8;
        run.region.power = true;
        run.region.args = SMALL.map(str::to_owned).to_vec();
        let mut plan = Plan::new(seed, nodes);
        Self {
            run,
            cuts: (0..count).map(|_| plan.next_cut()).collect(),
        }
    }
}

/// Carries out a run.
///
/// # Panics
/// Panics if the region doesn't start. Later failures are in the report.
pub async fn run_power(options: &PowerOptions) -> Report {
    let mut region = Region::start_with(options.run.region.clone()).await;
    let load = Load::start(&region, &options.run).await;
    let started = Instant::now();
    region.expect_disk_errors();
    let nodes = region.members.len();
    let shared = load.shared.clone();
    let mut nemesis = Cutter::new(&mut region, nodes, || shared.ledger.tally.answered());
    let panicked = {
        let cuts = cut_all(&mut nemesis, options, &load.shared);
        AssertUnwindSafe(cuts).catch_unwind().await
    };
    nemesis.end_troubles();
    let tally = nemesis.tally.clone();
    let duration = started.elapsed();
    let panicked = panicked.err().map(|panic| message(&*panic));
    let (count, planned) = (tally.total(), options.cuts.len());
    let too_few = (count < planned as u64).then(|| format!("{count} power losses, and not {planned}"));
    let failures = too_few.into_iter().collect();
    let findings = load.finish(&mut region, panicked, failures).await;
    Report {
        seed: options.run.seed,
        lasted: duration,
        calls: findings.shared.ledger.tally.total(),
        results: findings.shared.ledger.tally.to_string(),
        checked: findings.checked,
        lists: findings.lists,
        faults: Counts::default(),
        notes: vec![tally.to_string()],
        failures: findings.failures,
        kept: findings.kept,
    }
}

async fn cut_all<Answered: Fn() -> u64>(
    nemesis: &mut Cutter<'_, Answered>,
    options: &PowerOptions,
    shared: &Shared,
) {
    let started = Instant::now();
    for power_loss in &options.cuts {
        if shared.stopped() {
            return;
        }
        if options.run.talks {
            println!("{:7.1} s  {power_loss:?}", started.elapsed().as_secs_f64());
        }
        nemesis.carry_out(power_loss).await;
    }
    nemesis.heal().await;
}
