//! What a run found.

use std::fmt;
use std::path::PathBuf;
use std::time::Duration;

use super::kind::Counts;

/// What a run did, and what was wrong.
#[derive(Clone, Debug)]
pub struct Report {
    /// The seed that gives it back.
    pub seed: u64,
    /// How long there were faults.
    pub lasted: Duration,
    /// How many calls there were.
    pub calls: u64,
    /// Calls by what became of them.
    pub results: String,
    /// Calls in histories that were found right.
    pub checked: u64,
    /// Lists of buckets that were found right.
    pub lists: u64,
    /// What happened.
    pub faults: Counts,
    /// What else is worth telling.
    pub notes: Vec<String>,
    /// What was wrong.
    pub failures: Vec<String>,
    /// Where logs and histories are, if something was wrong.
    pub kept: Option<PathBuf>,
}

impl Report {
    /// Whether nothing was wrong.
    pub fn passed(&self) -> bool {
        self.failures.is_empty()
    }
}

impl fmt::Display for Report {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (seed, lasted) = (self.seed, self.lasted.as_secs());
        writeln!(f, "seed {seed}, {lasted} s")?;
        writeln!(f, "calls: {}: {}", self.calls, self.results)?;
        writeln!(f, "checked: {} calls, {} lists", self.checked, self.lists)?;
        writeln!(f, "faults: {}: {}", self.faults.total(), self.faults)?;
        for note in &self.notes {
            writeln!(f, "{note}")?;
        }
        for failure in &self.failures {
            writeln!(f, "FAILED: {failure}")?;
        }
        if let Some(kept) = &self.kept {
            writeln!(f, "logs and histories: {}", kept.display())?;
        }
        let result = if self.passed() { "passed" } else { "FAILED" };
        write!(f, "result: {result}")
    }
}
