//! Power losses of nodes and whole regions, while all regions are written and read.

use std::panic::AssertUnwindSafe;

use futures_util::FutureExt;

use super::context::RegionsContext;
use super::run::{FaultResults, RegionsOptions};
use crate::power::PowerNemesis;
use crate::run::panic_message;
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
    let panicked = AssertUnwindSafe(work).catch_unwind().await;
    nemesis.clear_disk_faults();
    let failures = &mut results.failures;
    failures.extend(panicked.err().map(|panic| panic_message(&*panic)));
    let (count, planned) = (nemesis.counts.total(), options.power_losses.len());
    if count < planned as u64 {
        failures.push(format!("{count} power losses, and not {planned}"));
    }
    results.notes.push(nemesis.counts.to_string());
}
