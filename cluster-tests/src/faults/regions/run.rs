//! A whole run over several regions: load, faults, and then the checks.

use std::panic::AssertUnwindSafe;
use std::path::PathBuf;
use std::time::{Duration, Instant};

use futures_util::FutureExt;

use super::field::Field;
use super::finish;
use super::load::Load;
use super::power;
use super::storm::Storm;
use super::upgrade;
use crate::faults::kind::{Counts, Kind};
use crate::faults::power::{Cut, Plan, SMALL};
use crate::faults::report::Report;
use crate::faults::run::message;
use crate::faults::schedule::Schedule;
use crate::harness::Bucket;
use crate::region::{Flow, RegionOptions, World};

/// Names of the regions.
const NAMES: [&str; 3] = ["eu", "us", "ap"];

/// Latency and jitter between the first two regions, and between each of them and the third.
const NEAR: (Duration, Duration) = (Duration::from_millis(40), Duration::from_millis(5));
const FAR: (Duration, Duration) = (Duration::from_millis(80), Duration::from_millis(10));

/// Number of chunks between regions that stall as if a packet were lost, in permille.
const LOST: u64 = 50;

/// Time beyond its planned duration in which a run waits for every kind of fault to happen and for
/// the joining region.
const GRACE: Duration = Duration::from_secs(180);

/// Errors in logs that the faults themselves cause.
const EXPECTED_ERRORS: [&str; 1] = ["clock"];

/// Options of a run.
#[derive(Clone, Debug)]
pub struct RegionsOptions {
    /// Seed of the faults and of the clients' calls.
    pub seed: u64,
    /// Duration of the faults.
    pub lasts: Duration,
    /// Kinds of faults.
    pub kinds: Vec<Kind>,
    /// Nodes of each region.
    pub each: usize,
    /// Number of shards.
    pub shards: u32,
    /// Clients of each node, and as many of each region's shared keys.
    pub clients: u32,
    /// True if the third region joins after a third of the time.
    pub joins: bool,
    /// Older build that all nodes begin with: they are upgraded to this one, downgraded and
    /// upgraded again, and there are no faults.
    pub upgrades_from: Option<PathBuf>,
    /// Power losses, instead of other faults, in order; the run ends with the last of them.
    pub cuts: Vec<Cut>,
    /// True to print each fault, and the progress every 10 s.
    pub talks: bool,
}

impl RegionsOptions {
    /// Creates a run of this seed, with regions of so many nodes and all kinds of faults.
    pub fn new(seed: u64, lasts: Duration, each: usize) -> Self {
        let mut kinds = Kind::OF_REGIONS.to_vec();
        if each > 1 {
            kinds.extend(Kind::OF_LARGE_REGIONS);
        }
        Self {
            seed,
            lasts,
            kinds,
            each,
            shards: 4,
            clients: 2,
            joins: false,
            upgrades_from: None,
            cuts: vec![],
            talks: false,
        }
    }

    /// Creates a run with so many power losses of this seed, in regions of so many nodes.
    pub fn with_power(seed: u64, count: usize, each: usize) -> Self {
        let mut plan = Plan::of_regions(seed, NAMES.len(), each);
        Self {
            cuts: (0..count).map(|_| plan.next_cut()).collect(),
            ..Self::new(seed, Duration::ZERO, each)
        }
    }

    fn loses_power(&self) -> bool {
        !self.cuts.is_empty()
    }

    fn region(&self) -> RegionOptions {
        let args: &[&str] = if self.loses_power() { &SMALL } else { &[] };
        RegionOptions {
            seed: self.seed,
            shards: self.shards,
            binary: self.upgrades_from.clone(),
            power: self.loses_power(),
            args: args.iter().map(ToString::to_string).collect(),
            ..RegionOptions::default()
        }
    }

    fn say(&self, started: Instant, text: &str) {
        if self.talks {
            println!("{:7.1} s  {text}", started.elapsed().as_secs_f64());
        }
    }
}

/// Results of the faults.
#[derive(Default)]
pub(super) struct Harmed {
    counts: Counts,
    pub notes: Vec<String>,
    pub failures: Vec<String>,
    doomed: Vec<super::doomed::Doomed>,
    newest: Vec<Bucket>,
}

/// Carries out a run.
///
/// # Panics
/// Panics if the regions don't start. Later failures are in the report.
pub async fn run_regions(options: &RegionsOptions) -> Report {
    let first = if options.joins { 2 } else { NAMES.len() };
    let mut cluster = World::start_with(&NAMES, options.each, first, options.region()).await;
    cluster.expect_errors(&EXPECTED_ERRORS);
    if options.loses_power() {
        cluster.expect_disk_errors();
    }
    part(&cluster);
    let context = Field::start(&cluster, NAMES.len()).await;
    let listed_bucket = cluster.api(0).bucket_with(&[("plan", "pro")]).await;
    let dir = cluster.dir().to_owned();
    let mut load = Load::new(&context, options.clients, options.seed, dir, listed_bucket.clone());
    for _ in 0..first {
        load.add_region();
    }
    let started = Instant::now();
    let mut results = Harmed::default();
    let panicked = {
        let work = async {
            match &options.upgrades_from {
                None if options.loses_power() => {
                    let report = |text: &str| options.say(started, text);
                    power::cut_all(&mut cluster, options, &context, &mut results, report).await;
                }
                None => harm(&mut cluster, options, &mut load, &mut results).await,
                Some(old) => {
                    let report = |text: &str| options.say(started, text);
                    let upgraded = upgrade::roll(&mut cluster, old, options.lasts, &context, report);
                    results.notes.extend(upgraded.await);
                }
            }
        };
        AssertUnwindSafe(work).catch_unwind().await
    };
    let duration = started.elapsed();
    let mut failures: Vec<String> = panicked
        .err()
        .map(|panic| message(&*panic))
        .into_iter()
        .collect();
    failures.append(&mut results.failures);
    let mut finished = load.stop().await;
    failures.append(&mut finished.failures);
    let mut notes = results.notes;
    if failures.is_empty() {
        let report = |text: &str| options.say(started, text);
        let listed_bucket = std::iter::once(listed_bucket).chain(results.newest).collect();
        let checks = finish::check(&mut cluster, &context, &mut finished, &results.doomed, listed_bucket, report);
        match AssertUnwindSafe(checks).catch_unwind().await {
            Ok((more_notes, mut failed)) => {
                notes.extend(more_notes);
                failures.append(&mut failed);
            }
            Err(panic) => failures.push(message(&*panic)),
        }
    }
    for checker in &mut finished.settlers {
        failures.append(&mut checker.failures);
    }
    failures.extend(context.odd_answers());
    failures.extend(finished.odd_lists());
    failures.extend(cluster.unexpected_errors());
    failures.truncate(50);
    let kept_dir = (!failures.is_empty()).then(|| {
        cluster.keep_files();
        // They are in the report.
        cluster.expect_errors(&[""]);
        cluster.dir().to_owned()
    });
    let tally = context.tally();
    let checked_calls: u64 = finished.settlers.iter().map(|checker| checker.checked).sum();
    Report {
        seed: options.seed,
        lasted: duration,
        calls: tally.total(),
        results: tally.to_string(),
        checked: checked_calls,
        lists: finished.directory.lists,
        faults: results.counts,
        notes,
        failures,
        kept: kept_dir,
    }
}

/// Sets the latencies between the regions.
fn part(cluster: &World) {
    for one in 0..NAMES.len() {
        for other in (0..NAMES.len()).filter(|other| *other != one) {
            let (delay, jitter) = if one.max(other) == 2 { FAR } else { NEAR };
            let flow = Flow {
                delay,
                jitter,
                stalls: LOST,
                ..Flow::default()
            };
            for (from, to) in cluster.pairs(one, other) {
                cluster.network.usually(from, to, flow);
            }
        }
    }
}

/// Injects faults until the time is over, every kind has happened, and all regions have joined.
async fn harm(cluster: &mut World, options: &RegionsOptions, load: &mut Load, results: &mut Harmed) {
    let nodes = NAMES.len() * options.each;
    let mut schedule = Schedule::new(options.seed, &options.kinds, nodes, options.shards);
    let mut nemesis = Storm::new(cluster);
    let (started, mut last_progress) = (Instant::now(), Instant::now());
    let mut joining = Joining::new(options);
    loop {
        let elapsed = started.elapsed();
        joining.look(&mut nemesis, load, elapsed, results).await;
        let mut missing = nemesis.counts.missing(&options.kinds);
        let has_hit_leaders = nemesis.leaders_in.len() == NAMES.len() && nemesis.counts.meta_leaders > 0;
        let is_complete = elapsed >= options.lasts && missing.is_empty() && has_hit_leaders && joining.over();
        if is_complete || elapsed >= options.lasts + GRACE || load.field.stopped() {
            break;
        }
        missing.retain(|kind| joining.allows(*kind));
        let mut step = schedule.next(&missing);
        if !joining.allows(step.kind) {
            step.kind = Kind::RegionCut;
        }
        if options.talks {
            println!("{:7.1} s  {step:?}", elapsed.as_secs_f64());
        }
        nemesis.carry_out(&step).await;
        results.counts.clone_from(&nemesis.counts);
        results.doomed.clone_from(&nemesis.doomed);
        results.newest.clone_from(&nemesis.newest);
        if options.talks && last_progress.elapsed() >= Duration::from_secs(10) {
            last_progress = Instant::now();
            let elapsed = elapsed.as_secs_f64();
            println!("{elapsed:7.1} s  calls: {}", load.field.tally());
            println!("           faults: {}", results.counts);
        }
    }
    nemesis.heal();
    results.judge(options, &nemesis, &joining);
}

impl Harmed {
    /// Adds failures for what should have happened and didn't.
    fn judge(&mut self, options: &RegionsOptions, nemesis: &Storm<'_>, joining: &Joining) {
        let missing = nemesis.counts.missing(&options.kinds).into_iter();
        self.failures
            .extend(missing.map(|kind| format!("no {kind} happened")));
        if nemesis.counts.meta_leaders == 0 {
            self.failures
                .push("no leader of the metadata was hit".into());
        }
        for (region, name) in NAMES.iter().enumerate() {
            if !nemesis.leaders_in.contains(&region) {
                self.failures
                    .push(format!("no leader of a shard of {name} was hit"));
            }
        }
        if !joining.over() {
            self.failures.push("the third region didn't join".into());
        }
        let late_writes: u64 = self.doomed.iter().map(|bucket| bucket.late).sum();
        if options.kinds.contains(&Kind::DropBucket) {
            self.notes.push(format!(
                "buckets deleted in a partition: {}, with {late_writes} writes acknowledged after that",
                self.doomed.len()
            ));
            if late_writes == 0 {
                self.failures
                    .push("no bucket was written after it was deleted".into());
            }
        }
    }
}

/// The third region, if it joins in the middle of the run.
struct Joining {
    /// Time at which the join begins; `None` once it has.
    due: Option<Duration>,
    began: Duration,
    serves: bool,
}

impl Joining {
    fn new(options: &RegionsOptions) -> Self {
        Self {
            due: options.joins.then_some(options.lasts / 3),
            began: Duration::ZERO,
            serves: !options.joins,
        }
    }

    fn over(&self) -> bool {
        self.serves
    }

    /// Two regions can't tell which of their clocks is wrong, and the metadata group has no
    /// majority without the first.
    fn allows(&self, kind: Kind) -> bool {
        self.serves || !matches!(kind, Kind::ClockJump | Kind::DropBucket)
    }

    /// Starts the region when it is due, and its clients once it serves.
    async fn look(
        &mut self,
        nemesis: &mut Storm<'_>,
        load: &mut Load,
        elapsed: Duration,
        results: &mut Harmed,
    ) {
        let region = NAMES.len() - 1;
        if self.due.is_some_and(|due| elapsed >= due) {
            self.due = None;
            self.began = elapsed;
            nemesis.world.start_region(region).await;
            return;
        }
        if self.due.is_some() || self.serves {
            return;
        }
        for seat in nemesis.world.seats(region) {
            if !nemesis.world.is_ready(seat).await {
                return;
            }
        }
        self.serves = true;
        load.add_region();
        let elapsed_secs = (elapsed - self.began).as_secs_f64();
        results.notes.push(format!(
            "{} joined within {elapsed_secs:.1} s, under faults",
            NAMES[region]
        ));
    }
}
