//! Cells of the table, and the order of their measurement.

use super::plan::Plan;
use super::testbed::Testbed;
use crate::engine::LoadResult;
use crate::process::run_load;
use crate::rounds::{Measurement, failed_requests, median_of_rounds};
use crate::servers::{Endpoint, ServerKind};
use crate::workload::Operation;
use anyhow::Result;
use serde::Serialize;

/// Number of measurements of the cells that decide a ratio.
const ROUNDS: usize = 3;

/// One measurement of a server under one load.
#[derive(Debug, Clone, Serialize)]
pub(super) struct Cell {
    /// Measured server.
    pub server: ServerKind,
    /// Load of the server.
    #[serde(flatten)]
    pub load: Load,
    /// Number of the repetition.
    pub round: usize,
    /// Result of the measurement.
    pub outcome: LoadResult,
}

impl Measurement for Cell {
    type Key = (ServerKind, Load);

    fn key(&self) -> Self::Key {
        (self.server, self.load)
    }

    fn outcome(&self) -> &LoadResult {
        &self.outcome
    }
}

/// Load of a server.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize)]
pub(super) struct Load {
    /// GET or PUT.
    pub operation: Operation,
    /// Bytes of a value.
    pub value_size: usize,
    /// Number of connections.
    pub connections: usize,
}

impl Load {
    /// Loads with 64 connections, and single PUTs, decide ratios.
    fn is_repeated(self) -> bool {
        self.connections == 64
            || (self.connections == 1 && self.operation == Operation::Put && self.value_size == 100)
    }
}

/// All measured cells.
#[derive(Debug, Default)]
pub(super) struct Cells(Vec<Cell>);

impl Cells {
    /// Measures all cells.
    pub(super) async fn measure(plan: &Plan, stage: &mut Testbed) -> Result<Self> {
        let mut cells = Self::default();
        let schedule = schedule(plan);
        for (turn, (round, load)) in schedule.iter().enumerate() {
            let mut servers = stage.endpoints.clone();
            let first = turn % servers.len();
            servers.rotate_left(first);
            for server in &servers {
                stage.wait_idle().await?;
                if let Some(outcome) = measure_cell(plan, server, *load).await? {
                    let cell = Cell {
                        server: server.kind,
                        load: *load,
                        round: *round,
                        outcome,
                    };
                    print_cell(&cell, (turn + 1, schedule.len()));
                    cells.0.push(cell);
                }
            }
        }
        Ok(cells)
    }

    /// Returns the measured loads, in the order of the table.
    pub(super) fn loads(&self) -> Vec<Load> {
        let mut loads: Vec<_> = self.0.iter().map(|cell| cell.load).collect();
        loads.sort_unstable();
        loads.dedup();
        loads
    }

    /// Median over rounds of one number of a server under a load.
    pub(super) fn median(
        &self,
        server: ServerKind,
        load: Load,
        number: impl Fn(&LoadResult) -> f64,
    ) -> Option<f64> {
        median_of_rounds(&self.0, (server, load), number)
    }

    /// Number of failed requests of a server under a load, in all rounds.
    pub(super) fn sum_of_errors(&self, server: ServerKind, load: Load) -> u64 {
        let same = self
            .0
            .iter()
            .filter(|cell| cell.server == server && cell.load == load);
        same.map(|cell| cell.outcome.errors.total()).sum()
    }

    /// Number of failed requests of all cells.
    pub(super) fn errors(&self) -> u64 {
        failed_requests(&self.0)
    }

    /// Returns the cells in the order of their measurement.
    pub(super) fn into_inner(self) -> Vec<Cell> {
        self.0
    }
}

impl From<&[Cell]> for Cells {
    fn from(cells: &[Cell]) -> Self {
        Self(cells.to_vec())
    }
}

/// Orders the rounds one after the other, so that repetitions of one cell are minutes apart.
fn schedule(plan: &Plan) -> Vec<(usize, Load)> {
    let mut schedule = Vec::new();
    for round in 0..ROUNDS {
        for &connections in &plan.connections {
            for &value_size in &plan.value_sizes {
                for operation in [Operation::Get, Operation::Put] {
                    let load = Load {
                        operation,
                        value_size,
                        connections,
                    };
                    if round == 0 || load.is_repeated() {
                        schedule.push((round, load));
                    }
                }
            }
        }
    }
    schedule
}

async fn measure_cell(plan: &Plan, server: &Endpoint, load: Load) -> Result<Option<LoadResult>> {
    let Some(mut args) = server.load(load.operation, load.value_size) else {
        return Ok(None);
    };
    args.connections = load.connections;
    args.seconds = plan.seconds;
    args.warmup = plan.warmup;
    args.threads = plan.threads.min(load.connections);
    run_load(&args).await.map(Some)
}

fn print_cell(cell: &Cell, (turn, turns): (usize, usize)) {
    let Cell {
        server,
        load,
        outcome,
        ..
    } = cell;
    let (method, size, connections) = (load.operation.method(), load.value_size, load.connections);
    let rate = outcome.per_second;
    eprintln!(
        "[{turn}/{turns}] {method} {size} B, {connections} connections, {server}: {rate:.0}/s"
    );
    outcome.errors.print();
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::servers::Tuning;

    #[test]
    fn deciding_cells_are_repeated() {
        let plan = Plan {
            connections: vec![1, 16, 64, 256],
            value_sizes: vec![100, 4096],
            seconds: 1.0,
            warmup: 1.0,
            threads: 1,
            webdis: Tuning::Best,
        };
        let schedule = schedule(&plan);
        let count = |load| schedule.iter().filter(|(_, other)| *other == load).count();
        let load = |operation, value_size, connections| Load {
            operation,
            value_size,
            connections,
        };
        assert_eq!(count(load(Operation::Get, 100, 64)), ROUNDS);
        assert_eq!(count(load(Operation::Put, 4096, 64)), ROUNDS);
        assert_eq!(count(load(Operation::Put, 100, 1)), ROUNDS);
        assert_eq!(count(load(Operation::Get, 100, 1)), 1);
        assert_eq!(schedule.len(), 16 + 2 * 5);
    }
}
