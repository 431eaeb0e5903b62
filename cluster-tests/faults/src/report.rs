//! The report of a run.

use std::fmt;
use std::path::PathBuf;
use std::time::Duration;

use super::fault_kind::FaultCounts;

/// Faults, checks and failures of a run.
#[derive(Clone, Debug)]
pub struct Report {
    /// Seed that reproduces the run.
    pub seed: u64,
    /// Duration of the faults.
    pub duration: Duration,
    /// Number of calls.
    pub calls: u64,
    /// Number of calls by outcome, as text.
    pub outcomes: String,
    /// Number of calls in histories that passed.
    pub checked_calls: u64,
    /// Number of bucket lists that passed.
    pub checked_lists: u64,
    /// Faults that happened.
    pub faults: FaultCounts,
    /// Further results.
    pub notes: Vec<String>,
    /// Failures.
    pub failures: Vec<String>,
    /// Folder with logs and histories, if there were failures.
    pub kept_dir: Option<PathBuf>,
}

impl Report {
    /// Returns true if there were no failures.
    pub fn has_passed(&self) -> bool {
        self.failures.is_empty()
    }
}

impl fmt::Display for Report {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (seed, lasted) = (self.seed, self.duration.as_secs());
        writeln!(f, "seed {seed}, {lasted} s")?;
        writeln!(f, "calls: {}: {}", self.calls, self.outcomes)?;
        writeln!(
            f,
            "checked: {} calls, {} lists",
            self.checked_calls, self.checked_lists
        )?;
        writeln!(f, "faults: {}: {}", self.faults.total(), self.faults)?;
        for note in &self.notes {
            writeln!(f, "{note}")?;
        }
        for failure in &self.failures {
            writeln!(f, "FAILED: {failure}")?;
        }
        if let Some(kept) = &self.kept_dir {
            writeln!(f, "logs and histories: {}", kept.display())?;
        }
        let result = if self.has_passed() {
            "passed"
        } else {
            "FAILED"
        };
        write!(f, "result: {result}")
    }
}
