//! Output that several commands have.

use std::time::Duration;

use anyhow::{Context, ensure};
use cloudkv_faults::Report;
use hdrhistogram::Histogram;

/// Prints the report of a run.
///
/// # Errors
/// Fails if the run has failed.
pub(crate) fn print_report(report: &Report) -> anyhow::Result<()> {
    println!("{report}");
    let seed = report.seed;
    ensure!(report.has_passed(), "the run with --seed {seed} failed");
    Ok(())
}

/// Formats the number of requests, and their latencies.
pub(crate) fn latency_summary(latencies: &Histogram<u64>) -> String {
    format!(
        "{} requests, median {:.2} ms, 99 % within {:.2} ms, longest {:.0} ms",
        latencies.len(),
        quantile_ms(latencies, 0.5),
        quantile_ms(latencies, 0.99),
        latencies.max() as f64 / 1000.0
    )
}

/// Returns the latency in milliseconds within which this share of the requests were answered.
pub(crate) fn quantile_ms(latencies: &Histogram<u64>, quantile: f64) -> f64 {
    latencies.value_at_quantile(quantile) as f64 / 1000.0
}

/// Returns the median of several outages, and the longest.
///
/// # Errors
/// Fails if there are none.
pub(crate) fn median_and_max(outages: &mut [Duration]) -> anyhow::Result<(Duration, Duration)> {
    outages.sort_unstable();
    let max = outages.last().context("nothing was measured")?;
    Ok((outages[outages.len() / 2], *max))
}
