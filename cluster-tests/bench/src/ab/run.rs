//! Measures, and publishes the results.

use super::args::Args;
use super::report::{self, Build, Cell, Load, RegionMemory, Report};
use crate::procfs::{Machine, MemoryUsage};
use crate::report::publish;
use crate::rounds::failed_requests;
use crate::servers::create_bucket;
use crate::workload::Operation;
use crate::{http, load, process};
use anyhow::{Context, Result};
use cloudkv_test_harness::region::{Region, RegionOptions};
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::time::Duration;

const NODE_COUNT: usize = 3;
const VALUE_BYTES: usize = 100;
/// Time after a load in which the nodes finish deferred work.
const SETTLE_TIME: Duration = Duration::from_secs(1);

/// Measures, prints and writes the results.
pub(crate) fn run(args: &Args) -> Result<()> {
    args.validate()?;
    let old = args.old_binary()?;
    let mut report = process::block_on_until_signal(measure(args, &old))?;
    report.checks = report::checks(&report);
    publish(&args.out, &report, &report::markdown(&report))?;
    args.run
        .verify(failed_requests(&report.cells), &report.checks)
}

async fn measure(args: &Args, old: &Path) -> Result<Report> {
    let machine = Machine::read();
    let (mut cells, mut memory) = (Vec::new(), Vec::new());
    for round in 0..args.rounds {
        for build in [Build::Old, Build::New] {
            let binary = (build == Build::Old).then(|| old.to_owned());
            memory.push(measure_build(args, (build, binary), round, &mut cells).await?);
        }
    }
    Ok(Report {
        machine,
        value_bytes: VALUE_BYTES,
        seconds: args.seconds,
        rounds: args.rounds,
        cells,
        memory,
        checks: Vec::new(),
    })
}

/// Starts a region of a build on a new directory and measures it under each load. Returns the
/// memory of its nodes at the end.
async fn measure_build(
    args: &Args,
    (build, binary): (Build, Option<PathBuf>),
    round: usize,
    cells: &mut Vec<Cell>,
) -> Result<RegionMemory> {
    let dir = process::work_dir(&args.run.data_dir)?;
    let mut node_args = args.node_args.clone();
    if build == Build::New {
        node_args.extend(args.new_node_args.iter().cloned());
    }
    let options = RegionOptions {
        nodes: NODE_COUNT,
        shards: args.shards,
        binary,
        args: node_args,
        dir: Some(dir.path().join("region")),
        is_direct: true,
        ..RegionOptions::default()
    };
    let region = Region::start_with(options).await;
    let nodes = RegionUnderTest::of(&region).await?;
    process::fill(&nodes.load(args, Operation::Put, 64)?).await?;
    for &connections in &args.connections {
        for operation in [Operation::Get, Operation::Put] {
            tokio::time::sleep(SETTLE_TIME).await;
            let load = nodes.load(args, operation, connections)?;
            let outcome = process::run_load(&load).await?;
            let load = Load {
                connections,
                operation,
            };
            let (rate, cpu) = (outcome.per_second, outcome.server_cpu_us);
            eprintln!("round {round}, {build}, {load}: {rate:.0}/s, {cpu:.1} µs of processor time");
            cells.push(Cell {
                build,
                load,
                round,
                outcome,
            });
        }
    }
    tokio::time::sleep(SETTLE_TIME).await;
    let memory = nodes.memory()?;
    Ok(RegionMemory {
        build,
        round,
        memory,
    })
}

/// Addresses and processes of the nodes, and the bucket of the load.
struct RegionUnderTest {
    clients: Vec<SocketAddr>,
    pids: Vec<u32>,
    bucket: String,
}

impl RegionUnderTest {
    /// Creates a bucket in a region that was started.
    async fn of(region: &Region) -> Result<Self> {
        let clients = region.http_addresses(0..NODE_COUNT);
        let first = *clients.first().context("a node")?;
        let bucket = create_bucket(first).await?;
        let path = format!("/kv/{bucket}/check");
        http::expect_success(first, "PUT", &path, vec![b'v'; VALUE_BYTES]).await?;
        let pids = region.nodes.iter().filter_map(|member| member.pid());
        Ok(Self {
            pids: pids.collect(),
            clients,
            bucket,
        })
    }

    fn load(&self, args: &Args, operation: Operation, connections: usize) -> Result<load::Args> {
        let (addr, others) = self.clients.split_first().context("a node")?;
        let mut load = load::Args::new(*addr, operation, &format!("/kv/{}/", self.bucket));
        load.also = others.to_vec();
        load.value_size = VALUE_BYTES;
        load.connections = connections;
        load.seconds = args.seconds;
        load.threads = args.threads.min(connections);
        load.watch.clone_from(&self.pids);
        Ok(load)
    }

    /// Memory of all nodes together.
    fn memory(&self) -> Result<MemoryUsage> {
        let mut total = MemoryUsage::default();
        for pid in &self.pids {
            let memory = MemoryUsage::of_process(*pid)?;
            total.rss += memory.rss;
            total.peak += memory.peak;
            total.anonymous += memory.anonymous;
        }
        Ok(total)
    }
}
