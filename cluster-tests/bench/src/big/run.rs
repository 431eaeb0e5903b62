//! Measures, and publishes the results.

use super::args::Args;
use super::{report, speed, trial};
use crate::report::publish;
use crate::{load_keys, process};
use anyhow::{Result, ensure};

/// Measures, prints and writes the results.
pub(crate) fn run(args: &Args) -> Result<()> {
    ensure!(
        args.keys >= speed::FEW_KEYS,
        "--keys: at least {}",
        speed::FEW_KEYS
    );
    ensure!(
        args.keys <= 10_u64.pow(load_keys::KEY_DIGITS as u32),
        "--keys: too many"
    );
    let mut report = process::block_on_until_signal(trial::run(args))?;
    report.checks = report::checks(&report);
    publish(&args.out, &report, &report::markdown(&report))?;
    ensure!(
        report.values_wrong == 0,
        "{} VALUES ARE WRONG OR LOST",
        report.values_wrong
    );
    args.run.verify(report.speed.errors, &report.checks)
}
