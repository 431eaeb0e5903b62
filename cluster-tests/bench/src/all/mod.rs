//! `all`: measures a node and comparable systems, interleaved, in one run on one machine.
//!
//! All servers run from start to end; one at a time is under load. For each kind of request they
//! take turns, and the cells that decide a ratio are measured several times, so that a noisy
//! machine affects all of them alike.

mod cells;
mod tables;
mod targets;
mod testbed;

use crate::disk::FsyncLatency;
use crate::procfs::{Machine, MemoryUsage};
use crate::report::{self, Check};
use crate::servers::Tuning;
use crate::{process, rocks};
use anyhow::{Context, Result, ensure};
use cells::{Cell, Cells};
use serde::Serialize;
use std::path::{Path, PathBuf};
use std::time::Duration;
use testbed::Testbed;

/// Options of `all`.
#[derive(Debug, clap::Args)]
pub(crate) struct Args {
    /// Seconds of measurement for each number.
    #[arg(long, default_value_t = 4.0)]
    pub seconds: f64,
    /// One second for each number, 1 and 64 connections, 100 B only: about two minutes.
    #[arg(long)]
    pub quick: bool,
    /// JSON file for the results; a Markdown table is written next to it.
    #[arg(long, default_value = "bench-results.json")]
    pub out: PathBuf,
    /// Directory for data; must be on a real disk.
    #[arg(long, default_value = "target/bench-data")]
    pub data_dir: PathBuf,
    /// Program of the node, a release build.
    #[arg(long, default_value = "target/release/cloudkv-node")]
    pub node_bin: PathBuf,
    /// Measure only the systems that the node is compared with.
    #[arg(long)]
    pub skip_node: bool,
    /// Configuration of webdis.
    #[arg(long, value_enum, default_value = "best")]
    pub webdis: Tuning,
    /// Number of client threads.
    #[arg(long, default_value_t = 1)]
    pub threads: usize,
    /// Also fail when a target is missed.
    #[arg(long)]
    pub strict: bool,
}

/// Parameters that vary from cell to cell.
#[derive(Debug, Clone, Serialize)]
struct Plan {
    connections: Vec<usize>,
    value_sizes: Vec<usize>,
    seconds: f64,
    warmup: f64,
    threads: usize,
    webdis: Tuning,
}

impl Plan {
    fn new(args: &Args) -> Result<Self> {
        ensure!(
            (0.5..=600.0).contains(&args.seconds),
            "--seconds: 0.5 to 600"
        );
        let (connections, value_sizes) = if args.quick {
            (vec![1, 64], vec![100])
        } else {
            (vec![1, 16, 64, 256], vec![100, 4096])
        };
        let seconds = if args.quick {
            args.seconds.min(1.0)
        } else {
            args.seconds
        };
        let (threads, webdis) = (args.threads, args.webdis);
        Ok(Self {
            connections,
            value_sizes,
            seconds,
            warmup: 1.0,
            threads,
            webdis,
        })
    }
}

/// All results, as written to the JSON file.
#[derive(Debug, Serialize)]
struct Report {
    machine: Machine,
    plan: Plan,
    fsync_us: FsyncLatency,
    rocksdb: Vec<rocks::Throughput>,
    node_fresh: Option<MemoryUsage>,
    node_at_end: Option<MemoryUsage>,
    cells: Vec<Cell>,
    checks: Vec<Check>,
    notes: Vec<String>,
    errors: u64,
}

/// Measures, prints and writes the results.
pub(crate) fn run(args: &Args) -> Result<()> {
    let report = process::block_on_until_signal(measure(args))?;
    let markdown = tables::markdown(&report);
    report::publish(&args.out, &report, &markdown)?;
    ensure!(
        report.errors == 0,
        "{} REQUESTS FAILED: see the table of errors",
        report.errors
    );
    let missed = report
        .checks
        .iter()
        .filter(|check| check.passes() == Some(false))
        .count();
    ensure!(!args.strict || missed == 0, "{missed} targets missed");
    Ok(())
}

async fn measure(args: &Args) -> Result<Report> {
    let plan = Plan::new(args)?;
    let dir = process::work_dir(&args.data_dir)?;
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
