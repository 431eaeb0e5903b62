//! Power losses of nodes and whole regions, while all regions are written and read.

use std::panic::AssertUnwindSafe;

use futures_util::FutureExt;

use super::field::Field;
use super::run::{Harmed, RegionsOptions};
use crate::faults::power::Cutter;
use crate::faults::run::message;
use crate::region::World;

/// Carries out the power losses of a run, fewer if it is stopped, and notes what was done.
pub(super) async fn cut_all(
    world: &mut World,
    options: &RegionsOptions,
    field: &Field,
    harmed: &mut Harmed,
    say: impl Fn(&str),
) {
    let mut cutter = Cutter::new(world, options.each, || field.tally().answered());
    let work = async {
        for cut in &options.cuts {
            if field.stopped() {
                return;
            }
            say(&format!("{cut:?}"));
            cutter.carry_out(cut).await;
        }
        cutter.heal().await;
    };
    let broken = AssertUnwindSafe(work).catch_unwind().await;
    cutter.end_troubles();
    let failures = &mut harmed.failures;
    failures.extend(broken.err().map(|panic| message(&*panic)));
    let (cut, asked) = (cutter.tally.total(), options.cuts.len());
    if cut < asked as u64 {
        failures.push(format!("{cut} power losses, and not {asked}"));
    }
    harmed.notes.push(cutter.tally.to_string());
}
