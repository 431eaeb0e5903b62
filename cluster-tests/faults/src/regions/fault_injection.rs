//! Injects scheduled faults into several regions under load.

use std::time::Duration;

use super::fault_results::FaultResults;
use super::late_region::LateRegion;
use super::load::RegionsLoad;
use super::options::{REGION_NAMES, RegionsOptions};
use super::region_nemesis::RegionNemesis;
use crate::fault_kind::{FaultKind, NetworkFault};
use crate::progress::Progress;
use crate::schedule::FaultSchedule;
use cloudkv_test_harness::region::MultiRegionCluster;

/// Time beyond its planned duration in which a run waits for every kind of fault to happen and for
/// the joining region.
const GRACE_PERIOD: Duration = Duration::from_secs(180);

/// Injects faults until the time is over, every kind has happened, and all regions have joined.
pub(super) async fn inject_faults(
    cluster: &mut MultiRegionCluster,
    options: &RegionsOptions,
    load: &mut RegionsLoad,
    results: &mut FaultResults,
) {
    let nodes = REGION_NAMES.len() * options.nodes_per_region;
    let mut schedule = FaultSchedule::new(options.seed, &options.kinds, nodes, options.shards);
    let mut nemesis = RegionNemesis::new(cluster);
    let mut progress = Progress::start(options.is_verbose);
    let mut joining = LateRegion::new(options);
    loop {
        let elapsed = progress.elapsed();
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
            step.kind = FaultKind::Network(NetworkFault::RegionCut);
        }
        progress.report(format_args!("{step:?}"));
        nemesis.carry_out(&step).await;
        results.counts.clone_from(&nemesis.counts);
        results.deleted_buckets.clone_from(&nemesis.deleted_buckets);
        results.newest_buckets.clone_from(&nemesis.newest_buckets);
        progress.report_counts(load.context.counts(), &results.counts);
    }
    nemesis.heal();
    check_coverage(results, options, &nemesis, &joining);
}

/// Adds failures for what should have happened and didn't.
fn check_coverage(
    results: &mut FaultResults,
    options: &RegionsOptions,
    nemesis: &RegionNemesis<'_>,
    joining: &LateRegion,
) {
    let missing = nemesis.counts.missing(&options.kinds).into_iter();
    results
        .failures
        .extend(missing.map(|kind| format!("no {kind} happened")));
    if nemesis.counts.meta_leaders == 0 {
        results
            .failures
            .push("no leader of the metadata was hit".into());
    }
    for (region, name) in REGION_NAMES.iter().enumerate() {
        if !nemesis.leaders_in.contains(&region) {
            results
                .failures
                .push(format!("no leader of a shard of {name} was hit"));
        }
    }
    if !joining.has_joined() {
        results.failures.push("the third region didn't join".into());
    }
    let late_writes: u64 = results
        .deleted_buckets
        .iter()
        .map(|bucket| bucket.late_writes)
        .sum();
    if options.kinds.contains(&FaultKind::DropBucket) {
        results.notes.push(format!(
            "buckets deleted in a partition: {}, with {late_writes} writes acknowledged after \
             that",
            results.deleted_buckets.len()
        ));
        if late_writes == 0 {
            results
                .failures
                .push("no bucket was written after it was deleted".into());
        }
    }
}
