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

/// What a run of power losses does.
#[derive(Clone, Debug)]
pub struct PowerOptions {
    /// Nodes, clients and seed. How long it lasts and kinds of faults don't matter.
    pub run: RunOptions,
    /// The power losses, in order.
    pub cuts: Vec<Cut>,
}

impl PowerOptions {
    /// So many power losses of this seed.
    pub fn new(seed: u64, cuts: usize, nodes: usize) -> Self {
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
            cuts: (0..cuts).map(|_| plan.next_cut()).collect(),
        }
    }
}

/// Carries out a run.
///
/// # Panics
/// When the region doesn't start. What goes wrong later is in the report.
pub async fn run_power(options: &PowerOptions) -> Report {
    let mut region = Region::start_with(options.run.region.clone()).await;
    let load = Load::start(&region, &options.run).await;
    let started = Instant::now();
    region.expect_disk_errors();
    let nodes = region.members.len();
    let ledger = load.shared.clone();
    let mut cutter = Cutter::new(&mut region, nodes, || ledger.ledger.tally.answered());
    let broken = {
        let cuts = cut_all(&mut cutter, options, &load.shared);
        AssertUnwindSafe(cuts).catch_unwind().await
    };
    cutter.end_troubles();
    let tally = cutter.tally.clone();
    let lasted = started.elapsed();
    let broken = broken.err().map(|panic| message(&*panic));
    let (cut, asked) = (tally.total(), options.cuts.len());
    let too_few = (cut < asked as u64).then(|| format!("{cut} power losses, and not {asked}"));
    let also = too_few.into_iter().collect();
    let findings = load.finish(&mut region, broken, also).await;
    Report {
        seed: options.run.seed,
        lasted,
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
    cutter: &mut Cutter<'_, Answered>,
    options: &PowerOptions,
    shared: &Shared,
) {
    let started = Instant::now();
    for cut in &options.cuts {
        if shared.stopped() {
            return;
        }
        if options.run.talks {
            println!("{:7.1} s  {cut:?}", started.elapsed().as_secs_f64());
        }
        cutter.carry_out(cut).await;
    }
    cutter.heal().await;
}
