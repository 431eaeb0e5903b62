//! `region`: measures three nodes next to three of etcd, on the same disk and processors, with the
//! same client, whose connections are spread over all three.
//!
//! Only one of the two systems runs at a time: the other one would take processor time even when
//! idle. They take turns.

use crate::args::{RunArgs, parse_rounds, parse_seconds};
use crate::engine::LoadResult;
use crate::load;
use crate::procfs::Machine;
use crate::report::{self, Check, Table, Target};
use crate::rounds::{Measurement, failed_requests, median_of_rounds};
use crate::servers::{Etcd, ServerKind, create_bucket};
use crate::workload::{Dialect, Operation};
use crate::{http, process};
use anyhow::{Context, Result};
use cloudkv_test_harness::region::{Region, RegionOptions};
use serde::Serialize;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};

const NODE_COUNT: usize = 3;
const VALUE_BYTES: usize = 100;
const INSTALL_COMMAND: &str = "apt-get install etcd-server";

/// Options of `region`.
#[derive(Debug, clap::Args)]
pub(crate) struct Args {
    /// Seconds of measurement for each number.
    #[arg(long, default_value_t = 4.0, value_parser = parse_seconds)]
    pub seconds: f64,
    /// Number of times that each is started and measured.
    #[arg(long, default_value_t = 2, value_parser = parse_rounds)]
    pub rounds: usize,
    /// Numbers of connections.
    #[arg(long, value_delimiter = ',', default_value = "1,16,64,256")]
    pub connections: Vec<usize>,
    /// Shards of the region.
    #[arg(long, default_value_t = 3)]
    pub shards: u32,
    /// Client threads.
    #[arg(long, default_value_t = 1)]
    pub threads: usize,
    /// Additional arguments of each node.
    #[arg(long = "node-arg", allow_hyphen_values = true)]
    pub node_args: Vec<String>,
    /// Also measure the nodes with TLS between them.
    #[arg(long)]
    pub tls: bool,
    /// Measure only the nodes.
    #[arg(long)]
    pub skip_etcd: bool,
    /// JSON file for the results; a Markdown table is written next to it.
    #[arg(long, default_value = "bench-region.json")]
    pub out: PathBuf,
    #[command(flatten)]
    pub run: RunArgs,
}

/// One measurement of a system under one load.
#[derive(Debug, Clone, Serialize)]
struct Cell {
    server: ServerKind,
    operation: Operation,
    connections: usize,
    round: usize,
    outcome: LoadResult,
}

impl Measurement for Cell {
    type Key = (ServerKind, Operation, usize);

    fn key(&self) -> Self::Key {
        (self.server, self.operation, self.connections)
    }

    fn outcome(&self) -> &LoadResult {
        &self.outcome
    }
}

#[derive(Debug, Serialize)]
struct Report {
    machine: Machine,
    cells: Vec<Cell>,
    checks: Vec<Check>,
    notes: Vec<String>,
}

/// A system under load.
struct SystemUnderTest {
    kind: ServerKind,
    clients: Vec<SocketAddr>,
    pids: Vec<u32>,
    path: String,
    dialect: Dialect,
}

impl SystemUnderTest {
    fn load(&self, args: &Args, operation: Operation, connections: usize) -> load::Args {
        let mut load = load::Args::new(self.clients[0], operation, &self.path);
        load.also = self.clients[1..].to_vec();
        load.dialect = self.dialect;
        load.value_size = VALUE_BYTES;
        load.connections = connections;
        load.seconds = args.seconds;
        load.threads = args.threads.min(connections);
        load.watch.clone_from(&self.pids);
        load
    }

    async fn measure(&self, args: &Args, round: usize, cells: &mut Vec<Cell>) -> Result<()> {
        process::fill(&self.load(args, Operation::Put, 64)).await?;
        for &connections in &args.connections {
            for operation in [Operation::Get, Operation::Put] {
                let load = self.load(args, operation, connections);
                let outcome = process::run_load(&load).await?;
                let (method, rate) = (operation.method(), outcome.per_second);
                eprintln!(
                    "{}, {method}, {connections} connections: {rate:.0}/s",
                    self.kind
                );
                cells.push(Cell {
                    server: self.kind,
                    operation,
                    connections,
                    round,
                    outcome,
                });
            }
        }
        Ok(())
    }
}

/// Measures, prints and writes the results.
pub(crate) fn run(args: &Args) -> Result<()> {
    let report = process::block_on_until_signal(measure(args))?;
    report::publish(&args.out, &report, &markdown(&report))?;
    let failed = failed_requests(&report.cells);
    args.run.verify(failed, &report.checks)
}

async fn measure(args: &Args) -> Result<Report> {
    let machine = Machine::read();
    let (mut cells, mut notes) = (Vec::new(), Vec::new());
    for round in 0..args.rounds {
        let dir = process::work_dir(&args.run.data_dir)?;
        measure_nodes(args, ServerKind::Region, round, dir.path(), &mut cells).await?;
        if args.tls {
            measure_nodes(args, ServerKind::RegionTls, round, dir.path(), &mut cells).await?;
        }
        if !args.skip_etcd && !measure_etcd(args, round, dir.path(), &mut cells).await? {
            notes.push(format!("etcd was skipped; to install: {INSTALL_COMMAND}"));
            break;
        }
    }
    let checks = checks(&cells);
    Ok(Report {
        machine,
        cells,
        checks,
        notes,
    })
}

async fn measure_nodes(
    args: &Args,
    kind: ServerKind,
    round: usize,
    dir: &Path,
    cells: &mut Vec<Cell>,
) -> Result<()> {
    let options = RegionOptions {
        nodes: NODE_COUNT,
        shards: args.shards,
        args: args.node_args.clone(),
        dir: Some(dir.join(format!("{kind:?}"))),
        tls: kind == ServerKind::RegionTls,
        is_direct: true,
        ..RegionOptions::default()
    };
    let region = Region::start_with(options).await;
    let clients: Vec<_> = (0..NODE_COUNT)
        .map(|seat| region.seat(seat).http())
        .collect();
    let first = *clients.first().context("a node")?;
    let bucket = create_bucket(first).await?;
    let pids = region.nodes.iter().filter_map(|member| member.pid());
    let service = SystemUnderTest {
        kind,
        pids: pids.collect(),
        path: format!("/kv/{bucket}/"),
        clients,
        dialect: Dialect::Paths,
    };
    let path = format!("{}check", service.path);
    http::expect_success(first, "PUT", &path, vec![b'v'; VALUE_BYTES]).await?;
    service.measure(args, round, cells).await
}

/// Returns whether etcd is installed.
async fn measure_etcd(
    args: &Args,
    round: usize,
    dir: &Path,
    cells: &mut Vec<Cell>,
) -> Result<bool> {
    let Some(etcd) = Etcd::start(dir).await? else {
        return Ok(false);
    };
    let service = SystemUnderTest {
        kind: ServerKind::Etcd,
        clients: etcd.clients.clone(),
        pids: etcd.pids(),
        path: String::new(),
        dialect: Dialect::Etcd,
    };
    service.measure(args, round, cells).await?;
    Ok(true)
}

fn checks(cells: &[Cell]) -> Vec<Check> {
    let against = |operation, connections, minimum| {
        let rate = |server| {
            let load = (server, operation, connections);
            median_of_rounds(cells, load, |outcome| outcome.per_second)
        };
        let ratio = rate(ServerKind::Region).and_then(|own| Some(own / rate(ServerKind::Etcd)?));
        let what = format!(
            "{}, {connections} connections: region of 3 / etcd of 3",
            operation.method()
        );
        Check::new(what, ratio, "x", Target::AtLeast(minimum))
    };
    vec![
        against(Operation::Put, 64, 5.0),
        against(Operation::Put, 256, 5.0),
        against(Operation::Get, 64, 8.0),
        against(Operation::Get, 256, 8.0),
    ]
}

fn markdown(report: &Report) -> String {
    let Machine { cpu, cores, .. } = &report.machine;
    let mut text = format!(
        "## A region of three nodes beside etcd\n\n{cpu}, {cores} cores; {VALUE_BYTES} B a value; \
         connections spread over all three.\n\n"
    );
    let head = ["load", "server", "per second", "p50 ms", "p99 ms", "CPU µs"];
    let mut table = Table::new("Throughput and latency", &head);
    let mut loads: Vec<_> = report
        .cells
        .iter()
        .map(|cell| (cell.connections, cell.operation, cell.server))
        .collect();
    loads.sort_unstable();
    loads.dedup();
    for (connections, operation, server) in loads {
        let number = |of: fn(&LoadResult) -> f64| {
            median_of_rounds(&report.cells, (server, operation, connections), of)
                .unwrap_or_default()
        };
        table.add(vec![
            format!("{} {connections} conn.", operation.method()),
            server.to_string(),
            format!("{:.0}", number(|outcome| outcome.per_second)),
            format!("{:.2}", number(|outcome| outcome.latency_us.p50) / 1000.0),
            format!("{:.2}", number(|outcome| outcome.latency_us.p99) / 1000.0),
            format!(
                "{:.1}",
                number(|outcome| outcome.server_cpu_us + outcome.client_cpu_us)
            ),
        ]);
    }
    let tables = [table, Table::of_checks(&report.checks)];
    text.push_str(&report::render(&tables, &report.notes));
    text
}
