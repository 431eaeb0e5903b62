//! Results of a run, their targets, and the report as Markdown.

use super::speed::Speed;
use crate::disk::FsyncLatency;
use crate::procfs::{Machine, MemoryUsage};
use crate::report::{Check, Table, Target, render};
use serde::Serialize;

/// All results, as written to the JSON file.
#[derive(Debug, Serialize)]
pub(super) struct Report {
    /// Machine of the run.
    pub machine: Machine,
    /// Number of keys.
    pub keys: u64,
    /// Latency of the disk.
    pub fsync_us: FsyncLatency,
    /// Memory of a node without data.
    pub fresh: MemoryUsage,
    /// Highest memory use while loading.
    pub while_loading: MemoryUsage,
    /// Memory some time after loading.
    pub idle: MemoryUsage,
    /// Memory after the restart, with values checked.
    pub restarted: MemoryUsage,
    /// Seconds in which all keys were loaded.
    pub load_seconds: f64,
    /// Keys loaded per second.
    pub load_per_second: f64,
    /// Attempts that were repeated while loading.
    pub load_retries: u64,
    /// Disk space of the loaded node.
    pub disk_bytes: u64,
    /// Throughput by number of keys.
    pub speed: Speed,
    /// Seconds from the restart until the node was ready.
    pub restart_ready_seconds: f64,
    /// Seconds from the restart until a key was read.
    pub restart_first_get_seconds: f64,
    /// Values that were verified after the restart.
    pub values_checked: u64,
    /// Values that were wrong or lost.
    pub values_wrong: u64,
    /// Targets and whether they were met.
    pub checks: Vec<Check>,
}

/// Checks all targets.
pub(super) fn checks(report: &Report) -> Vec<Check> {
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

/// Renders all results as Markdown.
pub(super) fn markdown(report: &Report) -> String {
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
        memory_table(report),
        report.speed.table(),
        Table::of_checks(&report.checks),
    ];
    text.push_str(&render(&tables, &[]));
    text
}

/// Builds the table of memory use at each stage.
fn memory_table(report: &Report) -> Table {
    let head = ["memory", "RSS MB", "anonymous MB", "peak MB"];
    let mut table = Table::new("Memory of the node", &head);
    let moments = [
        ("fresh", report.fresh),
        ("while loading, highest", report.while_loading),
        ("loaded, idle", report.idle),
        ("after restart and reads", report.restarted),
    ];
    for (
        when,
        MemoryUsage {
            rss,
            peak,
            anonymous,
        },
    ) in moments
    {
        let megabytes = [rss, anonymous, peak].map(|bytes| format!("{:.1}", bytes as f64 / 1e6));
        table.add(std::iter::once(when.to_owned()).chain(megabytes).collect());
    }
    table
}
