//! Options that several benchmarks have, and the bounds of their values.

use crate::report::Check;
use anyhow::{Result, ensure};
use std::fmt::Display;
use std::ops::RangeInclusive;
use std::path::PathBuf;
use std::str::FromStr;

/// Options of benchmarks with targets.
#[derive(Debug, clap::Args)]
pub(crate) struct RunArgs {
    /// Directory for data; must be on a real disk, with 5 GB free for ten million keys.
    #[arg(long, default_value = "target/bench-data")]
    pub data_dir: PathBuf,
    /// Also fail when a target is missed.
    #[arg(long)]
    pub strict: bool,
}

impl RunArgs {
    /// Fails if requests have failed or, with `--strict`, if targets were missed.
    pub(crate) fn verify(&self, failed_requests: u64, checks: &[Check]) -> Result<()> {
        ensure!(failed_requests == 0, "{failed_requests} REQUESTS FAILED");
        let missed = checks.iter().filter(|check| check.passes() == Some(false));
        let missed = missed.count();
        ensure!(!self.strict || missed == 0, "{missed} targets missed");
        Ok(())
    }
}

/// Parses the seconds of a measurement.
pub(crate) fn parse_seconds(text: &str) -> Result<f64, String> {
    parse_within(text, 0.5..=600.0)
}

/// Parses the number of times that something is measured.
pub(crate) fn parse_rounds(text: &str) -> Result<usize, String> {
    parse_within(text, 1..=20)
}

/// Parses a number of threads.
pub(crate) fn parse_threads(text: &str) -> Result<usize, String> {
    parse_within(text, 1..=64)
}

fn parse_within<T: Display + FromStr + PartialOrd>(
    text: &str,
    bounds: RangeInclusive<T>,
) -> Result<T, String> {
    let number = text
        .parse::<T>()
        .ok()
        .filter(|number| bounds.contains(number));
    number.ok_or_else(|| format!("expected {} to {}", bounds.start(), bounds.end()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_beyond_their_bounds_are_refused() {
        assert_eq!(parse_seconds("0.5"), Ok(0.5));
        assert_eq!(parse_rounds("20"), Ok(20));
        for wrong in ["0.4", "600.1", "NaN", "x", ""] {
            let expected = "expected 0.5 to 600".to_owned();
            assert_eq!(parse_seconds(wrong), Err(expected), "{wrong}");
        }
        assert_eq!(parse_rounds("0"), Err("expected 1 to 20".to_owned()));
    }
}
