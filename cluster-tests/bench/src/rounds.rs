//! Measurements that are repeated in several rounds.

use crate::engine::LoadResult;
use crate::report::median;

/// Measurement in one of several rounds.
pub(crate) trait Measurement {
    /// Server and load, which the rounds of a measurement have in common.
    type Key: PartialEq;

    /// Returns server and load.
    fn key(&self) -> Self::Key;

    /// Returns the result.
    fn outcome(&self) -> &LoadResult;
}

/// Returns the median over the rounds of one number; `None` without any round.
pub(crate) fn median_of_rounds<M: Measurement>(
    measurements: &[M],
    key: M::Key,
    number: impl Fn(&LoadResult) -> f64,
) -> Option<f64> {
    let same = measurements.iter().filter(|other| other.key() == key);
    let mut numbers: Vec<f64> = same.map(|round| number(round.outcome())).collect();
    (!numbers.is_empty()).then(|| median(&mut numbers))
}

/// Returns the number of failed requests of all measurements.
pub(crate) fn failed_requests<M: Measurement>(measurements: &[M]) -> u64 {
    let outcomes = measurements.iter().map(M::outcome);
    outcomes.map(|outcome| outcome.errors.total()).sum()
}
