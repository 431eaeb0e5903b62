//! `router`: measures a node directly, and behind our router, HAProxy and nginx, with the same
//! client.
//!
//! All of them run from start to end and take turns under load. Then, at half of the slowest
//! proxy's throughput, the latency that each adds to the node's own is measured.

use crate::args::{RunArgs, parse_rounds, parse_seconds, parse_threads};
use crate::engine::LoadResult;
use crate::procfs::{Machine, MemoryUsage};
use crate::report::{self, Check, Table, Target};
use crate::rounds::{Measurement, failed_requests, median_of_rounds};
use crate::servers::{Node, Proxy, ServerKind};
use crate::workload::Operation;
use crate::{load, process};
use anyhow::Result;
use serde::Serialize;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};

const VALUE_BYTES: usize = 100;
const INSTALL_COMMAND: &str = "apt-get install haproxy nginx-light";

/// Options of `router`.
#[derive(Debug, clap::Args)]
pub(crate) struct Args {
    /// Seconds of measurement for each number.
    #[arg(long, default_value_t = 4.0, value_parser = parse_seconds)]
    pub seconds: f64,
    /// Number of measurements of each.
    #[arg(long, default_value_t = 3, value_parser = parse_rounds)]
    pub rounds: usize,
    /// Number of connections.
    #[arg(long, default_value_t = 64)]
    pub connections: usize,
    /// Program of the node, a release build.
    #[arg(long, default_value = "target/release/cloudkv-node")]
    pub node_bin: PathBuf,
    /// Program of the router, a release build.
    #[arg(long, default_value = "target/release/cloudkv-router")]
    pub router_bin: PathBuf,
    /// JSON file for the results; a Markdown table is written next to it.
    #[arg(long, default_value = "bench-router.json")]
    pub out: PathBuf,
    #[command(flatten)]
    pub run: RunArgs,
    /// Threads of each proxy, instead of its own default.
    #[arg(long, value_parser = parse_threads)]
    pub threads: Option<usize>,
}

/// One measurement of a route under one load.
#[derive(Debug, Clone, Serialize)]
struct Cell {
    way: ServerKind,
    operation: Operation,
    /// Requests per second; `None`: as many as are answered.
    rate: Option<f64>,
    outcome: LoadResult,
}

impl Measurement for Cell {
    /// Route, operation, and whether the rate is limited.
    type Key = (ServerKind, Operation, bool);

    fn key(&self) -> Self::Key {
        (self.way, self.operation, self.rate.is_some())
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
    router_memory: MemoryUsage,
    notes: Vec<String>,
}

/// A route to the node: direct, or through a proxy.
struct Route {
    kind: ServerKind,
    addr: SocketAddr,
    pids: Vec<u32>,
}

/// Measures, prints and writes the results.
pub(crate) fn run(args: &Args) -> Result<()> {
    let report = process::block_on_until_signal(measure(args))?;
    report::publish(&args.out, &report, &markdown(&report, args))?;
    let failed = failed_requests(&report.cells);
    args.run.verify(failed, &report.checks)
}

async fn measure(args: &Args) -> Result<Report> {
    let machine = Machine::read();
    let dir = process::work_dir(&args.run.data_dir)?;
    let node = Node::start(&args.node_bin, &dir.path().join("node"), dir.path()).await?;
    let bucket = node.create_bucket().await?;
    let (proxies, notes) = proxies(args, &node, dir.path()).await?;
    let direct = Route {
        kind: ServerKind::Node,
        addr: node.http,
        pids: vec![node.child.pid()],
    };
    let proxied = proxies.iter().map(|proxy| Route {
        kind: proxy.kind,
        addr: proxy.addr,
        pids: [proxy.pids(), direct.pids.clone()].concat(),
    });
    let mut routes: Vec<Route> = proxied.collect();
    routes.insert(0, direct);

    process::fill(&load_args(args, &routes[0], Operation::Put, &bucket)).await?;

    let mut cells = Vec::new();
    measure_in_turns(args, &mut routes, &bucket, &mut cells, |_| None).await?;
    let rates = [Operation::Get, Operation::Put].map(|operation| half_rate(&cells, operation));
    let rate = |operation| match operation {
        Operation::Get => rates[0],
        Operation::Put => rates[1],
    };
    measure_in_turns(args, &mut routes, &bucket, &mut cells, rate).await?;
    let router = proxies
        .iter()
        .find(|proxy| proxy.kind == ServerKind::Router);
    let pid = router.and_then(|router| router.pids().first().copied());
    Ok(Report {
        machine,
        checks: checks(&cells),
        cells,
        router_memory: pid
            .map(MemoryUsage::of_process)
            .transpose()?
            .unwrap_or_default(),
        notes,
    })
}

async fn proxies(args: &Args, node: &Node, dir: &Path) -> Result<(Vec<Proxy>, Vec<String>)> {
    let mut proxies = vec![Proxy::router(&args.router_bin, node.rpc, dir, args.threads).await?];
    let others = [
        Proxy::haproxy(node.http, dir, args.threads).await?,
        Proxy::nginx(node.http, dir, args.threads).await?,
    ];
    let missing = others.iter().any(Option::is_none);
    proxies.extend(others.into_iter().flatten());
    let note = format!("A proxy that isn't installed was skipped; to install: {INSTALL_COMMAND}");
    Ok((proxies, missing.then_some(note).into_iter().collect()))
}

fn load_args(args: &Args, route: &Route, operation: Operation, bucket: &str) -> load::Args {
    let mut load = load::Args::new(route.addr, operation, &format!("/kv/{bucket}/"));
    load.value_size = VALUE_BYTES;
    load.connections = args.connections;
    load.seconds = args.seconds;
    load.watch.clone_from(&route.pids);
    load
}

async fn measure_in_turns(
    args: &Args,
    routes: &mut [Route],
    bucket: &str,
    cells: &mut Vec<Cell>,
    rate: impl Fn(Operation) -> Option<f64>,
) -> Result<()> {
    for _ in 0..args.rounds {
        for operation in [Operation::Get, Operation::Put] {
            for route in &*routes {
                let mut load = load_args(args, route, operation, bucket);
                load.rate = rate(operation);
                let outcome = process::run_load(&load).await?;
                print_outcome(route.kind, operation, &outcome);
                cells.push(Cell {
                    way: route.kind,
                    operation,
                    rate: load.rate,
                    outcome,
                });
            }
        }
        routes.rotate_left(1);
    }
    Ok(())
}

fn print_outcome(route: ServerKind, operation: Operation, outcome: &LoadResult) {
    let (method, rate) = (operation.method(), outcome.per_second);
    let (median, p99) = (outcome.latency_us.p50, outcome.latency_us.p99);
    eprintln!("{route}, {method}: {rate:.0}/s, p50 {median:.0} µs, p99 {p99:.0} µs");
}

const PROXIES: [ServerKind; 3] = [ServerKind::Router, ServerKind::Haproxy, ServerKind::Nginx];

/// Half of the slowest proxy's throughput.
fn half_rate(cells: &[Cell], operation: Operation) -> Option<f64> {
    let rate = |route| {
        median_of_rounds(cells, (route, operation, false), |outcome| {
            outcome.per_second
        })
    };
    PROXIES
        .into_iter()
        .filter_map(rate)
        .min_by(f64::total_cmp)
        .map(|slowest| (slowest / 2.0).round())
}

fn checks(cells: &[Cell]) -> Vec<Check> {
    let mut checks = Vec::new();
    for operation in [Operation::Get, Operation::Put] {
        for other in [ServerKind::Haproxy, ServerKind::Nginx] {
            let rate =
                |route| median_of_rounds(cells, (route, operation, false), |all| all.per_second);
            let ratio = rate(ServerKind::Router).and_then(|own| Some(own / rate(other)?));
            let what = format!("{}: throughput, router / {other}", operation.method());
            checks.push(Check::new(what, ratio, "x", Target::AtLeast(1.0)));
            for (name, number) in LATENCIES {
                let latency = |route| added_latency(cells, route, operation, number);
                let difference =
                    latency(ServerKind::Router).and_then(|own| Some(own - latency(other)?));
                let what = format!(
                    "{}: added {name} at half load, router - {other}",
                    operation.method()
                );
                checks.push(Check::new(what, difference, "µs", Target::AtMost(0.0)));
            }
        }
    }
    checks
}

type Metric = fn(&LoadResult) -> f64;

const LATENCIES: [(&str, Metric); 2] = [
    ("median", |outcome| outcome.latency_us.p50),
    ("p99", |outcome| outcome.latency_us.p99),
];

/// Latency that a route adds to the node's own at half load, in microseconds.
fn added_latency(
    cells: &[Cell],
    route: ServerKind,
    operation: Operation,
    number: Metric,
) -> Option<f64> {
    let latency = |route| median_of_rounds(cells, (route, operation, true), number);
    Some(latency(route)? - latency(ServerKind::Node)?)
}

fn markdown(report: &Report, args: &Args) -> String {
    let Machine { cpu, cores, .. } = &report.machine;
    let threads = match args.threads {
        Some(threads) => format!("{threads} threads"),
        None => "its default number of threads".to_owned(),
    };
    let mut text = format!(
        "## A router in front of a node\n\n{cpu}, {cores} cores, which client, proxy and node \
         share; {VALUE_BYTES} B a value, {} connections; each proxy has {threads}. The router \
         holds {:.0} MB.\n\n",
        args.connections,
        report.router_memory.rss as f64 / 1e6
    );
    let head = [
        "load",
        "route",
        "per second",
        "of direct",
        "CPU µs",
        "half load: p50 µs",
        "p99 µs",
    ];
    let mut table = Table::new("Throughput, and latency at half load", &head);
    for operation in [Operation::Get, Operation::Put] {
        for route in [ServerKind::Node].into_iter().chain(PROXIES) {
            let full =
                |number: Metric| median_of_rounds(&report.cells, (route, operation, false), number);
            let half =
                |number: Metric| median_of_rounds(&report.cells, (route, operation, true), number);
            let Some(rate) = full(|outcome| outcome.per_second) else {
                continue;
            };
            let direct = (ServerKind::Node, operation, false);
            let direct = median_of_rounds(&report.cells, direct, |outcome| outcome.per_second);
            let show = |number: Option<f64>| format!("{:.0}", number.unwrap_or_default());
            table.add(vec![
                operation.method().to_owned(),
                route.to_string(),
                format!("{rate:.0}"),
                format!("{:.2}", rate / direct.unwrap_or(rate)),
                show(full(|outcome| {
                    outcome.server_cpu_us + outcome.client_cpu_us
                })),
                show(half(|outcome| outcome.latency_us.p50)),
                show(half(|outcome| outcome.latency_us.p99)),
            ]);
        }
    }
    let tables = [table, Table::of_checks(&report.checks)];
    text.push_str(&report::render(&tables, &report.notes));
    text
}
