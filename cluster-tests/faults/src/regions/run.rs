//! A whole run over several regions: load, faults, and then the checks.

use std::panic::AssertUnwindSafe;
use std::path::PathBuf;
use std::time::{Duration, Instant};

use futures_util::FutureExt;

use super::context::RegionsContext;
use super::final_checks;
use super::load::RegionsLoad;
use super::power_losses;
use super::region_nemesis::RegionNemesis;
use super::upgrade;
use crate::fault_kind::{FaultCounts, FaultKind};
use crate::power::{PowerLoss, PowerLossPlan, SMALL_FILE_ARGS};
use crate::report::Report;
use crate::run::panic_message;
use crate::schedule::FaultSchedule;
use cloudkv_test_harness::Bucket;
use cloudkv_test_harness::region::{FlowShape, MultiRegionCluster, RegionOptions};

/// Names of the regions.
const REGION_NAMES: [&str; 3] = ["eu", "us", "ap"];

/// Latency and jitter between the first two regions, and between each of them and the third.
const NEAR_LATENCY: (Duration, Duration) = (Duration::from_millis(40), Duration::from_millis(5));
const FAR_LATENCY: (Duration, Duration) = (Duration::from_millis(80), Duration::from_millis(10));

/// Number of chunks between regions that stall as if a packet were lost, in permille.
const STALLS_PERMILLE: u64 = 50;

/// Time beyond its planned duration in which a run waits for every kind of fault to happen and for
/// the joining region.
const GRACE_PERIOD: Duration = Duration::from_secs(180);

/// Errors in logs that the faults themselves cause.
const EXPECTED_ERRORS: [&str; 1] = ["clock"];

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

    fn has_power_losses(&self) -> bool {
        !self.power_losses.is_empty()
    }

    fn region_options(&self) -> RegionOptions {
        let args: &[&str] = if self.has_power_losses() {
            &SMALL_FILE_ARGS
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

    fn report_progress(&self, started: Instant, text: &str) {
        if self.is_verbose {
            println!("{:7.1} s  {text}", started.elapsed().as_secs_f64());
        }
    }
}

/// Results of the faults.
#[derive(Default)]
pub(super) struct FaultResults {
    counts: FaultCounts,
    pub notes: Vec<String>,
    pub failures: Vec<String>,
    deleted_buckets: Vec<super::deleted_bucket::DeletedBucket>,
    newest_buckets: Vec<Bucket>,
}

/// Carries out a run.
///
/// # Panics
/// Panics if the regions don't start. Later failures are in the report.
pub async fn run_regions(options: &RegionsOptions) -> Report {
    let first = if options.has_late_region {
        2
    } else {
        REGION_NAMES.len()
    };
    let mut cluster = MultiRegionCluster::start_with(
        &REGION_NAMES,
        options.nodes_per_region,
        first,
        options.region_options(),
    )
    .await;
    cluster.expect_errors(&EXPECTED_ERRORS);
    if options.has_power_losses() {
        cluster.expect_disk_errors();
    }
    set_latencies(&cluster);
    let context = RegionsContext::start(&cluster, REGION_NAMES.len()).await;
    let listed_bucket = cluster.api(0).create_bucket_with(&[("plan", "pro")]).await;
    let dir = cluster.dir().to_owned();
    let mut load = RegionsLoad::new(
        &context,
        options.clients_per_node,
        options.seed,
        dir,
        listed_bucket.clone(),
    );
    for _ in 0..first {
        load.add_region();
    }
    let started = Instant::now();
    let mut results = FaultResults::default();
    let panicked = {
        let work = async {
            match &options.old_binary {
                None if options.has_power_losses() => {
                    let report = |text: &str| options.report_progress(started, text);
                    power_losses::run_power_losses(
                        &mut cluster,
                        options,
                        &context,
                        &mut results,
                        report,
                    )
                    .await;
                }
                None => inject_faults(&mut cluster, options, &mut load, &mut results).await,
                Some(old) => {
                    let report = |text: &str| options.report_progress(started, text);
                    let upgraded =
                        upgrade::run_upgrade(&mut cluster, old, options.duration, &context, report);
                    results.notes.extend(upgraded.await);
                }
            }
        };
        AssertUnwindSafe(work).catch_unwind().await
    };
    let duration = started.elapsed();
    let mut failures: Vec<String> = panicked
        .err()
        .map(|panic| panic_message(&*panic))
        .into_iter()
        .collect();
    failures.append(&mut results.failures);
    let mut finished = load.stop().await;
    failures.append(&mut finished.failures);
    let mut notes = results.notes;
    if failures.is_empty() {
        let report = |text: &str| options.report_progress(started, text);
        let listed_bucket = std::iter::once(listed_bucket)
            .chain(results.newest_buckets)
            .collect();
        let checks = final_checks::check(
            &mut cluster,
            &context,
            &mut finished,
            &results.deleted_buckets,
            listed_bucket,
            report,
        );
        match AssertUnwindSafe(checks).catch_unwind().await {
            Ok((more_notes, mut failed)) => {
                notes.extend(more_notes);
                failures.append(&mut failed);
            }
            Err(panic) => failures.push(panic_message(&*panic)),
        }
    }
    for checker in &mut finished.checkers {
        failures.append(&mut checker.failures);
    }
    failures.extend(context.anomalies());
    failures.extend(finished.anomalies());
    failures.extend(cluster.unexpected_errors());
    failures.truncate(50);
    let kept_dir = (!failures.is_empty()).then(|| {
        cluster.keep_files();
        // They are in the report.
        cluster.expect_errors(&[""]);
        cluster.dir().to_owned()
    });
    let tally = context.counts();
    let checked_calls: u64 = finished
        .checkers
        .iter()
        .map(|checker| checker.checked_calls)
        .sum();
    Report {
        seed: options.seed,
        duration,
        calls: tally.total(),
        outcomes: tally.to_string(),
        checked_calls,
        checked_lists: finished.bucket_lists.lists,
        faults: results.counts,
        notes,
        failures,
        kept_dir,
    }
}

/// Sets the latencies between the regions.
fn set_latencies(cluster: &MultiRegionCluster) {
    for one in 0..REGION_NAMES.len() {
        for other in (0..REGION_NAMES.len()).filter(|other| *other != one) {
            let (delay, jitter) = if one.max(other) == 2 {
                FAR_LATENCY
            } else {
                NEAR_LATENCY
            };
            let flow = FlowShape {
                delay,
                jitter,
                stalls_permille: STALLS_PERMILLE,
                ..FlowShape::default()
            };
            for (from, to) in cluster.pairs(one, other) {
                cluster.network.set_baseline(from, to, flow);
            }
        }
    }
}

/// Injects faults until the time is over, every kind has happened, and all regions have joined.
async fn inject_faults(
    cluster: &mut MultiRegionCluster,
    options: &RegionsOptions,
    load: &mut RegionsLoad,
    results: &mut FaultResults,
) {
    let nodes = REGION_NAMES.len() * options.nodes_per_region;
    let mut schedule = FaultSchedule::new(options.seed, &options.kinds, nodes, options.shards);
    let mut nemesis = RegionNemesis::new(cluster);
    let (started, mut last_progress) = (Instant::now(), Instant::now());
    let mut joining = LateRegion::new(options);
    loop {
        let elapsed = started.elapsed();
        joining.advance(&mut nemesis, load, elapsed, results).await;
        let mut missing = nemesis.counts.missing(&options.kinds);
        let has_hit_leaders =
            nemesis.leaders_in.len() == REGION_NAMES.len() && nemesis.counts.meta_leaders > 0;
        let is_complete = elapsed >= options.duration
            && missing.is_empty()
            && has_hit_leaders
            && joining.has_joined();
        if is_complete || elapsed >= options.duration + GRACE_PERIOD || load.context.is_stopped() {
            break;
        }
        missing.retain(|kind| joining.allows(*kind));
        let mut step = schedule.next(&missing);
        if !joining.allows(step.kind) {
            step.kind = FaultKind::RegionCut;
        }
        if options.is_verbose {
            println!("{:7.1} s  {step:?}", elapsed.as_secs_f64());
        }
        nemesis.carry_out(&step).await;
        results.counts.clone_from(&nemesis.counts);
        results.deleted_buckets.clone_from(&nemesis.deleted_buckets);
        results.newest_buckets.clone_from(&nemesis.newest_buckets);
        if options.is_verbose && last_progress.elapsed() >= Duration::from_secs(10) {
            last_progress = Instant::now();
            let elapsed = elapsed.as_secs_f64();
            println!("{elapsed:7.1} s  calls: {}", load.context.counts());
            println!("           faults: {}", results.counts);
        }
    }
    nemesis.heal();
    results.check_coverage(options, &nemesis, &joining);
}

impl FaultResults {
    /// Adds failures for what should have happened and didn't.
    fn check_coverage(
        &mut self,
        options: &RegionsOptions,
        nemesis: &RegionNemesis<'_>,
        joining: &LateRegion,
    ) {
        let missing = nemesis.counts.missing(&options.kinds).into_iter();
        self.failures
            .extend(missing.map(|kind| format!("no {kind} happened")));
        if nemesis.counts.meta_leaders == 0 {
            self.failures
                .push("no leader of the metadata was hit".into());
        }
        for (region, name) in REGION_NAMES.iter().enumerate() {
            if !nemesis.leaders_in.contains(&region) {
                self.failures
                    .push(format!("no leader of a shard of {name} was hit"));
            }
        }
        if !joining.has_joined() {
            self.failures.push("the third region didn't join".into());
        }
        let late_writes: u64 = self
            .deleted_buckets
            .iter()
            .map(|bucket| bucket.late_writes)
            .sum();
        if options.kinds.contains(&FaultKind::DropBucket) {
            self.notes.push(format!(
                "buckets deleted in a partition: {}, with {late_writes} writes acknowledged after that",
                self.deleted_buckets.len()
            ));
            if late_writes == 0 {
                self.failures
                    .push("no bucket was written after it was deleted".into());
            }
        }
    }
}

/// The third region, if it joins in the middle of the run.
struct LateRegion {
    /// Time at which the join begins; `None` once it has.
    due: Option<Duration>,
    started_at: Duration,
    is_serving: bool,
}

impl LateRegion {
    fn new(options: &RegionsOptions) -> Self {
        Self {
            due: options.has_late_region.then_some(options.duration / 3),
            started_at: Duration::ZERO,
            is_serving: !options.has_late_region,
        }
    }

    fn has_joined(&self) -> bool {
        self.is_serving
    }

    /// Two regions can't tell which of their clocks is wrong, and the metadata group has no
    /// majority without the first.
    fn allows(&self, kind: FaultKind) -> bool {
        self.is_serving || !matches!(kind, FaultKind::ClockJump | FaultKind::DropBucket)
    }

    /// Starts the region when it is due, and its clients once it serves.
    async fn advance(
        &mut self,
        nemesis: &mut RegionNemesis<'_>,
        load: &mut RegionsLoad,
        elapsed: Duration,
        results: &mut FaultResults,
    ) {
        let region = REGION_NAMES.len() - 1;
        if self.due.is_some_and(|due| elapsed >= due) {
            self.due = None;
            self.started_at = elapsed;
            nemesis.cluster.start_region(region).await;
            return;
        }
        if self.due.is_some() || self.is_serving {
            return;
        }
        for seat in nemesis.cluster.seats(region) {
            if !nemesis.cluster.is_ready(seat).await {
                return;
            }
        }
        self.is_serving = true;
        load.add_region();
        let elapsed_secs = (elapsed - self.started_at).as_secs_f64();
        results.notes.push(format!(
            "{} joined within {elapsed_secs:.1} s, under faults",
            REGION_NAMES[region]
        ));
    }
}
