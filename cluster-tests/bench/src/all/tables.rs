//! The report as Markdown.

use super::cells::{Cells, Load};
use super::report::Report;
use crate::engine::LoadResult;
use crate::procfs::MemoryUsage;
use crate::report::{Table, render};
use crate::servers::ServerKind;
use std::fmt::Write;

const SERVERS: [ServerKind; 3] = [ServerKind::Node, ServerKind::Hyper, ServerKind::Webdis];

/// Renders all results as Markdown.
pub(super) fn markdown(report: &Report) -> String {
    let mut text = header(report);
    let cells = Cells::from(report.cells.as_slice());
    let mut tables = vec![cell_table(&cells)];
    tables.push(rocksdb_table(report));
    if report.errors > 0 {
        tables.push(error_table(report));
    }
    tables.push(Table::of_checks(&report.checks));
    text.push('\n');
    text.push_str(&render(&tables, &report.notes));
    text
}

fn header(report: &Report) -> String {
    let (machine, plan, fsync) = (&report.machine, &report.plan, &report.fsync_us);
    let mut text = String::from("## CloudKV next to comparable systems\n\n");
    let _ = writeln!(
        text,
        "{}, {} cores, {} of memory, Linux {}; load at the start {:.2}.",
        machine.cpu,
        machine.cores,
        mebibytes(machine.memory),
        machine.kernel,
        machine.load_at_start
    );
    let _ = writeln!(
        text,
        "Closed loop, {} s a cell after {} s of warm-up; medians of the rounds; {} client \
         thread(s) on the same processors.",
        plan.seconds, plan.warmup, plan.threads
    );
    let _ = writeln!(
        text,
        "4 KiB + fdatasync, median: {:.0} µs appended to a growing file, {:.0} µs into allocated \
         space, {:.0} µs over written blocks.",
        fsync.growing, fsync.allocated, fsync.overwriting
    );
    for (when, memory) in [
        ("fresh", report.node_fresh),
        ("at the end", report.node_at_end),
    ] {
        if let Some(MemoryUsage {
            rss,
            peak,
            anonymous,
        }) = memory
        {
            let _ = writeln!(
                text,
                "Memory of the node {when}: {} resident ({} of it anonymous), {} at the peak.",
                mebibytes(rss),
                mebibytes(anonymous),
                mebibytes(peak)
            );
        }
    }
    text
}

fn cell_table(cells: &Cells) -> Table {
    let head = [
        "load",
        "server",
        "per second",
        "p50 µs",
        "p90 µs",
        "p99 µs",
        "p99.9 µs",
        "max µs",
        "server CPU µs",
        "client CPU µs",
        "errors",
    ];
    let mut table = Table::new("Throughput and latency", &head);
    for load in cells.loads() {
        for server in SERVERS {
            if let Some(row) = cell_row(cells, server, load) {
                table.add(row);
            }
        }
    }
    table
}

fn cell_row(cells: &Cells, server: ServerKind, load: Load) -> Option<Vec<String>> {
    let numbers: [fn(&LoadResult) -> f64; 8] = [
        |outcome| outcome.per_second,
        |outcome| outcome.latency_us.p50,
        |outcome| outcome.latency_us.p90,
        |outcome| outcome.latency_us.p99,
        |outcome| outcome.latency_us.p999,
        |outcome| outcome.latency_us.max,
        |outcome| outcome.server_cpu_us,
        |outcome| outcome.client_cpu_us,
    ];
    let Load {
        operation,
        value_size,
        connections,
    } = load;
    let mut row = vec![format!(
        "{} {value_size} B, {connections} conn.",
        operation.method()
    )];
    row.push(server.to_string());
    for number in numbers {
        row.push(format_number(cells.median(server, load, number)?));
    }
    let errors = cells.sum_of_errors(server, load);
    row.push(if errors == 0 {
        "0".to_owned()
    } else {
        format!("!!! {errors}")
    });
    Some(row)
}

fn rocksdb_table(report: &Report) -> Table {
    let head = [
        "value",
        "puts/s (batches of 64, synced)",
        "gets/s, 1 thread",
        "gets/s, 2 threads",
    ];
    let mut table = Table::new("RocksDB alone, in process", &head);
    for numbers in &report.rocksdb {
        let rates = [
            numbers.puts_per_second,
            numbers.gets_per_second_1,
            numbers.gets_per_second_2,
        ];
        let mut row = vec![format!("{} B", numbers.value_size)];
        row.extend(rates.map(format_number));
        table.add(row);
    }
    table
}

fn error_table(report: &Report) -> Table {
    let mut table = Table::new(
        "ERRORS",
        &["load", "server", "round", "errors", "first error"],
    );
    for cell in &report.cells {
        let errors = &cell.outcome.errors;
        if errors.total() > 0 {
            let Load {
                operation,
                value_size,
                connections,
            } = cell.load;
            table.add(vec![
                format!("{} {value_size} B, {connections} conn.", operation.method()),
                cell.server.to_string(),
                cell.round.to_string(),
                errors.total().to_string(),
                errors
                    .first
                    .clone()
                    .unwrap_or_default()
                    .replace(['|', '\n'], " "),
            ]);
        }
    }
    table
}

fn format_number(value: f64) -> String {
    if value >= 100.0 {
        format!("{value:.0}")
    } else {
        format!("{value:.1}")
    }
}

fn mebibytes(bytes: u64) -> String {
    format!("{:.1} MiB", bytes as f64 / f64::from(1 << 20))
}
