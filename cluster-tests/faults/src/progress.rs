//! What a verbose run prints while it goes on.

use std::fmt::Display;
use std::time::{Duration, Instant};

use super::fault_kind::FaultCounts;

/// Interval between two summaries.
const SUMMARY_INTERVAL: Duration = Duration::from_secs(10);

/// Prints the progress of a run, if it is verbose.
#[derive(Debug)]
pub(crate) struct Progress {
    is_verbose: bool,
    started: Instant,
    last_summary: Instant,
}

impl Progress {
    /// Begins a run.
    pub(crate) fn start(is_verbose: bool) -> Self {
        let started = Instant::now();
        Self {
            is_verbose,
            started,
            last_summary: started,
        }
    }

    /// Returns the time since the run's start.
    pub(crate) fn elapsed(&self) -> Duration {
        self.started.elapsed()
    }

    /// Prints a step.
    pub(crate) fn report(&self, step: impl Display) {
        if self.is_verbose {
            println!("{:7.1} s  {step}", self.elapsed().as_secs_f64());
        }
    }

    /// Prints the numbers of calls and faults, unless it did so a short time ago.
    pub(crate) fn report_counts(&mut self, calls: impl Display, faults: &FaultCounts) {
        if self.is_verbose && self.last_summary.elapsed() >= SUMMARY_INTERVAL {
            self.last_summary = Instant::now();
            self.report(format_args!("calls: {calls}"));
            println!("           faults: {faults}");
        }
    }
}
