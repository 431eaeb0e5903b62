//! A whole run over several regions: load, faults, and then the checks.

use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use super::context::RegionsContext;
use super::fault_injection::inject_faults;
use super::fault_results::FaultResults;
use super::final_checks;
use super::load::{FinishedLoad, RegionsLoad};
use super::options::{REGION_NAMES, RegionsOptions};
use super::power_losses;
use super::upgrade;
use crate::panics::catch_panic;
use crate::progress::Progress;
use crate::report::Report;
use crate::watch::WatchLoad;
use cloudkv_test_harness::Bucket;
use cloudkv_test_harness::region::{FlowShape, MultiRegionCluster};

/// Latency and jitter between the first two regions, and between each of them and the third.
const NEAR_LATENCY: (Duration, Duration) = (Duration::from_millis(40), Duration::from_millis(5));
const FAR_LATENCY: (Duration, Duration) = (Duration::from_millis(80), Duration::from_millis(10));

/// Number of chunks between regions that stall as if a packet were lost, in permille.
const STALLS_PERMILLE: u64 = 50;

/// Errors in logs that the faults themselves cause.
const EXPECTED_ERRORS: [&str; 1] = ["clock"];

/// Carries out a run.
///
/// # Panics
/// Panics if the regions don't start. Later failures are in the report.
pub async fn run_regions(options: &RegionsOptions) -> Report {
    let mut cluster = start_cluster(options).await;
    let has_new_calls = options.old_binary.is_none();
    let context = RegionsContext::start(&cluster, REGION_NAMES.len(), has_new_calls).await;
    let listed_bucket = cluster.api(0).create_bucket_with(&[("plan", "pro")]).await;
    let mut load = start_load(&cluster, options, &context, &listed_bucket).await;
    let progress = Progress::start(options.is_verbose);
    let report = |text: &str| progress.report(text);
    let mut results = FaultResults::default();
    let faults = run_faults(
        &mut cluster,
        options,
        &context,
        &mut load,
        &mut results,
        report,
    );
    let panicked = catch_panic(faults).await.err();
    let duration = progress.elapsed();
    let mut failures: Vec<String> = panicked.into_iter().collect();
    failures.append(&mut results.failures);
    let mut finished = load.stop().await;
    failures.append(&mut finished.failures);
    let mut notes = results.notes;
    if failures.is_empty() {
        let own = std::iter::once(listed_bucket).chain(results.newest_buckets);
        let checks = final_checks::check(
            &mut cluster,
            &context,
            &mut finished,
            &results.deleted_buckets,
            own.collect(),
            report,
        );
        match catch_panic(checks).await {
            Ok((more_notes, mut failed)) => {
                notes.extend(more_notes);
                failures.append(&mut failed);
            }
            Err(message) => failures.push(message),
        }
    }
    let observed = take_observed_failures(&mut cluster, &context, &mut finished);
    failures.extend(observed);
    failures.truncate(50);
    let tally = context.counts();
    Report {
        seed: options.seed,
        duration,
        calls: tally.total(),
        outcomes: tally.to_string(),
        checked_calls: finished.checked_calls(),
        checked_lists: finished.bucket_lists.lists,
        faults: results.counts,
        notes,
        kept_dir: (!failures.is_empty()).then(|| keep_files(&mut cluster)),
        failures,
    }
}

/// Starts the regions that run from the start, with the latencies between them.
async fn start_cluster(options: &RegionsOptions) -> MultiRegionCluster {
    let mut cluster = MultiRegionCluster::start_with(
        &REGION_NAMES,
        options.nodes_per_region,
        options.initial_regions(),
        options.region_options(),
    )
    .await;
    cluster.expect_errors(&EXPECTED_ERRORS);
    if options.has_power_losses() {
        cluster.expect_disk_errors();
    }
    set_latencies(&cluster);
    cluster
}

/// Starts the clients of the regions that run from the start.
async fn start_load(
    cluster: &MultiRegionCluster,
    options: &RegionsOptions,
    context: &Arc<RegionsContext>,
    listed_bucket: &Bucket,
) -> RegionsLoad {
    let dir = || cluster.dir().to_owned();
    let mut load = RegionsLoad::new(
        context,
        options.clients_per_node,
        options.seed,
        dir(),
        listed_bucket.clone(),
    );
    if options.is_watched() {
        let bucket = &context.shared_keys.bucket;
        load.watches = Some(WatchLoad::new(bucket, options.seed, dir()));
    }
    for region in 0..options.initial_regions() {
        load.add_region();
        load.watch_region(cluster, region).await;
    }
    load
}

/// Disturbs the regions as the options say: by an upgrade, by power losses, or by other faults.
async fn run_faults(
    cluster: &mut MultiRegionCluster,
    options: &RegionsOptions,
    context: &RegionsContext,
    load: &mut RegionsLoad,
    results: &mut FaultResults,
    report: impl Fn(&str),
) {
    match &options.old_binary {
        None if options.has_power_losses() => {
            power_losses::run_power_losses(cluster, options, context, results, report).await;
        }
        None => inject_faults(cluster, options, load, results).await,
        Some(old) => {
            let upgraded = upgrade::run_upgrade(cluster, old, options.duration, context, report);
            results.notes.extend(upgraded.await);
        }
    }
}

/// Returns the failures that checkers, clients and logs have recorded.
fn take_observed_failures(
    cluster: &mut MultiRegionCluster,
    context: &RegionsContext,
    finished: &mut FinishedLoad,
) -> Vec<String> {
    let mut failures = vec![];
    for checker in &mut finished.checkers {
        failures.append(&mut checker.failures);
    }
    failures.extend(context.anomalies());
    failures.extend(finished.anomalies());
    failures.extend(cluster.unexpected_errors());
    failures
}

/// Keeps the files of a run that failed, and returns their folder.
fn keep_files(cluster: &mut MultiRegionCluster) -> PathBuf {
    cluster.keep_files();
    // They are in the report.
    cluster.expect_errors(&[""]);
    cluster.dir().to_owned()
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
