//! Measures, and publishes the results.

use super::args::Args;
use super::report::{self, Report, Transfer, TransferKind};
use crate::load_keys;
use crate::peak_memory::peak_during;
use crate::process;
use crate::procfs::{Machine, MemoryUsage, cpu_seconds};
use crate::report::publish;
use crate::servers::{OwnedBucket, create_owned_bucket};
use crate::transfer::{Exported, export, import};
use crate::users::{UserLatency, UserRequests, Users};
use anyhow::{Context, Result, ensure};
use cloudkv_test_harness::region::{Region, RegionOptions};
use std::fs::File;
use std::io::{self, BufWriter, Write};
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};
use tokio::time::sleep;

/// Time after a transfer in which the nodes finish deferred work.
const SETTLE_TIME: Duration = Duration::from_secs(5);

/// Measures, prints and writes the results.
pub(crate) fn run(args: &Args) -> Result<()> {
    args.validate()?;
    let mut report = process::block_on_until_signal(measure(args))?;
    report.checks = report::checks(&report);
    publish(&args.out, &report, &report::markdown(&report))?;
    args.run.verify(report.failed_requests(), &report.checks)
}

async fn measure(args: &Args) -> Result<Report> {
    let machine = Machine::read();
    let dir = process::work_dir(&args.run.data_dir)?;
    let region = start_region(args, dir.path()).await;
    let nodes = RegionUnderTest::of(&region)?;
    let requests = UserRequests {
        rate: args.users_rate,
        seconds: args.seconds,
    };
    let users = Users::start(requests, &nodes.addrs).await?;
    sleep(SETTLE_TIME).await;
    let mut latencies = vec![users.measure_alone().await?];

    let source = create_owned_bucket(nodes.serving()).await?;
    let loading = load_keys(args, &nodes, &source);
    let mut transfers = vec![nodes.measure(TransferKind::LoadKeys, loading).await?];

    let file = dir.path().join("exported.ndjson");
    let mut exported = None;
    let exporting = async {
        let (amount, lines) = export_to_file(&nodes, &source, &file).await?;
        exported = Some(lines);
        Ok::<_, anyhow::Error>(amount)
    };
    transfers.push(nodes.measure(TransferKind::Export, exporting).await?);
    let exported = exported.context("an export")?;
    ensure_same_number(args, "exported", exported.keys)?;

    let target = create_owned_bucket(nodes.serving()).await?;
    let importing = import_from_file(&nodes, &target, (&file, exported));
    transfers.push(nodes.measure(TransferKind::Import, importing).await?);
    let again = export(nodes.serving(), &target, &mut io::sink()).await?;
    ensure_same_number(args, "exported after the import", again.keys)?;

    latencies.extend(measure_users(&users, &nodes, &target, (&file, exported)).await?);
    Ok(Report {
        machine,
        nodes: args.nodes,
        keys: args.keys,
        value_bytes: args.value_size,
        users_rate: args.users_rate,
        transfers,
        users: latencies,
        checks: Vec::new(),
    })
}

async fn start_region(args: &Args, dir: &Path) -> Region {
    let options = RegionOptions {
        nodes: args.nodes,
        seats: args.nodes,
        shards: args.shards,
        args: args.node_args.clone(),
        dir: Some(dir.join("region")),
        is_direct: true,
        ..RegionOptions::default()
    };
    Region::start_with(options).await
}

fn ensure_same_number(args: &Args, what: &str, keys: u64) -> Result<()> {
    let expected = args.keys;
    ensure!(
        keys == expected,
        "{keys} keys were {what}, and not {expected}"
    );
    Ok(())
}

/// Measures the latency of other users during exports of a bucket, and during imports into it.
async fn measure_users(
    users: &Users,
    nodes: &RegionUnderTest,
    bucket: &OwnedBucket,
    lines: (&PathBuf, Exported),
) -> Result<[UserLatency; 2]> {
    sleep(SETTLE_TIME).await;
    let during_exports = users
        .measure_during("exports", async || {
            export(nodes.serving(), bucket, &mut io::sink()).await?;
            Ok(())
        })
        .await?;
    sleep(SETTLE_TIME).await;
    let (file, exported) = lines;
    let during_imports = users
        .measure_during("imports", async || {
            import(nodes.serving(), bucket, (file, exported)).await?;
            Ok(())
        })
        .await?;
    Ok([during_exports, during_imports])
}

/// Keys and bytes that were transferred, in this time.
struct Amount {
    keys: u64,
    line_bytes: u64,
    seconds: f64,
}

/// Addresses and processes of the nodes; the first one serves exports and imports.
struct RegionUnderTest {
    addrs: Vec<SocketAddr>,
    pids: Vec<u32>,
}

impl RegionUnderTest {
    fn of(region: &Region) -> Result<Self> {
        let pids = region.nodes.iter().filter_map(|member| member.pid());
        let nodes = Self {
            addrs: region.http_addresses(0..region.nodes.len()),
            pids: pids.collect(),
        };
        ensure!(
            !nodes.addrs.is_empty() && nodes.pids.len() == nodes.addrs.len(),
            "a node has exited"
        );
        Ok(nodes)
    }

    fn serving(&self) -> SocketAddr {
        self.addrs[0]
    }

    fn memory(&self) -> Result<MemoryUsage> {
        MemoryUsage::of_process(self.pids[0])
    }

    /// User and system time of all nodes so far.
    fn cpu_seconds(&self) -> Result<f64> {
        self.pids.iter().map(|pid| cpu_seconds(*pid)).sum()
    }

    /// Measures a transfer, deferred work included.
    async fn measure(
        &self,
        kind: TransferKind,
        work: impl Future<Output = Result<Amount>>,
    ) -> Result<Transfer> {
        eprintln!("{kind} ...");
        let (memory_before, cpu_before) = (self.memory()?, self.cpu_seconds()?);
        let work = async {
            let amount = work.await?;
            sleep(SETTLE_TIME).await;
            Ok::<_, anyhow::Error>(amount)
        };
        let (amount, memory_peak) = peak_during(self.pids[0], work).await?;
        let cpu_seconds = self.cpu_seconds()? - cpu_before;
        let rate = amount.keys as f64 / amount.seconds;
        eprintln!("{kind}: {rate:.0} keys/s");
        Ok(Transfer {
            kind,
            keys: amount.keys,
            line_bytes: amount.line_bytes,
            seconds: amount.seconds,
            cpu_us: cpu_seconds * 1e6 / amount.keys.max(1) as f64,
            memory_before,
            memory_peak,
            memory_after: self.memory()?,
        })
    }
}

async fn load_keys(args: &Args, nodes: &RegionUnderTest, bucket: &OwnedBucket) -> Result<Amount> {
    let loaded = load_keys::run_apart(&load_keys::Args {
        addr: nodes.serving(),
        bucket: Some(bucket.id.clone()),
        keys: args.keys,
        value_size: args.value_size,
        connections: args.connections,
        depth: args.depth,
        threads: 1,
        watch: Vec::new(),
        json: true,
    })
    .await?;
    Ok(Amount {
        keys: loaded.requests,
        line_bytes: 0,
        seconds: loaded.seconds,
    })
}

async fn export_to_file(
    nodes: &RegionUnderTest,
    bucket: &OwnedBucket,
    path: &Path,
) -> Result<(Amount, Exported)> {
    let mut file = BufWriter::new(File::create(path).context("create file of the export")?);
    let began = Instant::now();
    let exported = export(nodes.serving(), bucket, &mut file).await?;
    let seconds = began.elapsed().as_secs_f64();
    file.flush().context("write export")?;
    let amount = Amount {
        keys: exported.keys,
        line_bytes: exported.bytes,
        seconds,
    };
    Ok((amount, exported))
}

async fn import_from_file(
    nodes: &RegionUnderTest,
    bucket: &OwnedBucket,
    (path, exported): (&Path, Exported),
) -> Result<Amount> {
    let began = Instant::now();
    let keys = import(nodes.serving(), bucket, (path, exported)).await?;
    Ok(Amount {
        keys,
        line_bytes: exported.bytes,
        seconds: began.elapsed().as_secs_f64(),
    })
}
