//! Power losses of nodes and whole regions, while all regions are written and read.

use std::panic::AssertUnwindSafe;

use futures_util::FutureExt;

use super::field::Field;
use super::run::{Harmed, RegionsOptions};
use crate::faults::power::Cutter;
use crate::faults::run::message;
use crate::region::World;

/// Carries out the power losses of a run, fewer if it is stopped, and records the results.
pub(super) async fn cut_all(
    cluster: &mut World,
    options: &RegionsOptions,
    context: &Field,
    results: &mut Harmed,
    report: impl Fn(&str),
) {
    let mut nemesis = Cutter::new(cluster, options.each, || context.tally().answered());
    let work = async {
        for power_loss in &options.cuts {
            if context.stopped() {
                return;
            }
            report(&format!("{power_loss:?}"));
            nemesis.carry_out(power_loss).await;
        }
        nemesis.heal().await;
    };
    let panicked = AssertUnwindSafe(work).catch_unwind().await;
    nemesis.end_troubles();
    let failures = &mut results.failures;
    failures.extend(panicked.err().map(|panic| message(&*panic)));
    let (count, planned) = (nemesis.tally.total(), options.cuts.len());
    if count < planned as u64 {
        failures.push(format!("{count} power losses, and not {planned}"));
    }
    results.notes.push(nemesis.tally.to_string());
}
