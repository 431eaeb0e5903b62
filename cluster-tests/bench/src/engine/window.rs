//! Time span of the measurement.

use std::time::Instant;

/// Time span in which responses are counted.
#[derive(Debug, Clone, Copy)]
pub(super) struct MeasureWindow {
    /// Begin of the measurement.
    pub start: Instant,
    /// End of the measurement.
    pub end: Instant,
}

impl MeasureWindow {
    /// Returns whether a response at this time is counted.
    pub(super) fn contains(&self, at: Instant) -> bool {
        self.start <= at && at < self.end
    }

    /// Returns whether the measurement has ended at this time.
    pub(super) fn is_over(&self, at: Instant) -> bool {
        at >= self.end
    }
}
