//! Results of a run, ratios of the two builds, and the report as Markdown.

use crate::engine::LoadResult;
use crate::procfs::{Machine, MemoryUsage};
use crate::report::{Check, Table, Target, median, render};
use crate::rounds::Measurement;
use crate::workload::Operation;
use serde::Serialize;
use std::fmt;

/// Bounds of this build's numbers, as ratios to the older build's: what is less can't be told from
/// chance on a small machine.
const MIN_RATE_RATIO: f64 = 0.97;
const MAX_CPU_RATIO: f64 = 1.03;

/// One of the two builds.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize)]
#[serde(rename_all = "snake_case")]
pub(super) enum Build {
    /// That of `--old-binary`.
    Old,
    /// That of this program.
    New,
}

impl fmt::Display for Build {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(match self {
            Self::Old => "old",
            Self::New => "new",
        })
    }
}

/// An operation over a number of connections.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize)]
pub(super) struct Load {
    /// Number of connections.
    pub connections: usize,
    /// Operation.
    pub operation: Operation,
}

impl fmt::Display for Load {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (method, connections) = (self.operation.method(), self.connections);
        write!(f, "{method} {connections} conn.")
    }
}

/// One measurement of a build under one load.
#[derive(Debug, Clone, Serialize)]
pub(super) struct Cell {
    /// Measured build.
    pub build: Build,
    /// Its load.
    pub load: Load,
    /// Round, from 0 on.
    pub round: usize,
    /// Result.
    pub outcome: LoadResult,
}

impl Measurement for Cell {
    type Key = (Build, Load);

    fn key(&self) -> Self::Key {
        (self.build, self.load)
    }

    fn outcome(&self) -> &LoadResult {
        &self.outcome
    }
}

/// Memory of all nodes together at the end of a round.
#[derive(Debug, Clone, Serialize)]
pub(super) struct RegionMemory {
    /// Build of the nodes.
    pub build: Build,
    /// Round, from 0 on.
    pub round: usize,
    /// Sums over the nodes.
    pub memory: MemoryUsage,
}

/// All results, as written to the JSON file.
#[derive(Debug, Serialize)]
pub(super) struct Report {
    /// Machine of the run.
    pub machine: Machine,
    /// Bytes of a value.
    pub value_bytes: usize,
    /// Seconds of each measurement.
    pub seconds: f64,
    /// Number of rounds.
    pub rounds: usize,
    /// Measurements, in their order.
    pub cells: Vec<Cell>,
    /// Memory at the end of each round.
    pub memory: Vec<RegionMemory>,
    /// Targets and whether they were met.
    pub checks: Vec<Check>,
}

/// A measured number.
type Number = fn(&LoadResult) -> f64;

const RATE: Number = |outcome| outcome.per_second;
const CPU_TIME: Number = |outcome| outcome.server_cpu_us;

/// Numbers of the report, with their digits after the point.
const NUMBERS: [(&str, Number, usize); 4] = [
    ("per second", RATE, 0),
    ("CPU µs", CPU_TIME, 1),
    ("p50 ms", |outcome| outcome.latency_us.p50 / 1000.0, 3),
    ("p99 ms", |outcome| outcome.latency_us.p99 / 1000.0, 3),
];

/// A number of both builds, measured in several rounds.
#[derive(Debug, Default)]
struct Comparison {
    old: Vec<f64>,
    new: Vec<f64>,
    /// New to old, one for each round that has both.
    ratios: Vec<f64>,
}

impl Comparison {
    /// Collects the numbers of all rounds.
    fn collect(rounds: usize, number: impl Fn(Build, usize) -> Option<f64>) -> Self {
        let mut comparison = Self::default();
        for round in 0..rounds {
            let (old, new) = (number(Build::Old, round), number(Build::New, round));
            comparison.old.extend(old);
            comparison.new.extend(new);
            let ratio = old.zip(new).map(|(old, new)| new / old);
            comparison.ratios.extend(ratio.filter(|it| it.is_finite()));
        }
        comparison
    }

    /// Compares a number under one load.
    fn of_load(report: &Report, load: Load, number: Number) -> Self {
        Self::collect(report.rounds, |build, round| {
            let mut cells = report.cells.iter();
            let cell = cells.find(|cell| cell.round == round && cell.key() == (build, load))?;
            Some(number(&cell.outcome))
        })
    }

    /// Compares the memory of the nodes.
    fn of_memory(report: &Report, bytes: impl Fn(&MemoryUsage) -> u64) -> Self {
        Self::collect(report.rounds, |build, round| {
            let mut all = report.memory.iter();
            let found = all.find(|of| of.round == round && of.build == build)?;
            Some(bytes(&found.memory) as f64 / 1e6)
        })
    }

    /// Returns the median of the ratios.
    fn ratio(&self) -> Option<f64> {
        (!self.ratios.is_empty()).then(|| median(&mut self.ratios.clone()))
    }

    /// Formats both medians, that of the ratios, and the ratios' spread.
    fn columns(&self, digits: usize) -> [String; 4] {
        let median_of = |numbers: &[f64]| median(&mut numbers.to_vec());
        let bound = |pick: fn(f64, f64) -> f64| self.ratios.iter().copied().reduce(pick);
        let spread = bound(f64::min).zip(bound(f64::max));
        [
            format!("{:.digits$}", median_of(&self.old)),
            format!("{:.digits$}", median_of(&self.new)),
            self.ratio()
                .map_or("-".to_owned(), |ratio| format!("{ratio:.3}")),
            spread.map_or("-".to_owned(), |(least, most)| {
                format!("{least:.3} to {most:.3}")
            }),
        ]
    }
}

impl Report {
    /// Returns the loads of the run, ordered.
    fn loads(&self) -> Vec<Load> {
        let mut loads: Vec<Load> = self.cells.iter().map(|cell| cell.load).collect();
        loads.sort_unstable();
        loads.dedup();
        loads
    }
}

/// Checks that this build needs no more time than the older one.
pub(super) fn checks(report: &Report) -> Vec<Check> {
    let mut checks = Vec::new();
    for load in report.loads() {
        let ratio = |number| Comparison::of_load(report, load, number).ratio();
        let mut add = |what: &str, ratio, target| {
            checks.push(Check::new(format!("{load}: {what}"), ratio, "x", target));
        };
        add(
            "throughput, new / old",
            ratio(RATE),
            Target::AtLeast(MIN_RATE_RATIO),
        );
        add(
            "processor time, new / old",
            ratio(CPU_TIME),
            Target::AtMost(MAX_CPU_RATIO),
        );
    }
    checks
}

/// Renders all results as Markdown.
pub(super) fn markdown(report: &Report) -> String {
    let Machine { cpu, cores, .. } = &report.machine;
    let mut text = format!(
        "## This build beside an older one\n\n{cpu}, {cores} cores; regions of three nodes; {} B a \
         value; connections spread over all nodes.\n{} rounds of both builds, {} s a number. \
         Numbers are medians of the rounds; ratios are taken within each round.\nCPU: user and \
         system time of all nodes for an operation.\n\n",
        report.value_bytes, report.rounds, report.seconds
    );
    let tables = [
        load_table(report),
        memory_table(report),
        Table::of_checks(&report.checks),
    ];
    text.push_str(&render(&tables, &[]));
    text
}

fn load_table(report: &Report) -> Table {
    let head = ["load", "number", "old", "new", "new / old", "rounds"];
    let mut table = Table::new("Throughput, processor time, latency", &head);
    for load in report.loads() {
        for (name, number, digits) in NUMBERS {
            let comparison = Comparison::of_load(report, load, number);
            let labels = [load.to_string(), name.to_owned()];
            table.add(
                labels
                    .into_iter()
                    .chain(comparison.columns(digits))
                    .collect(),
            );
        }
    }
    table
}

/// Selects one of the sizes of a memory usage, in bytes.
type BytesOf = fn(&MemoryUsage) -> u64;

fn memory_table(report: &Report) -> Table {
    let head = ["memory", "old MB", "new MB", "new / old", "rounds"];
    let mut table = Table::new("Memory of all nodes at the end", &head);
    let kinds: [(&str, BytesOf); 3] = [
        ("RSS", |memory| memory.rss),
        ("anonymous", |memory| memory.anonymous),
        ("peak", |memory| memory.peak),
    ];
    for (name, bytes) in kinds {
        let comparison = Comparison::of_memory(report, bytes);
        let columns = comparison.columns(1);
        table.add(std::iter::once(name.to_owned()).chain(columns).collect());
    }
    table
}

#[cfg(test)]
mod tests {
    use super::*;

    fn compare(old: &[Option<f64>], new: &[Option<f64>]) -> Comparison {
        Comparison::collect(old.len(), |build, round| match build {
            Build::Old => old[round],
            Build::New => new[round],
        })
    }

    #[test]
    fn ratios_are_taken_within_a_round() {
        // The machine was three times as fast in the last round.
        let old = [Some(100.0), Some(110.0), Some(300.0)];
        let new = [Some(90.0), Some(99.0), Some(330.0)];
        let comparison = compare(&old, &new);
        assert_eq!(comparison.ratio(), Some(0.9));
        assert_eq!(
            comparison.columns(0),
            ["110", "99", "0.900", "0.900 to 1.100"].map(str::to_owned)
        );
    }

    #[test]
    fn a_round_without_both_builds_has_no_ratio() {
        let comparison = compare(&[Some(100.0), Some(0.0)], &[None, Some(3.0)]);
        assert_eq!(comparison.ratio(), None);
        assert_eq!(comparison.columns(1)[2..], ["-", "-"].map(str::to_owned));
    }
}
