//! A whole run: load, faults, and then the checks.

use std::panic::AssertUnwindSafe;
use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::{Duration, Instant};

use futures_util::FutureExt;
use futures_util::future::join_all;
use tokio::task::{JoinError, JoinHandle};

use super::client::{Client, Shared};
use super::directory::DirectoryClient;
use super::kind::{Counts, Kind};
use super::ledger::Ledger;
use super::limits::{self, LimitClient};
use super::nemesis::Nemesis;
use super::report::Report;
use super::schedule::Schedule;
use super::settle::Settler;
use crate::region::{Region, RegionOptions};

/// How much longer than asked a run may take until every kind of fault has happened.
const GRACE: Duration = Duration::from_secs(60);

/// Errors in logs that the faults themselves cause.
const EXPECTED_ERRORS: [&str; 3] = ["clock", "damaged", "orruption"];

/// Arguments of nodes whose logs are to be purged soon: what isn't flushed stays in the log.
const EARLY_FLUSHES: [&str; 2] = ["--write-buffer-mib", "4"];

/// What a run does.
#[derive(Clone, Debug)]
pub struct RunOptions {
    /// Decides the faults and what the clients do.
    pub seed: u64,
    /// How long there are faults.
    pub lasts: Duration,
    /// The kinds of faults.
    pub kinds: Vec<Kind>,
    /// Clients of each node.
    pub clients: u32,
    /// The region.
    pub region: RegionOptions,
    /// Whether to say each 10 s how far it is, and each fault.
    pub talks: bool,
}

impl RunOptions {
    /// A run of this seed with all kinds of faults.
    pub fn new(seed: u64, lasts: Duration) -> Self {
        Self {
            seed,
            lasts,
            kinds: Kind::OF_A_REGION.to_vec(),
            clients: 5,
            region: RegionOptions {
                seed,
                ..RegionOptions::default()
            },
            talks: false,
        }
    }
}

/// Carries out a run.
///
/// # Panics
/// When the region doesn't start. What goes wrong later is in the report.
pub async fn run(options: &RunOptions) -> Report {
    let nodes = options.region.nodes;
    let mut region = RegionOptions {
        seats: nodes,
        ..options.region.clone()
    };
    if options.kinds.contains(&Kind::SlowSnapshot) {
        region.args.extend(EARLY_FLUSHES.map(str::to_owned));
    }
    let mut region = Region::start_with(region).await;
    region.expect_errors(&EXPECTED_ERRORS);
    let load = Load::start(&region, options).await;
    let started = Instant::now();
    let mut counts = Counts::default();
    let broken = {
        let harm = harm(&mut region, options, &load.shared, &mut counts);
        AssertUnwindSafe(harm).catch_unwind().await
    };
    let lasted = started.elapsed();
    let broken = broken.err().map(|panic| message(&*panic));
    let also = missing(&counts, &options.kinds);
    let findings = load.finish(&mut region, broken, also).await;
    Report {
        seed: options.seed,
        lasted,
        calls: findings.shared.ledger.tally.total(),
        results: findings.shared.ledger.tally.to_string(),
        checked: findings.checked,
        lists: findings.lists,
        faults: counts,
        notes: vec![format!(
            "buckets filled up to their limit: {}",
            findings.buckets_filled
        )],
        failures: findings.failures,
        kept: findings.kept,
    }
}

/// Does harm until the time is over and every kind has happened.
async fn harm(region: &mut Region, options: &RunOptions, shared: &Shared, counts: &mut Counts) {
    let nodes = options.region.nodes;
    let mut schedule = Schedule::new(options.seed, &options.kinds, nodes, region.shards());
    let mut nemesis = Nemesis::new(region);
    let (started, mut talked) = (Instant::now(), Instant::now());
    loop {
        let missing = nemesis.counts.missing(&options.kinds);
        let aimed = nemesis.counts.meta_leaders > 0 && nemesis.counts.shard_leaders > 0;
        let elapsed = started.elapsed();
        let enough = elapsed >= options.lasts && missing.is_empty() && aimed;
        if enough || elapsed >= options.lasts + GRACE || shared.stopped() {
            return nemesis.heal();
        }
        let step = schedule.next(&missing);
        if options.talks {
            println!("{:7.1} s  {step:?}", elapsed.as_secs_f64());
        }
        nemesis.carry_out(&step).await;
        counts.clone_from(&nemesis.counts);
        if options.talks && talked.elapsed() >= Duration::from_secs(10) {
            talked = Instant::now();
            println!(
                "{:7.1} s  calls: {}",
                elapsed.as_secs_f64(),
                shared.ledger.tally
            );
            println!("           faults: {counts}");
        }
    }
}

/// What is wrong with what happened.
fn missing(counts: &Counts, kinds: &[Kind]) -> Vec<String> {
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

/// What the checks of a run have found at its end.
pub(super) struct Findings {
    pub shared: Arc<Shared>,
    /// Calls in histories that were found right.
    pub checked: u64,
    /// Lists of buckets that were found right.
    pub lists: u64,
    /// Buckets that were filled up to their limit.
    pub buckets_filled: u64,
    /// What was wrong.
    pub failures: Vec<String>,
    /// Where logs and histories are, if something was wrong.
    pub kept: Option<PathBuf>,
}

/// The clients and the checks that go on meanwhile.
pub(super) struct Load {
    pub shared: Arc<Shared>,
    clients: Vec<JoinHandle<()>>,
    settler: JoinHandle<Settler>,
    directory: JoinHandle<DirectoryClient>,
    limits: JoinHandle<LimitClient>,
}

impl Load {
    pub async fn start(region: &Region, options: &RunOptions) -> Self {
        let bucket = region.api(0).bucket_with(&[("plan", "pro")]).await;
        let own = region
            .api(options.region.nodes - 1)
            .bucket_with(&[("plan", "pro")])
            .await;
        let keys = format!("--keys={}", limits::LIMIT);
        region.insist(0, &["plan", "set", "free", &keys]).await;
        let seats = 0..options.region.nodes;
        let shared = Arc::new(Shared {
            ledger: Ledger::new(),
            bucket,
            nodes: seats.clone().map(|seat| region.seat(seat).http()).collect(),
            values: AtomicU64::new(0),
            pace: 0..0,
            stop: AtomicBool::new(false),
        });
        let numbers = seats.flat_map(|seat| (0..options.clients).map(move |n| (seat, n)));
        let clients = numbers.map(|(seat, n)| {
            let number = u32::try_from(seat).unwrap_or(0) * options.clients + n;
            tokio::spawn(Client::new(&shared, number, seat, options.seed).run())
        });
        let clients = clients.collect();
        let directory = DirectoryClient::new(&shared, &own, options.seed);
        let limits = LimitClient::new(&shared, options.seed);
        let settler = Settler::new(&shared, region.dir().to_owned(), None);
        let stopping = shared.clone();
        Self {
            shared,
            clients,
            settler: tokio::spawn(async move {
                let settler = settler.run().await;
                // A key that failed ends the run.
                stopping.stop.store(true, Ordering::Relaxed);
                settler
            }),
            directory: tokio::spawn(directory.run()),
            limits: tokio::spawn(limits.run()),
        }
    }

    /// Ends the load and checks all that is left to check, unless what was done to the region
    /// has broken off. `also` is wrong beside that.
    ///
    /// # Panics
    /// When a check has ended by itself.
    pub async fn finish(
        self,
        region: &mut Region,
        broken: Option<String>,
        also: Vec<String>,
    ) -> Findings {
        let mut failures: Vec<String> = broken.into_iter().collect();
        let (mut settler, mut directory, mut limits) = match self.stop().await {
            Ok(parts) => parts,
            Err(error) => panic!("a part of the run ended: {error}"),
        };
        if failures.is_empty() {
            let checks = async {
                region.wait_formed().await;
                settler.finish().await;
                directory.finish().await;
                limits.finish().await;
                region.wait_converged().await;
            };
            let broken = AssertUnwindSafe(checks).catch_unwind().await;
            failures.extend(broken.err().map(|panic| message(&*panic)));
        }
        let shared = settler.shared().clone();
        failures.append(&mut settler.failures);
        failures.extend(shared.ledger.odd_answers());
        failures.extend(also);
        failures.extend(region.unexpected_errors());
        failures.truncate(50);
        let kept = (!failures.is_empty()).then(|| {
            region.keep_files();
            // They are in the report.
            region.expect_errors(&[""]);
            region.dir().to_owned()
        });
        Findings {
            shared,
            checked: settler.checked,
            lists: directory.lists,
            buckets_filled: limits.filled,
            failures,
            kept,
        }
    }

    async fn stop(self) -> Result<(Settler, DirectoryClient, LimitClient), JoinError> {
        self.shared.stop.store(true, Ordering::Relaxed);
        for ended in join_all(self.clients).await {
            if let Err(error) = ended {
                self.shared.ledger.odd(format!("a client ended: {error}"));
            }
        }
        Ok((
            self.settler.await?,
            self.directory.await?,
            self.limits.await?,
        ))
    }
}

/// What a panic said.
pub(super) fn message(panic: &(dyn std::any::Any + Send)) -> String {
    let text = panic.downcast_ref::<String>().map(String::as_str);
    let text = text.or_else(|| panic.downcast_ref::<&str>().copied());
    text.unwrap_or("a panic without words").to_owned()
}
