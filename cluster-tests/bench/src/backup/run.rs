//! Measures, and publishes the results.

use super::args::Args;
use super::key_digests::KeyDigests;
use super::report::{self, Report, Step};
use crate::load_keys;
use crate::peak_memory::peak_during;
use crate::process;
use crate::procfs::{Machine, MemoryUsage};
use crate::report::publish;
use crate::servers::{OwnedBucket, create_owned_bucket};
use crate::transfer::export;
use crate::users::{UserLatency, UserRequests, Users};
use anyhow::{Context, Result, ensure};
use cloudkv_test_harness::backup::{CompletedBackup, back_up, restore_command};
use cloudkv_test_harness::region::{Region, RegionOptions, StartMode};
use cloudkv_test_harness::run_command;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};
use tokio::time::sleep;

/// Number of nodes.
const NODES: usize = 3;
/// Time after a step in which the nodes finish deferred work.
const SETTLE_TIME: Duration = Duration::from_secs(5);
/// Connections of the loader, and requests in flight on each.
const LOAD_CONNECTIONS: usize = 256;
const LOAD_DEPTH: usize = 16;

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
    let source = measure_source(args, dir.path()).await?;
    let mut steps = source.steps;
    let (restore, restored) = measure_restore(args, dir.path(), &source.backup).await?;
    steps.extend(restore);
    let digests = read_keys(restored.seat(1).http(), &source.bucket).await?;
    source.keys.ensure_equal(&digests)?;
    let compared_keys = digests.len();
    ensure!(
        compared_keys == args.keys,
        "{compared_keys} keys were compared, and not {}",
        args.keys
    );
    Ok(Report {
        machine,
        keys: args.keys,
        value_bytes: args.value_size,
        shards: args.shards,
        users_rate: args.users_rate,
        steps,
        memory_growth: source.memory_growth,
        compared_keys,
        users: source.users,
        checks: Vec::new(),
    })
}

/// What was measured in the region that is backed up.
struct Source {
    bucket: OwnedBucket,
    keys: KeyDigests,
    backup: BackupPlace,
    steps: Vec<Step>,
    memory_growth: u64,
    users: Vec<UserLatency>,
}

/// A complete backup.
struct BackupPlace {
    url: String,
    id: String,
    records: u64,
}

async fn measure_source(args: &Args, dir: &Path) -> Result<Source> {
    let region = Region::start_with(options(args, dir.join("source"))).await;
    let addrs = region.http_addresses(0..NODES);
    let requests = UserRequests {
        rate: args.users_rate,
        seconds: args.seconds,
    };
    let users = Users::start(requests, &addrs).await?;
    let bucket = create_owned_bucket(addrs[0]).await?;
    let mut steps = vec![load(args, addrs[0], &bucket).await?];
    sleep(SETTLE_TIME).await;
    let mut latencies = vec![users.measure_alone().await?];
    sleep(SETTLE_TIME).await;
    let url = format!("file://{}", dir.join("backups").display());
    let (step, backup, memory_growth) = measure_backup(&region, &url).await?;
    steps.push(step);
    sleep(SETTLE_TIME).await;
    let during = users.measure_during("backups", async || {
        let output = back_up(region.seat(0).admin(), &url, &["--new", "--json"]).await;
        CompletedBackup::from_output(&output);
        Ok(())
    });
    latencies.push(during.await?);
    let keys = read_keys(addrs[0], &bucket).await?;
    Ok(Source {
        bucket,
        keys,
        backup,
        steps,
        memory_growth,
        users: latencies,
    })
}

fn options(args: &Args, dir: PathBuf) -> RegionOptions {
    RegionOptions {
        nodes: NODES,
        seats: NODES,
        shards: args.shards,
        args: args.node_args.clone(),
        dir: Some(dir),
        is_direct: true,
        ..RegionOptions::default()
    }
}

async fn load(args: &Args, addr: SocketAddr, bucket: &OwnedBucket) -> Result<Step> {
    eprintln!("load-keys ...");
    let loaded = load_keys::run_apart(&load_keys::Args {
        addr,
        bucket: Some(bucket.id.clone()),
        keys: args.keys,
        value_size: args.value_size,
        connections: LOAD_CONNECTIONS,
        depth: LOAD_DEPTH,
        threads: 1,
        watch: Vec::new(),
        json: true,
    })
    .await?;
    Ok(Step {
        name: "load-keys",
        keys: loaded.requests,
        bytes: 0,
        seconds: loaded.seconds,
    })
}

/// Makes a backup while nothing else goes on. Returns how much memory the node needed for it, too.
async fn measure_backup(region: &Region, url: &str) -> Result<(Step, BackupPlace, u64)> {
    eprintln!("backup ...");
    let pid = region.nodes[0].pid().context("a node that runs")?;
    let before = MemoryUsage::of_process(pid)?.rss;
    let began = Instant::now();
    let making = async { Ok(back_up(region.seat(0).admin(), url, &["--json"]).await) };
    let (output, highest) = peak_during(pid, making).await?;
    let seconds = began.elapsed().as_secs_f64();
    let completed = CompletedBackup::from_output(&output);
    let step = Step {
        name: "backup",
        keys: completed.records,
        bytes: completed.bytes,
        seconds,
    };
    let backup = BackupPlace {
        url: url.to_owned(),
        id: completed.id,
        records: completed.records,
    };
    Ok((step, backup, highest.rss.saturating_sub(before)))
}

/// Restores a backup into the first of three new nodes.
async fn measure_restore(
    args: &Args,
    dir: &Path,
    backup: &BackupPlace,
) -> Result<([Step; 2], Region)> {
    eprintln!("restore ...");
    let mut region = Region::prepare(options(args, dir.join("restored")));
    let step = |name, began: Instant| Step {
        name,
        keys: backup.records,
        bytes: 0,
        seconds: began.elapsed().as_secs_f64(),
    };
    let began = Instant::now();
    let data_dir = region.nodes[0].data_dir();
    let command = restore_command(&backup.url, &data_dir, &["--id", &backup.id]);
    let output = run_command(command).await;
    ensure!(output.code == Some(0), "restore failed: {output}");
    let restored = step("restore into a node", began);
    let began = Instant::now();
    region.launch(0, &StartMode::Bootstrap);
    region.wait_listening(0).await;
    for seat in 1..NODES {
        region.launch(seat, &StartMode::Join(vec![0]));
        region.wait_listening(seat).await;
    }
    region.wait_formed().await;
    let formed = step("start it, and have two join", began);
    Ok(([restored, formed], region))
}

async fn read_keys(addr: SocketAddr, bucket: &OwnedBucket) -> Result<KeyDigests> {
    eprintln!("reading all keys ...");
    let mut keys = KeyDigests::default();
    let exported = export(addr, bucket, &mut keys).await?;
    ensure!(
        exported.keys == keys.len(),
        "{} keys were read of {}",
        keys.len(),
        exported.keys
    );
    Ok(keys)
}
