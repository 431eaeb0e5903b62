//! Results of a run, their targets, and the report as Markdown.

use crate::procfs::Machine;
use crate::report::{Check, Table, Target, render};
use crate::users::{UserLatency, latency_checks, latency_table};
use serde::Serialize;

/// A step that all keys pass through.
#[derive(Debug, Clone, Serialize)]
pub(super) struct Step {
    /// Name of the step.
    pub name: &'static str,
    /// Number of keys.
    pub keys: u64,
    /// Bytes of the backup's files; 0 where there are none.
    pub bytes: u64,
    /// Duration.
    pub seconds: f64,
}

/// All results, as written to the JSON file.
#[derive(Debug, Serialize)]
pub(super) struct Report {
    /// Machine of the run.
    pub machine: Machine,
    /// Number of keys.
    pub keys: u64,
    /// Bytes of a value.
    pub value_bytes: usize,
    /// Number of shards.
    pub shards: u32,
    /// Requests per second of other users, of reads and of writes.
    pub users_rate: f64,
    /// All steps.
    pub steps: Vec<Step>,
    /// Memory of the node that makes the backup beyond that before, in bytes.
    pub memory_growth: u64,
    /// Number of keys that are equal in both regions.
    pub compared_keys: u64,
    /// Latencies of other users, at first without anything else.
    pub users: Vec<UserLatency>,
    /// Targets and whether they were met.
    pub checks: Vec<Check>,
}

impl Report {
    /// Returns the number of failed requests of other users.
    pub(super) fn failed_requests(&self) -> u64 {
        self.users.iter().map(|users| users.errors).sum()
    }
}

/// Checks all targets: backups leave other users their latency but for what background work may
/// take, and need no memory that grows with the keys.
pub(super) fn checks(report: &Report) -> Vec<Check> {
    let growth = report.memory_growth as f64 / 1e6;
    let mut checks = vec![Check::new(
        "memory of the node that makes a backup, beyond before",
        Some(growth),
        "MB",
        Target::AtMost(128.0),
    )];
    checks.extend(latency_checks(&report.users));
    checks
}

/// Renders all results as Markdown.
pub(super) fn markdown(report: &Report) -> String {
    let Machine { cpu, cores, .. } = &report.machine;
    let mut text = format!(
        "## A backup and its restore\n\n{cpu}, {cores} cores; 3 nodes, {} shards; {} keys, {} B a \
         value. Other users: {:.0} reads and {:.0} writes per second.\n\n",
        report.shards, report.keys, report.value_bytes, report.users_rate, report.users_rate
    );
    let tables = [
        step_table(report),
        latency_table(&report.users),
        Table::of_checks(&report.checks),
    ];
    let compared = format!(
        "{} keys of the restored region were compared with the first one's, and are equal.",
        report.compared_keys
    );
    text.push_str(&render(&tables, &[compared]));
    text
}

fn step_table(report: &Report) -> Table {
    let head = ["step", "seconds", "keys/s", "values MB/s", "files MB"];
    let mut table = Table::new("Rates", &head);
    for step in &report.steps {
        let value_bytes = step.keys as f64 * report.value_bytes as f64;
        table.add(vec![
            step.name.to_owned(),
            format!("{:.1}", step.seconds),
            format!("{:.0}", step.keys as f64 / step.seconds),
            format!("{:.1}", value_bytes / 1e6 / step.seconds),
            match step.bytes {
                0 => "-".to_owned(),
                bytes => format!("{:.1}", bytes as f64 / 1e6),
            },
        ]);
    }
    table
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::engine::Latency;

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
            errors: 1,
        }
    }

    #[test]
    fn users_are_compared_with_before_and_memory_is_bounded() {
        let report = Report {
            machine: Machine::read(),
            keys: 1000,
            value_bytes: 100,
            shards: 8,
            users_rate: 1.0,
            steps: vec![Step {
                name: "backup",
                keys: 1000,
                bytes: 2_000_000,
                seconds: 2.0,
            }],
            memory_growth: 200_000_000,
            compared_keys: 1000,
            users: vec![users("nothing else", 100.0), users("backups", 300.0)],
            checks: Vec::new(),
        };
        let checks = checks(&report);
        let values: Vec<_> = checks.iter().map(|check| check.value).collect();
        assert_eq!(values, [200.0, 3.0, 3.0].map(Some));
        assert_eq!(checks[0].passes(), Some(false));
        assert_eq!(report.failed_requests(), 2);
        assert!(markdown(&report).contains("| backup |"));
    }
}
