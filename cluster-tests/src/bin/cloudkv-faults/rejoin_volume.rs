//! Has a node lose its data directory and rejoin over a slow network, while the others are written.
//! Verifies that it catches up in the time that its bytes need, and that writers are not slowed
//! down.

use std::collections::BTreeMap;
use std::time::{Duration, Instant};

use anyhow::{Context, ensure};
use cloudkv_cluster_tests::Bucket;
use cloudkv_cluster_tests::eventually;
use cloudkv_cluster_tests::faults::{PlainLoad, Work, fill};
use cloudkv_cluster_tests::region::{Region, RegionOptions, Status};
use hdrhistogram::Histogram;

use crate::rejoin::{Args, LOSER, latencies_of};

/// Interval between two reports of the node's progress.
const REPORT_INTERVAL: Duration = Duration::from_secs(15);
/// Maximum time for a node to catch up once it votes again.
const LEVEL_WITHIN: Duration = Duration::from_secs(60);
/// Maximum time for a node to serve its metrics.
const ANSWERS_WITHIN: Duration = Duration::from_secs(60);
/// Multiple of the time that the bytes need, after which the run fails.
const MAX_TIMES: f64 = 10.0;
/// Required time to catch up, as a multiple of the time that the bytes need over the network.
const LEVEL_TIMES: f64 = 2.0;
/// Required p99 of the writes, as a multiple of their p99 before.
const P99_TIMES: f64 = 3.0;

/// Amount of data, and rates.
#[derive(Clone, Debug, clap::Args)]
pub struct VolumeArgs {
    /// MiB of values that the region holds, instead of `--keys` small ones; only writes are sent
    /// then, at `--writes-mib-per-s`
    #[arg(long)]
    data_mib: Option<u64>,
    /// KiB of a value
    #[arg(long, default_value_t = 16, requires = "data_mib")]
    value_kib: usize,
    /// MiB of values per second that are written to the other nodes
    #[arg(long, default_value_t = 2.0, requires = "data_mib")]
    writes_mib_per_s: f64,
    /// Mbit/s to the rejoining node, and from it; 0: unlimited, and the time has no limit
    #[arg(long, default_value_t = 0.0, requires = "data_mib")]
    link_mbit: f64,
}

/// Parameters of the measurement.
pub struct Volume {
    keys: u64,
    value: usize,
    /// Writes per second.
    rate: f64,
    /// Bytes per second; 0: unlimited.
    link: u64,
}

impl VolumeArgs {
    /// Returns the parameters of the run, if `--data-mib` is given.
    pub fn volume(&self) -> Option<Volume> {
        let value = self.value_kib << 10;
        let mib = f64::from(1 << 20);
        Some(Volume {
            keys: (self.data_mib? << 20) / value.max(1) as u64,
            value,
            rate: self.writes_mib_per_s * mib / value as f64,
            link: (self.link_mbit * 1e6 / 8.0) as u64,
        })
    }
}

/// Counters of the groups' snapshots.
#[derive(Default)]
struct Snapshots {
    sent: u64,
    failed: u64,
    /// Snapshots that the node has received, by group.
    received: BTreeMap<String, u64>,
    bytes: u64,
}

pub async fn run(args: &Args, volume: &Volume) -> anyhow::Result<()> {
    let options = RegionOptions {
        shards: args.shards,
        args: args.node_args.clone(),
        ..RegionOptions::default()
    };
    let mut region = Region::start_with(options).await;
    let bucket = region.api(0).bucket_with(&[("plan", "business")]).await;
    load_data(&region, &bucket, args, volume).await?;
    region.wait_spread().await;

    let others: Vec<_> = (0..LOSER).map(|seat| region.seat(seat).http()).collect();
    let work = Work::Overwrite {
        keys: volume.keys,
        bytes: volume.value,
    };
    let load = PlainLoad::start(&others, &bucket, args.clients, work, Some(volume.rate));
    tokio::time::sleep(Duration::from_secs(2)).await;
    load.take_latencies();
    tokio::time::sleep(Duration::from_secs_f64(args.seconds)).await;
    let before = load.take_latencies();
    println!("before: {}", latencies_of(&before));

    let lost = region.node_id(LOSER).await;
    region.kill(LOSER);
    for group in region.groups() {
        region.wait_leader(&group).await;
    }
    tokio::time::sleep(Duration::from_secs(2)).await;
    println!("killed: {}", latencies_of(&load.take_latencies()));

    let sent_before = snapshots(&region).await?;
    region.network.limit_uplink(LOSER, volume.link);
    let started = Instant::now();
    region.rejoin_wiped(LOSER).await;
    region.replace(0, &lost).await;
    let mut during = load.take_latencies();
    wait_level(&region, started, volume, &load, &mut during).await?;
    let elapsed = started.elapsed();
    during.add(load.take_latencies())?;
    let outcome = load.stop().await;
    println!("during: {}", latencies_of(&during));
    let after = snapshots(&region).await?;
    region.wait_converged().await;

    println!(
        "{} errors, {} of them writes of unknown outcome, {} requests retried",
        outcome.errors, outcome.unknown, outcome.retried
    );
    // The node was killed: only writes in flight to it may fail, one for each client.
    let in_flight = outcome.unknown <= args.clients as u64;
    let shown = outcome.shown.join("\n");
    ensure!(outcome.errors == outcome.unknown && in_flight, "{shown}");
    judge_snapshots(&sent_before, &after)?;
    judge_times(volume, &region, &after, elapsed)?;
    judge_latencies(&before, &during)
}

async fn load_data(
    region: &Region,
    bucket: &Bucket,
    args: &Args,
    volume: &Volume,
) -> anyhow::Result<()> {
    let started = Instant::now();
    let all: Vec<_> = (0..3).map(|seat| region.seat(seat).http()).collect();
    let filled = fill(&all, bucket, args.clients, volume.keys, volume.value).await;
    filled.map_err(anyhow::Error::msg)?;
    println!(
        "{} values of {} KiB written in {:.1} s",
        volume.keys,
        volume.value >> 10,
        started.elapsed().as_secs_f64()
    );
    Ok(())
}

/// Waits until the node votes in all groups, and has applied what their leaders had applied then.
async fn wait_level(
    region: &Region,
    started: Instant,
    volume: &Volume,
    load: &PlainLoad,
    during: &mut Histogram<u64>,
) -> anyhow::Result<()> {
    let bytes = volume.keys as f64 * volume.value as f64;
    let link = if volume.link == 0 {
        1e7
    } else {
        volume.link as f64
    };
    let timeout = Duration::from_secs_f64(bytes / link * MAX_TIMES + 120.0);
    tokio::select! {
        () = region.wait_formed_within(timeout) => {}
        failed = report(region, started, load, during) => return failed,
    }
    let statuses = region.statuses().await;
    let led = statuses.values().flat_map(Status::led);
    let led: Vec<_> = led
        .map(|group| (group.group.clone(), group.applied))
        .collect();
    eventually(
        "the node has applied what the leaders had",
        LEVEL_WITHIN,
        async || {
            let status = region.status(LOSER).await?;
            let is_applied = |(name, applied): &(String, u64)| {
                let group = status.group(name);
                group.is_some_and(|group| group.applied >= *applied)
            };
            led.iter().all(is_applied).then_some(())
        },
    )
    .await;
    Ok(())
}

/// Prints the node's progress and the latencies of the writers, until reading them fails. The
/// latencies are added to `during`.
async fn report(
    region: &Region,
    started: Instant,
    load: &PlainLoad,
    during: &mut Histogram<u64>,
) -> anyhow::Result<()> {
    let mut ticks = tokio::time::interval(REPORT_INTERVAL);
    loop {
        ticks.tick().await;
        let now = snapshots(region).await?;
        let latencies = load.take_latencies();
        during.add(&latencies)?;
        let status = region.status(LOSER).await;
        let leads = status.map_or(0, |status| status.led().count());
        println!(
            "{:5.0} s: {} MB received, {} snapshots completed, {} MB over the network; leads \
             {leads} groups; {}",
            started.elapsed().as_secs_f64(),
            megabytes(now.bytes),
            now.received.values().sum::<u64>(),
            megabytes(region.network.passed_to(LOSER)),
            latencies_of(&latencies),
        );
    }
}

/// Verifies that no transfer started again.
fn judge_snapshots(before: &Snapshots, after: &Snapshots) -> anyhow::Result<()> {
    let needed = after.received.values().filter(|count| **count > 0);
    let needed = needed.count();
    let sent = after.sent - before.sent;
    let failed = after.failed - before.failed;
    println!("{needed} groups needed a snapshot; {sent} were sent, and {failed} failed");
    ensure!(needed > 0, "no group was restored by snapshot");
    ensure!(
        sent == needed as u64 && failed == 0,
        "snapshots were started again"
    );
    Ok(())
}

fn judge_times(
    volume: &Volume,
    region: &Region,
    snapshots: &Snapshots,
    elapsed: Duration,
) -> anyhow::Result<()> {
    let elapsed = elapsed.as_secs_f64();
    if volume.link == 0 {
        println!(
            "caught up after {elapsed:.1} s, with snapshots of {} MB",
            megabytes(snapshots.bytes)
        );
        return Ok(());
    }
    let needed = snapshots.bytes as f64 / volume.link as f64;
    println!(
        "caught up after {elapsed:.1} s, {:.2} times the {needed:.1} s that snapshots of {} MB \
         need over the network; {} MB went over it in total",
        elapsed / needed,
        megabytes(snapshots.bytes),
        megabytes(region.network.passed_to(LOSER)),
    );
    ensure!(
        elapsed <= needed * LEVEL_TIMES,
        "caught up in more than {LEVEL_TIMES} times the time that the bytes need"
    );
    Ok(())
}

fn judge_latencies(before: &Histogram<u64>, during: &Histogram<u64>) -> anyhow::Result<()> {
    let [before, during] = [before, during].map(|all| all.value_at_quantile(0.99) as f64 / 1000.0);
    println!(
        "99 % of the writes within {during:.2} ms, {:.2} times the {before:.2} ms before",
        during / before
    );
    ensure!(
        during <= before * P99_TIMES,
        "p99 of the writes is more than {P99_TIMES} times what it was before"
    );
    Ok(())
}

/// Sums up the nodes' snapshot metrics: those sent by the others, and those received by the node
/// that lost its directory.
async fn snapshots(region: &Region) -> anyhow::Result<Snapshots> {
    let mut all = Snapshots::default();
    for seat in region.running() {
        // A node that was just started doesn't respond yet.
        let page = eventually("a node serves its metrics", ANSWERS_WITHIN, async || {
            let call = region.members[seat].admin_api().get("/metrics").unchecked();
            Some(call.try_send().await.ok()?.text().to_owned())
        });
        let page = page.await;
        if seat == LOSER {
            for (group, count) in samples(&page, "cloudkv_snapshots_total", "received")? {
                *all.received.entry(group).or_default() += count;
            }
            let bytes = samples(&page, "cloudkv_snapshot_bytes_total", "received")?;
            all.bytes += bytes.iter().map(|(_, bytes)| bytes).sum::<u64>();
        } else {
            let sum = |name| -> anyhow::Result<u64> {
                let samples = samples(&page, name, "sent")?;
                Ok(samples.iter().map(|(_, count)| count).sum())
            };
            all.sent += sum("cloudkv_snapshots_total")?;
            all.failed += sum("cloudkv_snapshot_failures_total")?;
        }
    }
    Ok(all)
}

/// Parses a counter's samples of one direction, by group.
fn samples(page: &str, name: &str, direction: &str) -> anyhow::Result<Vec<(String, u64)>> {
    let (prefix, direction) = (format!("{name}{{"), format!("direction=\"{direction}\""));
    let lines = page.lines();
    lines
        .filter(|line| line.starts_with(&prefix) && line.contains(&direction))
        .map(|line| {
            let group = line
                .split("group=\"")
                .nth(1)
                .and_then(|rest| rest.split('"').next());
            let value = line.rsplit(' ').next();
            let group = group.context("a sample's group")?;
            Ok((
                group.to_owned(),
                value.context("a sample's value")?.parse()?,
            ))
        })
        .collect()
}

fn megabytes(bytes: u64) -> String {
    format!("{:.1}", bytes as f64 / 1e6)
}
