//! Power losses of nodes and whole regions, while all regions are written and read.

use super::context::RegionsContext;
use super::fault_results::FaultResults;
use super::options::RegionsOptions;
use crate::panics::catch_panic;
use crate::power::PowerNemesis;
use cloudkv_test_harness::region::MultiRegionCluster;

/// Carries out the power losses of a run, fewer if it is stopped, and records the results.
pub(super) async fn run_power_losses(
    cluster: &mut MultiRegionCluster,
    options: &RegionsOptions,
    context: &RegionsContext,
    results: &mut FaultResults,
    report: impl Fn(&str),
) {
    let mut nemesis = PowerNemesis::new(cluster, options.nodes_per_region, || {
        context.counts().answered()
    });
    let work = async {
        for power_loss in &options.power_losses {
            if context.is_stopped() {
                return;
            }
            report(&format!("{power_loss:?}"));
            nemesis.carry_out(power_loss).await;
        }
        nemesis.heal().await;
    };
    let panicked = catch_panic(work).await.err();
    nemesis.clear_disk_faults();
    results.failures.extend(panicked);
    let missing = nemesis.counts.missing(options.power_losses.len());
    results.failures.extend(missing);
    results.notes.push(nemesis.counts.to_string());
}
