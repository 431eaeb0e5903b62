//! `big`: checks a node with ten million keys: memory, speed, restart after `kill -9`, and that
//! every value is still there.

mod memory;
mod speed;
mod trial;

use crate::disk::FsyncLatency;
use crate::procfs::{Machine, MemoryUsage};
use crate::report::{self, Check, Table, Target};
use crate::{load_keys, process};
use anyhow::{Result, ensure};
use serde::Serialize;
use speed::Speed;
use std::path::PathBuf;

/// Options of `big`.
#[derive(Debug, clap::Args)]
pub(crate) struct Args {
    /// Number of keys.
    #[arg(long, default_value_t = 10_000_000)]
    pub keys: u64,
    /// Seconds of measurement for each throughput.
    #[arg(long, default_value_t = 10.0)]
    pub seconds: f64,
    /// Connections of the loader.
    #[arg(long, default_value_t = 256)]
    pub connections: usize,
    /// Requests in flight on each of the loader's connections.
    #[arg(long, default_value_t = 16)]
    pub depth: usize,
    /// JSON file for the results; a Markdown table is written next to it.
    #[arg(long, default_value = "bench-big.json")]
    pub out: PathBuf,
    /// Directory for data; must be on a real disk with 5 GB free for ten million keys.
    #[arg(long, default_value = "target/bench-data")]
    pub data_dir: PathBuf,
    /// Program of the node, a release build.
    #[arg(long, default_value = "target/release/cloudkv-node")]
    pub node_bin: PathBuf,
    /// Also fail when a target is missed.
    #[arg(long)]
    pub strict: bool,
}

/// All results, as written to the JSON file.
#[derive(Debug, Serialize)]
struct Report {
    machine: Machine,
    keys: u64,
    fsync_us: FsyncLatency,
    /// Memory of a node without data.
    fresh: MemoryUsage,
    /// Highest memory use while loading.
    while_loading: MemoryUsage,
    /// Memory some time after loading.
    idle: MemoryUsage,
    /// Memory after the restart, with values checked.
    restarted: MemoryUsage,
    load_seconds: f64,
    load_per_second: f64,
    load_retries: u64,
    disk_bytes: u64,
    speed: Speed,
    restart_ready_seconds: f64,
    restart_first_get_seconds: f64,
    values_checked: u64,
    values_wrong: u64,
    checks: Vec<Check>,
}

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
    ensure!(
        (0.5..=600.0).contains(&args.seconds),
        "--seconds: 0.5 to 600"
    );
    let mut report = process::block_on_until_signal(trial::run(args))?;
    report.checks = checks(&report);
    report::publish(&args.out, &report, &markdown(&report))?;
    ensure!(
        report.values_wrong == 0,
        "{} VALUES ARE WRONG OR LOST",
        report.values_wrong
    );
    ensure!(
        report.speed.errors == 0,
        "{} REQUESTS FAILED",
        report.speed.errors
    );
    let missed = report
        .checks
        .iter()
        .filter(|check| check.passes() == Some(false))
        .count();
    ensure!(!args.strict || missed == 0, "{missed} targets missed");
    Ok(())
}

fn checks(report: &Report) -> Vec<Check> {
    let most =
        |what: &str, value, unit, limit| Check::new(what, Some(value), unit, Target::AtMost(limit));
    let megabytes = |memory: &MemoryUsage| memory.rss as f64 / 1e6;
    let (get, put) = (&report.speed.get, &report.speed.put);
    vec![
        most(
            "memory of a fresh node (RSS)",
            megabytes(&report.fresh),
            "MB",
            60.0,
        ),
        most(
            "ready after kill -9",
            report.restart_ready_seconds,
            "s",
            5.0,
        ),
        most(
            "first key read after kill -9",
            report.restart_first_get_seconds,
            "s",
            5.0,
        ),
        most("wrong or lost values", report.values_wrong as f64, "", 0.0),
        most("GET of few keys / of all keys", get.slowdown(), "x", 1.5),
        most("PUT of few keys / of all keys", put.slowdown(), "x", 1.5),
    ]
}

fn markdown(report: &Report) -> String {
    let Machine { cpu, cores, .. } = &report.machine;
    let mut text = format!(
        "## A node with {} keys of 100 B\n\n{cpu}, {cores} cores. Loaded in {:.0} s ({:.0}/s, {} \
         attempts repeated); {:.2} GB of disk, {} values checked after kill -9.\n\n",
        report.keys,
        report.load_seconds,
        report.load_per_second,
        report.load_retries,
        report.disk_bytes as f64 / 1e9,
        report.values_checked,
    );
    let tables = [
        memory::table(report),
        report.speed.table(),
        Table::of_checks(&report.checks),
    ];
    text.push_str(&tables.map(|table| table.render()).join("\n"));
    text
}
