//! A node loses its directory and comes back over a slow link, while the others are written: is it
//! level in the time that its bytes need, and do the writers notice?

use std::collections::BTreeMap;
use std::time::{Duration, Instant};

use anyhow::{Context, ensure};
use cloudkv_cluster_tests::Bucket;
use cloudkv_cluster_tests::eventually;
use cloudkv_cluster_tests::faults::{PlainLoad, Work, fill};
use cloudkv_cluster_tests::region::{Region, RegionOptions, Status};
use hdrhistogram::Histogram;

use crate::rejoin::{Args, LOSER, latencies_of};

/// Time between two lines on how far the node is.
const REPORT_INTERVAL: Duration = Duration::from_secs(15);
/// Time for what a node has to be level once it votes again.
const LEVEL_WITHIN: Duration = Duration::from_secs(60);
/// Time for a node to answer about itself.
const ANSWERS_WITHIN: Duration = Duration::from_secs(60);
/// Beyond so many times the time that the bytes need a node is given up.
const MAX_TIMES: f64 = 10.0;
/// The promise: so many times the time that the bytes need over the link.
const LEVEL_TIMES: f64 = 2.0;
/// The promise: so many times what 99 % of the writes took before.
const P99_TIMES: f64 = 3.0;

/// Amount of data, and rates.
#[derive(Clone, Debug, clap::Args)]
pub struct VolumeArgs {
    /// MiB of values that the region holds, in place of `--keys` small ones; only writes are sent
    /// then, at `--writes-mib-per-s`
    #[arg(long)]
    data_mib: Option<u64>,
    /// Size of a value
    #[arg(long, default_value_t = 16, requires = "data_mib")]
    value_kib: usize,
    /// MiB of values that the others are written a second
    #[arg(long, default_value_t = 2.0, requires = "data_mib")]
    writes_mib_per_s: f64,
    /// Mbit/s that pass to the node that comes back, and from it; 0: as many as come, and the time
    /// isn't judged
    #[arg(long, default_value_t = 0.0, requires = "data_mib")]
    link_mbit: f64,
}

/// The measurement, if it was asked for.
pub struct Volume {
    keys: u64,
    value: usize,
    /// Writes a second.
    rate: f64,
    /// Bytes a second.
    link: u64,
}

impl VolumeArgs {
    /// The options of the run.
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

/// Progress of the groups' snapshots.
#[derive(Default)]
struct Snapshots {
    sent: u64,
    failed: u64,
    /// By group, those that the node has received, and their bytes.
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
    let took = started.elapsed();
    during.add(load.take_latencies())?;
    let outcome = load.stop().await;
    println!("during: {}", latencies_of(&during));
    let after = snapshots(&region).await?;
    region.wait_converged().await;

    println!(
        "{} errors, {} of them writes of unknown fate, {} requests sent again",
        outcome.errors, outcome.unknown, outcome.retried
    );
    // The node was killed: what it was just asked to write is all that may fail, one write a client.
    let in_flight = outcome.unknown <= args.clients as u64;
    let told = outcome.shown.join("\n");
    ensure!(outcome.errors == outcome.unknown && in_flight, "{told}");
    judge_snapshots(&sent_before, &after)?;
    judge_times(volume, &region, &after, took)?;
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

/// Waits until the node votes in all groups, and has applied what their leaders had at that time.
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
    let within = Duration::from_secs_f64(bytes / link * MAX_TIMES + 120.0);
    tokio::select! {
        () = region.wait_formed_within(within) => {}
        failed = report(region, started, load, during) => return failed,
    }
    let statuses = region.statuses().await;
    let led = statuses.values().flat_map(Status::led);
    let led: Vec<_> = led
        .map(|group| (group.group.clone(), group.applied))
        .collect();
    eventually(
        "the node has what the leaders had",
        LEVEL_WITHIN,
        async || {
            let status = region.status(LOSER).await?;
            let has = |(name, applied): &(String, u64)| {
                let group = status.group(name);
                group.is_some_and(|group| group.applied >= *applied)
            };
            led.iter().all(has).then_some(())
        },
    )
    .await;
    Ok(())
}

/// Prints how far the node is and what the writers see, until that can't be asked. What was measured
/// goes to `during`.
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
            "{:5.0} s: {} MB received, {} snapshots to their end, {} MB over the link; leads {leads} \
             groups; {}",
            started.elapsed().as_secs_f64(),
            megabytes(now.bytes),
            now.received.values().sum::<u64>(),
            megabytes(region.network.passed_to(LOSER)),
            latencies_of(&latencies),
        );
    }
}

/// The promise that no transfer begins again.
fn judge_snapshots(before: &Snapshots, after: &Snapshots) -> anyhow::Result<()> {
    let needed = after.received.values().filter(|count| **count > 0);
    let needed = needed.count();
    let sent = after.sent - before.sent;
    let failed = after.failed - before.failed;
    println!("{needed} groups needed a snapshot; {sent} were sent, and {failed} failed");
    ensure!(needed > 0, "no group came by snapshot");
    ensure!(
        sent == needed as u64 && failed == 0,
        "snapshots began again"
    );
    Ok(())
}

fn judge_times(
    volume: &Volume,
    region: &Region,
    snapshots: &Snapshots,
    took: Duration,
) -> anyhow::Result<()> {
    let took = took.as_secs_f64();
    if volume.link == 0 {
        println!(
            "level after {took:.1} s, with snapshots of {} MB",
            megabytes(snapshots.bytes)
        );
        return Ok(());
    }
    let needs = snapshots.bytes as f64 / volume.link as f64;
    println!(
        "level after {took:.1} s, {:.2} times the {needs:.1} s that snapshots of {} MB need over \
         the link; {} MB went over it in all",
        took / needs,
        megabytes(snapshots.bytes),
        megabytes(region.network.passed_to(LOSER)),
    );
    ensure!(
        took <= needs * LEVEL_TIMES,
        "more than {LEVEL_TIMES} times the time that the bytes need"
    );
    Ok(())
}

fn judge_latencies(before: &Histogram<u64>, during: &Histogram<u64>) -> anyhow::Result<()> {
    let [before, during] = [before, during].map(|it| it.value_at_quantile(0.99) as f64 / 1000.0);
    println!(
        "99 % of the writes within {during:.2} ms, {:.2} times the {before:.2} ms of before",
        during / before
    );
    ensure!(
        during <= before * P99_TIMES,
        "more than {P99_TIMES} times what it was before"
    );
    Ok(())
}

/// What the nodes' metrics say of snapshots: those sent by the others, and those that the node that
/// lost its directory has received.
async fn snapshots(region: &Region) -> anyhow::Result<Snapshots> {
    let mut all = Snapshots::default();
    for seat in region.running() {
        // A node that was just started doesn't answer yet.
        let page = eventually("a node shows its metrics", ANSWERS_WITHIN, async || {
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

/// A counter's samples of one direction, by group.
fn samples(page: &str, name: &str, direction: &str) -> anyhow::Result<Vec<(String, u64)>> {
    let (prefix, direction) = (format!("{name}{{"), format!("direction=\"{direction}\""));
    let lines = page.lines();
    lines
        .filter(|line| line.starts_with(&prefix) && line.contains(&direction))
        .map(|line| {
            let group = line
                .split("group=\"")
                .nth(1)
                .and_then(|it| it.split('"').next());
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
