//! Carries out a plan of power losses on a region under load.

use std::fmt;
use std::panic::AssertUnwindSafe;
use std::time::{Duration, Instant};

use futures_util::FutureExt;

use super::plan::{Cut, Plan};
use crate::faults::client::Shared;
use crate::faults::kind::Counts;
use crate::faults::report::Report;
use crate::faults::run::{Load, RunOptions, message};
use crate::power::Trouble;
use crate::region::Region;

/// How long a region may take to be whole after a cut.
const WHOLE_WITHIN: Duration = Duration::from_secs(120);

/// Small files and buffers, so that all kinds of them are written often.
const SMALL: [&str; 2] = ["--write-buffer-mib=1", "--log-segment-mib=1"];

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

/// What happened.
#[derive(Clone, Debug, Default)]
struct Tally {
    none: u64,
    one: u64,
    some: u64,
    all: u64,
    killed_before: u64,
    files: usize,
    names: usize,
}

impl Tally {
    fn total(&self) -> u64 {
        self.none + self.one + self.some + self.all
    }
}

impl fmt::Display for Tally {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(
            f,
            "power losses: {} of one node, {} of several, {} of all; {} times only slow disks; {} \
             kills before; {} files with unsynced writes; {} changes of names lost",
            self.one, self.some, self.all, self.none, self.killed_before, self.files, self.names
        )
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
    let mut tally = Tally::default();
    let broken = {
        let cuts = cut_all(&mut region, options, &load.shared, &mut tally);
        AssertUnwindSafe(cuts).catch_unwind().await
    };
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

async fn cut_all(region: &mut Region, options: &PowerOptions, shared: &Shared, tally: &mut Tally) {
    let started = Instant::now();
    for cut in &options.cuts {
        if shared.stopped() {
            return;
        }
        if options.run.talks {
            println!("{:7.1} s  {cut:?}", started.elapsed().as_secs_f64());
        }
        carry_out(region, cut, tally).await;
    }
    heal(region).await;
}

/// All is well again.
async fn heal(region: &mut Region) {
    for member in &region.members {
        member.disk().set_trouble(Trouble::default());
    }
    let ended = region.unexpected_ends();
    assert!(ended.is_empty(), "{}", ended.join("\n"));
    region.wait_formed_within(WHOLE_WITHIN).await;
}

/// Does what a cut says; all nodes run before and after.
async fn carry_out(region: &mut Region, cut: &Cut, tally: &mut Tally) {
    for seat in &cut.slow {
        region.members[*seat].disk().set_trouble(Trouble {
            slow: cut.slow_area,
            sync_delay: cut.sync_delay,
            ..Trouble::default()
        });
    }
    tokio::time::sleep(cut.load).await;
    if let Some(seat) = cut.killed {
        region.kill(seat);
        region.restart(seat).await;
        tokio::time::sleep(cut.after_start).await;
        tally.killed_before += 1;
    }
    region.power_off(&cut.seats);
    tokio::time::sleep(cut.dark).await;
    for (at, seat) in cut.seats.iter().enumerate() {
        let losses = region.power_on(*seat, cut.detail.wrapping_add(at as u64));
        tally.files += losses.files;
        tally.names += losses.names;
    }
    start_again(region, cut).await;
    match cut.seats.len() {
        0 => tally.none += 1,
        1 => tally.one += 1,
        count if count == region.members.len() => tally.all += 1,
        _ => tally.some += 1,
    }
    for member in &region.members {
        member.disk().set_trouble(Trouble::default());
    }
    if cut.heals {
        heal(region).await;
    }
}

async fn start_again(region: &mut Region, cut: &Cut) {
    let Some((last, others)) = cut.seats.split_last() else {
        return;
    };
    for seat in others {
        region.members[*seat].start();
    }
    tokio::time::sleep(cut.held_back).await;
    region.members[*last].start();
    for seat in &cut.seats {
        region.wait_listening(*seat).await;
    }
}
