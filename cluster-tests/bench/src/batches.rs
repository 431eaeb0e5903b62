//! `batches`: measures the processor time of puts in batches next to that of single ones, in a
//! region of three nodes, with the same client, whose connections are spread over all three.
//!
//! Both take turns in the same region; each time they write the same keys, with random values of
//! letters, into a new bucket. A node has deferred work after its answers (followers apply what was
//! committed, RocksDB flushes), so its processor time is read only after a pause.

use crate::args::{RunArgs, parse_rounds};
use crate::engine::LoadResult;
use crate::load;
use crate::procfs::{Machine, cpu_seconds};
use crate::report::{self, Check, Table, Target, median};
use crate::rounds::{Measurement, failed_requests, median_of_rounds};
use crate::servers::create_bucket;
use crate::workload::{Dialect, Operation};
use crate::{http, process};
use anyhow::{Context, Result, ensure};
use cloudkv_test_harness::region::{Region, RegionOptions};
use serde::Serialize;
use std::fmt;
use std::net::SocketAddr;
use std::path::PathBuf;
use std::time::Duration;

const NODE_COUNT: usize = 3;
const VALUE_BYTES: usize = 100;
/// Digits of the keys' numbers, and with them the maximum number of keys.
const KEY_DIGITS: usize = 7;
/// Maximum processor time of puts in batches, compared with single ones.
const MAX_RATIO: f64 = 0.25;
/// Share of the puts that are sent, unmeasured, before the first round: one in so many.
const WARMUP_DIVISOR: u64 = 10;
/// Time after the last answer in which the nodes finish deferred work.
const SETTLE_TIME: Duration = Duration::from_secs(1);

/// Options of `batches`.
#[derive(Debug, clap::Args)]
pub(crate) struct Args {
    /// Number of puts in each measurement; a multiple of `--batch-size`.
    #[arg(long, default_value_t = 100_000)]
    pub puts: u64,
    /// Number of puts in a batch.
    #[arg(long, default_value_t = 100)]
    pub batch_size: usize,
    /// Number of times that each is measured.
    #[arg(long, default_value_t = 3, value_parser = parse_rounds)]
    pub rounds: usize,
    /// Number of connections.
    #[arg(long, default_value_t = 16)]
    pub connections: usize,
    /// Shards of the region.
    #[arg(long, default_value_t = 3)]
    pub shards: u32,
    /// Additional arguments of each node.
    #[arg(long = "node-arg", allow_hyphen_values = true)]
    pub node_args: Vec<String>,
    /// JSON file for the results; a Markdown table is written next to it.
    #[arg(long, default_value = "bench-batches.json")]
    pub out: PathBuf,
    #[command(flatten)]
    pub run: RunArgs,
}

impl Args {
    fn validate(&self) -> Result<()> {
        ensure!(
            (1..=1000).contains(&self.batch_size),
            "--batch-size: 1 to 1000"
        );
        let batch_size = self.batch_size as u64;
        ensure!(
            (batch_size..=10_u64.pow(KEY_DIGITS as u32)).contains(&self.puts)
                && self.puts.is_multiple_of(batch_size),
            "--puts: a multiple of {batch_size}, up to 10^{KEY_DIGITS}"
        );
        Ok(())
    }
}

/// Form in which puts are sent.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
enum Form {
    /// A PUT for each.
    Single,
    /// Several in a POST.
    Batches,
}

impl fmt::Display for Form {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(match self {
            Self::Single => "single puts",
            Self::Batches => "batches",
        })
    }
}

/// One measurement of puts in one form.
#[derive(Debug, Clone, Serialize)]
struct Cell {
    form: Form,
    round: usize,
    puts_per_second: f64,
    /// User and system time of all nodes, deferred work included, in milliseconds.
    cpu_ms_per_1000_puts: f64,
    /// The requests, each a put or a batch; processor time only until the last answer.
    outcome: LoadResult,
}

impl Measurement for Cell {
    type Key = Form;

    fn key(&self) -> Form {
        self.form
    }

    fn outcome(&self) -> &LoadResult {
        &self.outcome
    }
}

#[derive(Debug, Serialize)]
struct Report {
    machine: Machine,
    puts: u64,
    batch_size: usize,
    connections: usize,
    cells: Vec<Cell>,
    checks: Vec<Check>,
}

/// Measures, prints and writes the results.
pub(crate) fn run(args: &Args) -> Result<()> {
    args.validate()?;
    let report = process::block_on_until_signal(measure(args))?;
    report::publish(&args.out, &report, &markdown(&report))?;
    let failed = failed_requests(&report.cells);
    args.run.verify(failed, &report.checks)
}

async fn measure(args: &Args) -> Result<Report> {
    let machine = Machine::read();
    let dir = process::work_dir(&args.run.data_dir)?;
    let options = RegionOptions {
        nodes: NODE_COUNT,
        shards: args.shards,
        args: args.node_args.clone(),
        dir: Some(dir.path().join("region")),
        is_direct: true,
        ..RegionOptions::default()
    };
    let region = Region::start_with(options).await;
    let nodes = RegionUnderTest {
        clients: (0..NODE_COUNT)
            .map(|seat| region.seat(seat).http())
            .collect(),
        pids: region
            .nodes
            .iter()
            .filter_map(|member| member.pid())
            .collect(),
    };
    let batch_size = args.batch_size as u64;
    let warmup_puts = (args.puts / WARMUP_DIVISOR).next_multiple_of(batch_size);
    for form in [Form::Single, Form::Batches] {
        nodes.measure(args, form, warmup_puts, 0).await?;
    }
    let mut cells = Vec::new();
    for round in 0..args.rounds {
        let mut forms = [Form::Single, Form::Batches];
        // A later measurement meets a larger database, so the two forms take turns in being first.
        forms.rotate_left(round % 2);
        for form in forms {
            let cell = nodes.measure(args, form, args.puts, round).await?;
            let (rate, cpu) = (cell.puts_per_second, cell.cpu_ms_per_1000_puts);
            eprintln!("{form}: {rate:.0}/s, {cpu:.1} ms of processor time per 1,000");
            cells.push(cell);
        }
    }
    Ok(Report {
        machine,
        puts: args.puts,
        batch_size: args.batch_size,
        connections: args.connections,
        checks: checks(&cells),
        cells,
    })
}

/// Addresses and processes of the nodes.
struct RegionUnderTest {
    clients: Vec<SocketAddr>,
    pids: Vec<u32>,
}

impl RegionUnderTest {
    /// Puts values into a new bucket; fails unless each put is acknowledged.
    async fn measure(&self, args: &Args, form: Form, puts: u64, round: usize) -> Result<Cell> {
        let first = *self.clients.first().context("a node")?;
        let bucket = create_bucket(first).await?;
        let path = format!("/kv/{bucket}/check");
        http::expect_success(first, "PUT", &path, vec![b'v'; VALUE_BYTES]).await?;
        tokio::time::sleep(SETTLE_TIME).await;

        let load = self.load(args, form, &bucket, puts)?;
        let before = self.cpu_seconds()?;
        let outcome = process::fill(&load).await?;
        tokio::time::sleep(SETTLE_TIME).await;
        let cpu_seconds = self.cpu_seconds()? - before;

        // The last key shows that keys of batches are those of single puts.
        let path = format!("/kv/{bucket}/k{:0KEY_DIGITS$}", puts - 1);
        for client in &self.clients {
            let value = http::expect_success(*client, "GET", &path, Vec::new()).await?;
            let length = value.body().len();
            ensure!(length == VALUE_BYTES, "GET {path}: {length} bytes");
        }
        Ok(Cell {
            form,
            round,
            puts_per_second: puts as f64 / outcome.seconds,
            cpu_ms_per_1000_puts: cpu_seconds * 1e6 / puts as f64,
            outcome,
        })
    }

    fn load(&self, args: &Args, form: Form, bucket: &str, puts: u64) -> Result<load::Args> {
        let (addr, others) = self.clients.split_first().context("a node")?;
        let (dialect, path, requests) = match form {
            Form::Single => (Dialect::Paths, format!("/kv/{bucket}/"), puts),
            Form::Batches => {
                let batches = puts / args.batch_size as u64;
                (Dialect::Batches, format!("/kv/{bucket}"), batches)
            }
        };
        let mut load = load::Args::new(*addr, Operation::Put, &path);
        load.also = others.to_vec();
        load.dialect = dialect;
        load.digits = KEY_DIGITS;
        load.keys = requests;
        load.value_size = VALUE_BYTES;
        load.text = true;
        load.batch_size = args.batch_size;
        load.connections = args.connections;
        load.watch.clone_from(&self.pids);
        Ok(load)
    }

    /// User and system time of all nodes so far.
    fn cpu_seconds(&self) -> Result<f64> {
        self.pids.iter().map(|pid| cpu_seconds(*pid)).sum()
    }
}

fn median_cpu(cells: &[Cell], form: Form) -> Option<f64> {
    let same = cells.iter().filter(|cell| cell.form == form);
    let mut times: Vec<f64> = same.map(|cell| cell.cpu_ms_per_1000_puts).collect();
    (!times.is_empty()).then(|| median(&mut times))
}

fn checks(cells: &[Cell]) -> Vec<Check> {
    let cpu = |form| median_cpu(cells, form);
    let ratio = cpu(Form::Batches).and_then(|batches| Some(batches / cpu(Form::Single)?));
    let what = "processor time of puts: batches / single";
    vec![Check::new(what, ratio, "x", Target::AtMost(MAX_RATIO))]
}

fn markdown(report: &Report) -> String {
    let Machine { cpu, cores, .. } = &report.machine;
    let Report {
        puts,
        batch_size,
        connections,
        ..
    } = report;
    let mut text = format!(
        "## Puts in batches beside single ones\n\n{cpu}, {cores} cores; {NODE_COUNT} nodes; {puts} \
         puts of {VALUE_BYTES} B each time; {batch_size} in a batch;\n{connections} connections \
         spread over all nodes. CPU: user and system time of all nodes.\n\n"
    );
    let tables = [
        speed_table(&report.cells),
        round_table(&report.cells),
        Table::of_checks(&report.checks),
    ];
    text.push_str(&report::render(&tables, &[]));
    text
}

fn speed_table(cells: &[Cell]) -> Table {
    let head = ["puts", "per second", "p50 ms", "p99 ms", "CPU ms per 1,000"];
    let mut table = Table::new("Throughput, latency of a request, processor time", &head);
    for form in [Form::Single, Form::Batches] {
        let number =
            |of: fn(&LoadResult) -> f64| median_of_rounds(cells, form, of).unwrap_or_default();
        let same = cells.iter().filter(|cell| cell.form == form);
        let mut rates: Vec<f64> = same.map(|cell| cell.puts_per_second).collect();
        table.add(vec![
            form.to_string(),
            format!("{:.0}", median(&mut rates)),
            format!("{:.2}", number(|outcome| outcome.latency_us.p50) / 1000.0),
            format!("{:.2}", number(|outcome| outcome.latency_us.p99) / 1000.0),
            format!("{:.1}", median_cpu(cells, form).unwrap_or_default()),
        ]);
    }
    table
}

fn round_table(cells: &[Cell]) -> Table {
    let head = ["round", "single puts", "batches", "ratio"];
    let mut table = Table::new("CPU ms per 1,000 puts, by round", &head);
    let rounds = cells
        .iter()
        .map(|cell| cell.round + 1)
        .max()
        .unwrap_or_default();
    for round in 0..rounds {
        let cpu = |form| {
            let mut cells = cells.iter();
            let cell = cells.find(|cell| cell.round == round && cell.form == form);
            cell.map_or(f64::NAN, |cell| cell.cpu_ms_per_1000_puts)
        };
        let (single, batches) = (cpu(Form::Single), cpu(Form::Batches));
        table.add(vec![
            (round + 1).to_string(),
            format!("{single:.1}"),
            format!("{batches:.1}"),
            format!("{:.3}", batches / single),
        ]);
    }
    table
}
