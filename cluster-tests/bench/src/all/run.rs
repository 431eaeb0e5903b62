//! The steps of a run.

use super::args::Args;
use super::cells::Cells;
use super::plan::Plan;
use super::report::Report;
use super::testbed::Testbed;
use super::{tables, targets};
use crate::disk::FsyncLatency;
use crate::procfs::Machine;
use crate::{process, report, rocks};
use anyhow::{Context, Result};
use std::path::Path;
use std::time::Duration;

/// Measures, prints and writes the results.
pub(crate) fn run(args: &Args) -> Result<()> {
    let report = process::block_on_until_signal(measure(args))?;
    let markdown = tables::markdown(&report);
    report::publish(&args.out, &report, &markdown)?;
    args.run.verify(report.errors, &report.checks)
}

async fn measure(args: &Args) -> Result<Report> {
    let plan = Plan::new(args);
    let dir = process::work_dir(&args.run.data_dir)?;
    let machine = Machine::read();
    eprintln!("disk and RocksDB alone ...");
    let fsync_us = FsyncLatency::measure(dir.path())?;
    let rocksdb = measure_rocksdb(&plan, dir.path()).await?;

    let node_bin = (!args.skip_node).then_some(args.node_bin.as_path());
    let mut stage = Testbed::start(&plan, node_bin, dir.path()).await?;
    let cells = Cells::measure(&plan, &mut stage).await?;
    let node_at_end = stage.node_memory()?;

    let mut notes = std::mem::take(&mut stage.notes);
    if machine.load_at_start > 0.5 {
        let load = machine.load_at_start;
        notes.push(format!(
            "The machine was busy when this began (load {load:.2}): measure again."
        ));
    }
    let checks = targets::checks(&cells, stage.node_fresh);
    let errors = cells.errors();
    Ok(Report {
        machine,
        plan,
        fsync_us,
        rocksdb,
        node_fresh: stage.node_fresh,
        node_at_end,
        cells: cells.into_inner(),
        checks,
        notes,
        errors,
    })
}

async fn measure_rocksdb(plan: &Plan, dir: &Path) -> Result<Vec<rocks::Throughput>> {
    let mut line = vec![
        "rocksdb".to_owned(),
        format!("--data-dir={}", dir.display()),
    ];
    line.push(format!("--seconds={}", plan.seconds));
    line.extend(
        plan.value_sizes
            .iter()
            .map(|size| format!("--value-size={size}")),
    );
    let limit = Duration::from_secs_f64(60.0 + plan.seconds * 10.0);
    let json = process::run_subcommand(&line, limit).await?;
    serde_json::from_str(&json).context("numbers of RocksDB")
}
