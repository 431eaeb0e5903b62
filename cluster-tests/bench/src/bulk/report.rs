//! Results of a run, their targets, and the report as Markdown.

use crate::procfs::{Machine, MemoryUsage};
use crate::report::{Check, Table, Target, render};
use crate::users::{UserLatency, latency_checks, latency_table};
use serde::Serialize;
use std::fmt;

/// Way in which keys get into a bucket or out of it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub(super) enum TransferKind {
    /// A PUT for each key, pipelined.
    LoadKeys,
    /// An export.
    Export,
    /// An import.
    Import,
}

impl fmt::Display for TransferKind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(match self {
            Self::LoadKeys => "load-keys",
            Self::Export => "export",
            Self::Import => "import",
        })
    }
}

/// All keys, on one of these ways.
#[derive(Debug, Clone, Serialize)]
pub(super) struct Transfer {
    /// Way.
    pub kind: TransferKind,
    /// Number of keys.
    pub keys: u64,
    /// Bytes of their lines; 0 without lines.
    pub line_bytes: u64,
    /// Duration.
    pub seconds: f64,
    /// User and system time of all nodes for a key, in microseconds.
    pub cpu_us: f64,
    /// Memory of the serving node before.
    pub memory_before: MemoryUsage,
    /// Highest memory of the serving node meanwhile.
    pub memory_peak: MemoryUsage,
    /// Memory of the serving node afterwards.
    pub memory_after: MemoryUsage,
}

impl Transfer {
    fn keys_per_second(&self) -> f64 {
        self.keys as f64 / self.seconds
    }
}

/// All results, as written to the JSON file.
#[derive(Debug, Serialize)]
pub(super) struct Report {
    /// Machine of the run.
    pub machine: Machine,
    /// Number of nodes.
    pub nodes: usize,
    /// Number of keys.
    pub keys: u64,
    /// Bytes of a value.
    pub value_bytes: usize,
    /// Requests per second of other users, of reads and of writes.
    pub users_rate: f64,
    /// All transfers.
    pub transfers: Vec<Transfer>,
    /// Latencies of other users, at first without anything else.
    pub users: Vec<UserLatency>,
    /// Targets and whether they were met.
    pub checks: Vec<Check>,
}

impl Report {
    fn transfer(&self, kind: TransferKind) -> Option<&Transfer> {
        self.transfers.iter().find(|transfer| transfer.kind == kind)
    }

    /// Returns the number of failed requests of other users.
    pub(super) fn failed_requests(&self) -> u64 {
        self.users.iter().map(|users| users.errors).sum()
    }
}

/// Checks all targets: an export or an import is no slower than single writes, needs no memory that
/// grows with the keys, and leaves other users their latency but for what background work may take.
pub(super) fn checks(report: &Report) -> Vec<Check> {
    let mut checks = Vec::new();
    let load_keys = report.transfer(TransferKind::LoadKeys);
    for kind in [TransferKind::Export, TransferKind::Import] {
        let transfer = report.transfer(kind);
        let rates = transfer.zip(load_keys);
        let ratio = rates.map(|(own, other)| own.keys_per_second() / other.keys_per_second());
        checks.push(Check::new(
            format!("keys per second: {kind} / load-keys"),
            ratio,
            "x",
            Target::AtLeast(1.0),
        ));
        let growth = transfer.map(|transfer| {
            let (before, peak) = (transfer.memory_before.rss, transfer.memory_peak.rss);
            peak.saturating_sub(before) as f64 / 1e6
        });
        checks.push(Check::new(
            format!("memory of the serving node during an {kind}, beyond before"),
            growth,
            "MB",
            Target::AtMost(128.0),
        ));
    }
    checks.extend(latency_checks(&report.users));
    checks
}

/// Renders all results as Markdown.
pub(super) fn markdown(report: &Report) -> String {
    let Machine { cpu, cores, .. } = &report.machine;
    let mut text = format!(
        "## Exports and imports beside single writes\n\n{cpu}, {cores} cores; {} nodes; {} keys, \
         {} B a value. CPU: user and system time of all nodes for a key.\nMemory: of the node that \
         serves. Other users: {:.0} reads and {:.0} writes per second.\n\n",
        report.nodes, report.keys, report.value_bytes, report.users_rate, report.users_rate
    );
    let tables = [
        transfer_table(report),
        memory_table(report),
        latency_table(&report.users),
        Table::of_checks(&report.checks),
    ];
    text.push_str(&render(&tables, &[]));
    text
}

fn transfer_table(report: &Report) -> Table {
    let head = [
        "way",
        "seconds",
        "keys/s",
        "values MB/s",
        "lines MB/s",
        "CPU µs",
    ];
    let mut table = Table::new("Rates", &head);
    for transfer in &report.transfers {
        let value_bytes = transfer.keys as f64 * report.value_bytes as f64;
        let rate = |bytes: f64| format!("{:.1}", bytes / 1e6 / transfer.seconds);
        table.add(vec![
            transfer.kind.to_string(),
            format!("{:.1}", transfer.seconds),
            format!("{:.0}", transfer.keys_per_second()),
            rate(value_bytes),
            match transfer.line_bytes {
                0 => "-".to_owned(),
                bytes => rate(bytes as f64),
            },
            format!("{:.1}", transfer.cpu_us),
        ]);
    }
    table
}

fn memory_table(report: &Report) -> Table {
    let head = ["RSS in MB", "before", "highest", "after", "anonymous after"];
    let mut table = Table::new("Memory of the serving node", &head);
    for transfer in &report.transfers {
        let numbers = [
            transfer.memory_before.rss,
            transfer.memory_peak.rss,
            transfer.memory_after.rss,
            transfer.memory_after.anonymous,
        ];
        let numbers = numbers.map(|bytes| format!("{:.1}", bytes as f64 / 1e6));
        let kind = transfer.kind.to_string();
        table.add(std::iter::once(kind).chain(numbers).collect());
    }
    table
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::engine::Latency;

    fn memory(rss: u64) -> MemoryUsage {
        MemoryUsage {
            rss,
            ..MemoryUsage::default()
        }
    }

    fn transfer(kind: TransferKind, seconds: f64, peak: u64) -> Transfer {
        Transfer {
            kind,
            keys: 1000,
            line_bytes: 0,
            seconds,
            cpu_us: 1.0,
            memory_before: memory(50_000_000),
            memory_peak: memory(peak),
            memory_after: memory(peak),
        }
    }

    fn users(during: &'static str, p99: f64) -> UserLatency {
        let latency = Latency {
            p99,
            ..Latency::default()
        };
        UserLatency {
            during,
            repetitions: 1,
            get: latency,
            put: latency,
            errors: 0,
        }
    }

    #[test]
    fn transfers_are_compared_with_single_writes_and_users_with_before() {
        let report = Report {
            machine: Machine::read(),
            nodes: 1,
            keys: 1000,
            value_bytes: 100,
            users_rate: 1.0,
            transfers: vec![
                transfer(TransferKind::LoadKeys, 4.0, 900_000_000),
                transfer(TransferKind::Export, 2.0, 60_000_000),
                transfer(TransferKind::Import, 8.0, 450_000_000),
            ],
            users: vec![users("nothing else", 100.0), users("exports", 600.0)],
            checks: Vec::new(),
        };
        let checks = checks(&report);
        let values: Vec<_> = checks.iter().map(|check| check.value).collect();
        let expected = [2.0, 10.0, 0.5, 400.0, 6.0, 6.0].map(Some);
        assert_eq!(values, expected);
        let verdicts: Vec<_> = checks.iter().map(Check::passes).collect();
        let expected = [true, true, false, false, false, false].map(Some);
        assert_eq!(verdicts, expected);
        assert!(markdown(&report).contains("| exports "));
    }
}
