//! Counters of a run: responses, errors, latencies.

use anyhow::Result;
use hdrhistogram::Histogram;
use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;
use std::time::Duration;

/// Counters of one worker, or of all together, in the measured window.
#[derive(Debug)]
pub(crate) struct Stats {
    /// Number of valid responses.
    pub done: u64,
    /// Failed requests, also outside the window.
    pub errors: Errors,
    /// Latencies of valid responses in nanoseconds.
    latency: Histogram<u64>,
}

impl Stats {
    /// Creates empty counters.
    pub(crate) fn new() -> Result<Self> {
        // Three significant digits from 1 µs to 100 s.
        let latency = Histogram::new_with_bounds(1_000, 100_000_000_000, 3)?;
        Ok(Self {
            done: 0,
            errors: Errors::default(),
            latency,
        })
    }

    /// Counts a valid response.
    pub(crate) fn record_success(&mut self, latency: Duration) {
        self.done += 1;
        let nanos = u64::try_from(latency.as_nanos()).unwrap_or(u64::MAX);
        self.latency.saturating_record(nanos);
    }

    /// Adds the counters of another worker.
    pub(crate) fn merge(&mut self, other: Self) -> Result<()> {
        self.done += other.done;
        self.errors.merge(other.errors);
        self.latency.add(&other.latency)?;
        Ok(())
    }

    /// Returns the percentiles.
    pub(crate) fn latency(&self) -> Latency {
        let at = |quantile| self.latency.value_at_quantile(quantile) as f64 / 1e3;
        Latency {
            mean: self.latency.mean() / 1e3,
            p50: at(0.5),
            p90: at(0.9),
            p99: at(0.99),
            p999: at(0.999),
            max: if self.done == 0 {
                0.0
            } else {
                self.latency.max() as f64 / 1e3
            },
        }
    }
}

/// Latencies in microseconds.
#[derive(Debug, Clone, Copy, Default, Serialize, Deserialize)]
pub(crate) struct Latency {
    /// Arithmetic mean.
    pub mean: f64,
    /// Median.
    pub p50: f64,
    /// 90th percentile.
    pub p90: f64,
    /// 99th percentile.
    pub p99: f64,
    /// 99.9th percentile.
    pub p999: f64,
    /// Maximum.
    pub max: f64,
}

/// Failed requests, by kind.
#[derive(Debug, Clone, Default, Serialize, Deserialize)]
pub(crate) struct Errors {
    /// Responses other than 2xx, by status.
    pub status: BTreeMap<u16, u64>,
    /// 2xx responses with another body than the one written.
    pub wrong_body: u64,
    /// Requests lost to broken connections.
    pub lost: u64,
    /// Description of the first error.
    pub first: Option<String>,
}

impl Errors {
    /// Total number of errors.
    pub(crate) fn total(&self) -> u64 {
        self.status.values().sum::<u64>() + self.wrong_body + self.lost
    }

    /// Prints the errors, if there are any.
    pub(crate) fn print(&self) {
        if self.total() > 0 {
            eprintln!("!!!! {} ERRORS: {self:?}", self.total());
        }
    }

    /// Keeps the description of the first error.
    pub(crate) fn record_first(&mut self, text: impl FnOnce() -> String) {
        self.first.get_or_insert_with(text);
    }

    fn merge(&mut self, other: Self) {
        for (status, count) in other.status {
            *self.status.entry(status).or_default() += count;
        }
        self.wrong_body += other.wrong_body;
        self.lost += other.lost;
        self.first = self.first.take().or(other.first);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn merged_stats_add_up() {
        let mut all = Stats::new().unwrap();
        for micros in [100, 200] {
            let mut one = Stats::new().unwrap();
            one.record_success(Duration::from_micros(micros));
            one.errors.status.insert(503, 2);
            all.merge(one).unwrap();
        }
        assert_eq!((all.done, all.errors.total()), (2, 4));
        let latency = all.latency();
        assert!((latency.p50 - 100.0).abs() < 1.0 && (latency.max - 200.0).abs() < 1.0);
    }
}
