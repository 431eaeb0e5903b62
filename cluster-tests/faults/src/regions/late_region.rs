//! The region that joins in the middle of a run.

use std::time::Duration;

use super::fault_results::FaultResults;
use super::load::RegionsLoad;
use super::options::{REGION_NAMES, RegionsOptions};
use super::region_nemesis::RegionNemesis;
use crate::fault_kind::FaultKind;

/// The third region, if it joins in the middle of the run.
pub(super) struct LateRegion {
    /// Time at which the join begins; `None` once it has.
    due: Option<Duration>,
    started_at: Duration,
    is_serving: bool,
}

impl LateRegion {
    /// Creates the state at the start of a run.
    pub(super) fn new(options: &RegionsOptions) -> Self {
        Self {
            due: options.has_late_region.then_some(options.duration / 3),
            started_at: Duration::ZERO,
            is_serving: !options.has_late_region,
        }
    }

    /// Returns whether all regions serve.
    pub(super) fn has_joined(&self) -> bool {
        self.is_serving
    }

    /// Returns whether a fault may be injected now. Two regions can't tell which of their clocks is
    /// wrong, and the metadata group has no majority without the first.
    pub(super) fn allows(&self, kind: FaultKind) -> bool {
        self.is_serving || !matches!(kind, FaultKind::ClockJump | FaultKind::DropBucket)
    }

    /// Starts the region when it is due, and its clients once it serves.
    pub(super) async fn advance(
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
        load.watch_region(nemesis.cluster, region).await;
        let elapsed_secs = (elapsed - self.started_at).as_secs_f64();
        results.notes.push(format!(
            "{} joined within {elapsed_secs:.1} s, under faults",
            REGION_NAMES[region]
        ));
    }
}
