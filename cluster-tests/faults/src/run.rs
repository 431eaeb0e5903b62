//! A whole run: load, faults, and then the checks.

use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::Duration;

use futures_util::future::join_all;
use tokio::task::{JoinError, JoinHandle};

use super::backups::BackupClient;
use super::bucket_list::BucketListClient;
use super::fault_kind::{FaultCounts, FaultKind};
use super::history::History;
use super::history_checker::HistoryChecker;
use super::key_limits::{self, LimitClient};
use super::nemesis::Nemesis;
use super::panics::catch_panic;
use super::progress::Progress;
use super::recording_client::ClientContext;
use super::report::Report;
use super::schedule::FaultSchedule;
use super::watch::{self, WatchLoad, WatchResult, WatchedRegion};
use super::workload_client::WorkloadClient;
use cloudkv_test_harness::Bucket;
use cloudkv_test_harness::region::{Region, RegionOptions};

/// Time beyond its planned duration in which a run waits for every kind of fault to happen.
const GRACE_PERIOD: Duration = Duration::from_secs(60);

/// Errors in logs that the faults themselves cause.
const EXPECTED_ERRORS: [&str; 3] = ["clock", "damaged", "orruption"];

/// Number of routers through which clients watch.
const ROUTERS: usize = 2;

/// Arguments for nodes whose logs are to be purged early: unflushed entries stay in the log.
const EARLY_FLUSH_ARGS: [&str; 2] = ["--write-buffer-mib", "4"];

/// Options of a run.
#[derive(Clone, Debug)]
pub struct RunOptions {
    /// Seed of the faults and of the clients' calls.
    pub seed: u64,
    /// Duration of the faults.
    pub duration: Duration,
    /// Kinds of faults.
    pub kinds: Vec<FaultKind>,
    /// Clients of each node.
    pub clients_per_node: u32,
    /// True if further clients watch the bucket, and export and import it, through routers.
    pub has_watchers: bool,
    /// True if backups are made all the time, and the last one is restored and checked.
    pub has_backups: bool,
    /// Options of the region.
    pub region: RegionOptions,
    /// True to print each fault, and the progress every 10 s.
    pub is_verbose: bool,
}

impl RunOptions {
    /// Creates a run of this seed with all kinds of faults.
    pub fn new(seed: u64, duration: Duration) -> Self {
        Self {
            seed,
            duration,
            kinds: FaultKind::SINGLE_REGION.to_vec(),
            clients_per_node: 5,
            has_watchers: true,
            has_backups: false,
            region: RegionOptions {
                seed,
                ..RegionOptions::default()
            },
            is_verbose: false,
        }
    }
}

/// Carries out a run.
///
/// # Panics
/// Panics if the region doesn't start. Later failures are in the report.
pub async fn run(options: &RunOptions) -> Report {
    let nodes = options.region.nodes;
    let mut region = RegionOptions {
        seats: nodes,
        ..options.region.clone()
    };
    if options.kinds.contains(&FaultKind::SlowSnapshot) {
        region.args.extend(EARLY_FLUSH_ARGS.map(str::to_owned));
    }
    if options.has_watchers {
        region.args.extend(watch::NODE_ARGS.map(str::to_owned));
    }
    let mut region = Region::start_with(region).await;
    region.expect_errors(&EXPECTED_ERRORS);
    let load = RegionLoad::start(&region, options).await;
    let watches = start_watches(&region, options, &load.shared.bucket).await;
    let mut progress = Progress::start(options.is_verbose);
    let mut counts = FaultCounts::default();
    let faults = inject_faults(
        &mut region,
        options,
        &load.shared,
        &mut counts,
        &mut progress,
    );
    let panicked = catch_panic(faults).await.err();
    let duration = progress.elapsed();
    let missing_faults = missing_faults(&counts, &options.kinds);
    let result = load
        .finish(&mut region, panicked, missing_faults, watches)
        .await;
    let note = format!(
        "buckets filled up to their limit: {}",
        result.filled_buckets
    );
    result.into_report(options.seed, duration, counts, note)
}

/// Starts the clients that watch the bucket of the load, if the run has such.
async fn start_watches(
    region: &Region,
    options: &RunOptions,
    bucket: &Bucket,
) -> Option<WatchLoad> {
    if !options.has_watchers {
        return None;
    }
    let seats = 0..options.region.nodes;
    let mut watches = WatchLoad::new(bucket, options.seed, region.dir().to_owned());
    let watched = WatchedRegion {
        name: "local".to_owned(),
        rpc: region.rpc_addresses(seats.clone()),
        http: region.http_addresses(seats),
        routers: ROUTERS,
        is_one_of_several: false,
    };
    watches.add_region(&watched).await;
    Some(watches)
}

/// Injects faults until the time is over and every kind has happened.
async fn inject_faults(
    region: &mut Region,
    options: &RunOptions,
    shared: &ClientContext,
    counts: &mut FaultCounts,
    progress: &mut Progress,
) {
    let nodes = options.region.nodes;
    let mut schedule = FaultSchedule::new(options.seed, &options.kinds, nodes, region.shards());
    let mut nemesis = Nemesis::new(region);
    loop {
        let missing = nemesis.counts.missing(&options.kinds);
        let has_hit_leaders = nemesis.counts.meta_leaders > 0 && nemesis.counts.shard_leaders > 0;
        let elapsed = progress.elapsed();
        let is_complete = elapsed >= options.duration && missing.is_empty() && has_hit_leaders;
        if is_complete || elapsed >= options.duration + GRACE_PERIOD || shared.is_stopped() {
            return nemesis.heal();
        }
        let step = schedule.next(&missing);
        progress.report(format_args!("{step:?}"));
        nemesis.carry_out(&step).await;
        counts.clone_from(&nemesis.counts);
        progress.report_counts(&shared.history.counts, counts);
    }
}

/// Returns failures for faults that should have happened and didn't.
fn missing_faults(counts: &FaultCounts, kinds: &[FaultKind]) -> Vec<String> {
    let missing = counts.missing(kinds).into_iter();
    let mut missing: Vec<String> = missing.map(|kind| format!("no {kind} happened")).collect();
    if counts.meta_leaders == 0 {
        missing.push("no leader of the metadata was hit".into());
    }
    if counts.shard_leaders == 0 {
        missing.push("no leader of a shard was hit".into());
    }
    missing
}

/// Results of a run's checks.
pub(super) struct RunResult {
    pub shared: Arc<ClientContext>,
    /// Number of calls in histories that passed.
    pub checked_calls: u64,
    /// Number of bucket lists that passed.
    pub checked_lists: u64,
    /// Number of buckets that were filled up to their limit.
    pub filled_buckets: u64,
    /// Further results.
    pub notes: Vec<String>,
    /// Failures.
    pub failures: Vec<String>,
    /// Folder with logs and histories, if there were failures.
    pub kept_dir: Option<PathBuf>,
}

impl RunResult {
    /// Creates the report of a run with this seed, duration of the faults, number of faults and
    /// further result.
    pub(super) fn into_report(
        mut self,
        seed: u64,
        duration: Duration,
        faults: FaultCounts,
        note: String,
    ) -> Report {
        self.notes.insert(0, note);
        Report {
            seed,
            duration,
            calls: self.shared.history.counts.total(),
            outcomes: self.shared.history.counts.to_string(),
            checked_calls: self.checked_calls,
            checked_lists: self.checked_lists,
            faults,
            notes: self.notes,
            failures: self.failures,
            kept_dir: self.kept_dir,
        }
    }
}

/// The clients, and the checks that run beside them.
pub(super) struct RegionLoad {
    pub shared: Arc<ClientContext>,
    clients: Vec<JoinHandle<()>>,
    checker: JoinHandle<HistoryChecker>,
    bucket_lists: JoinHandle<BucketListClient>,
    limits: JoinHandle<LimitClient>,
    backups: Option<JoinHandle<BackupClient>>,
}

/// Tasks of a load that have ended.
struct StoppedLoad {
    checker: HistoryChecker,
    directory: BucketListClient,
    limits: LimitClient,
    backups: Option<BackupClient>,
}

impl RegionLoad {
    pub(super) async fn start(region: &Region, options: &RunOptions) -> Self {
        let bucket = region.api(0).create_bucket_with(&[("plan", "pro")]).await;
        let listed_bucket = region
            .api(options.region.nodes - 1)
            .create_bucket_with(&[("plan", "pro")])
            .await;
        let keys = format!("--keys={}", key_limits::KEY_LIMIT);
        region
            .admin_with_retries(0, &["plan", "set", "free", &keys])
            .await;
        let seats = 0..options.region.nodes;
        let shared = Arc::new(ClientContext {
            history: History::new(),
            bucket,
            nodes: region.http_addresses(seats.clone()),
            last_write: AtomicU64::new(0),
            think_time_ms: 0..0,
            has_new_calls: AtomicBool::new(true),
            stop: AtomicBool::new(false),
        });
        let numbers = seats.flat_map(|seat| (0..options.clients_per_node).map(move |n| (seat, n)));
        let clients = numbers.map(|(seat, n)| {
            let number = u32::try_from(seat).unwrap_or(0) * options.clients_per_node + n;
            tokio::spawn(WorkloadClient::new(&shared, number, seat, options.seed).run())
        });
        let clients = clients.collect();
        let directory = BucketListClient::new(&shared, &listed_bucket, options.seed);
        let limits = LimitClient::new(&shared, options.seed);
        let backups = options.has_backups.then(|| {
            let seats = 0..options.region.nodes;
            let admin = seats.map(|seat| region.seat(seat).admin()).collect();
            tokio::spawn(BackupClient::new(&shared, admin).run())
        });
        let settler = HistoryChecker::new(&shared, region.dir().to_owned(), None);
        let stop_signal = shared.clone();
        Self {
            shared,
            clients,
            checker: tokio::spawn(async move {
                let settler = settler.run().await;
                // A key that failed ends the run.
                stop_signal.stop.store(true, Ordering::Relaxed);
                settler
            }),
            bucket_lists: tokio::spawn(directory.run()),
            limits: tokio::spawn(limits.run()),
            backups,
        }
    }

    /// Stops the load and runs the remaining checks, unless the faults have panicked.
    /// `more_failures` are added to theirs.
    ///
    /// # Panics
    /// Panics if a check has panicked.
    pub(super) async fn finish(
        self,
        region: &mut Region,
        panicked: Option<String>,
        more_failures: Vec<String>,
        watches: Option<WatchLoad>,
    ) -> RunResult {
        let mut failures: Vec<String> = panicked.into_iter().collect();
        let StoppedLoad {
            mut checker,
            mut directory,
            mut limits,
            backups,
        } = match self.stop().await {
            Ok(stopped) => stopped,
            Err(error) => panic!("check or client task failed: {error}"),
        };
        let mut watched = WatchResult::default();
        let mut of_backups = Ok(String::new());
        if failures.is_empty() {
            let checks = async {
                region.wait_formed().await;
                if let Some(backups) = backups {
                    of_backups = backups.add_reads().await;
                }
                checker.finish().await;
                directory.finish().await;
                limits.finish().await;
                if let Some(mut watches) = watches {
                    watches.stop().await;
                    watched = watches.finish().await;
                }
                region.wait_converged().await;
            };
            failures.extend(catch_panic(checks).await.err());
        }
        let shared = checker.shared().clone();
        match of_backups {
            Ok(note) if note.is_empty() => {}
            Ok(note) => watched.notes.push(note),
            Err(failure) => failures.push(failure),
        }
        failures.append(&mut checker.failures);
        failures.extend(shared.history.anomalies());
        failures.append(&mut watched.failures);
        failures.extend(more_failures);
        failures.extend(region.unexpected_errors());
        failures.truncate(50);
        let kept_dir = (!failures.is_empty()).then(|| {
            region.keep_files();
            // They are in the report.
            region.expect_errors(&[""]);
            region.dir().to_owned()
        });
        RunResult {
            shared,
            checked_calls: checker.checked_calls,
            checked_lists: directory.lists,
            filled_buckets: limits.filled_buckets,
            notes: watched.notes,
            failures,
            kept_dir,
        }
    }

    async fn stop(self) -> Result<StoppedLoad, JoinError> {
        self.shared.stop.store(true, Ordering::Relaxed);
        for result in join_all(self.clients).await {
            if let Err(error) = result {
                self.shared
                    .history
                    .record_anomaly(format!("client task failed: {error}"));
            }
        }
        Ok(StoppedLoad {
            checker: self.checker.await?,
            directory: self.bucket_lists.await?,
            limits: self.limits.await?,
            backups: match self.backups {
                Some(backups) => Some(backups.await?),
                None => None,
            },
        })
    }
}
