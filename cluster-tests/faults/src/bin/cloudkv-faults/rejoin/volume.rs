//! Has a node lose its data directory and rejoin over a slow network, while the others are written.
//! Verifies that it catches up in the time that its bytes need, and that writers are not slowed
//! down.

use std::collections::BTreeMap;
use std::time::{Duration, Instant};

use anyhow::{Context, ensure};
use cloudkv_test_harness::eventually;
use cloudkv_test_harness::load::{LoadPattern, PlainLoad};
use cloudkv_test_harness::region::{NodeStatus, Region};
use hdrhistogram::Histogram;

use super::args::{Args, VolumeParams};
use super::steps::{REJOINING_SEAT, check_errors, write_keys};
use crate::output::{latency_summary, quantile_ms};

/// Interval between two reports of the node's progress.
const REPORT_INTERVAL: Duration = Duration::from_secs(15);
/// Maximum time for a node to catch up once it votes again.
const CATCH_UP_TIMEOUT: Duration = Duration::from_secs(60);
/// Maximum time for a node to serve its metrics.
const METRICS_TIMEOUT: Duration = Duration::from_secs(60);
/// Multiple of the time that the bytes need, after which the run fails.
const ABORT_FACTOR: f64 = 10.0;
/// Required time to catch up, as a multiple of the time that the bytes need over the network.
const MAX_CATCH_UP_FACTOR: f64 = 2.0;
/// Required p99 of the writes, as a multiple of their p99 before.
const MAX_P99_FACTOR: f64 = 3.0;

/// Counters of the groups' snapshots.
#[derive(Default)]
struct SnapshotCounts {
    sent: u64,
    failed: u64,
    /// Snapshots that the node has received, by group.
    received: BTreeMap<String, u64>,
    bytes: u64,
}

/// Measures how fast the node catches up, and the latencies of the writers meanwhile.
pub(super) async fn run(args: &Args, volume: &VolumeParams) -> anyhow::Result<()> {
    let mut region = args.region.start().await;
    let bucket = region
        .api(0)
        .create_bucket_with(&[("plan", "business")])
        .await;
    let (clients, keys, bytes) = (args.clients, volume.keys, volume.value_bytes);
    write_keys(&region, &bucket, clients, keys, bytes).await?;
    region.wait_leaders_balanced().await;

    let others = region.http_addresses(0..REJOINING_SEAT);
    let work = LoadPattern::Overwrite { keys, bytes };
    let rate = Some(volume.writes_per_second);
    let load = PlainLoad::start(&others, &bucket, clients, work, rate);
    tokio::time::sleep(Duration::from_secs(2)).await;
    load.take_latencies();
    tokio::time::sleep(Duration::from_secs_f64(args.seconds)).await;
    let before = load.take_latencies();
    println!("before: {}", latency_summary(&before));

    let lost = region.node_id(REJOINING_SEAT).await;
    region.kill(REJOINING_SEAT);
    for group in region.groups() {
        region.wait_leader(&group).await;
    }
    tokio::time::sleep(Duration::from_secs(2)).await;
    println!("killed: {}", latency_summary(&load.take_latencies()));

    let sent_before = read_snapshot_counts(&region).await?;
    region
        .network
        .limit_uplink(REJOINING_SEAT, volume.bytes_per_second);
    let started = Instant::now();
    region.rejoin_wiped(REJOINING_SEAT).await;
    region.replace_node(0, &lost).await;
    let mut during = load.take_latencies();
    wait_caught_up(&region, started, volume, &load, &mut during).await?;
    let elapsed = started.elapsed();
    during.add(load.take_latencies())?;
    let outcome = load.stop().await;
    println!("during: {}", latency_summary(&during));
    let after = read_snapshot_counts(&region).await?;
    region.wait_converged().await;

    check_errors(&outcome, args.clients)?;
    check_snapshots(&sent_before, &after)?;
    check_times(volume, &region, &after, elapsed)?;
    check_latencies(&before, &during)
}

/// Waits until the node votes in all groups, and has applied what their leaders had applied then.
async fn wait_caught_up(
    region: &Region,
    started: Instant,
    volume: &VolumeParams,
    load: &PlainLoad,
    during: &mut Histogram<u64>,
) -> anyhow::Result<()> {
    let bytes = volume.keys as f64 * volume.value_bytes as f64;
    let link = if volume.bytes_per_second == 0 {
        1e7
    } else {
        volume.bytes_per_second as f64
    };
    let timeout = Duration::from_secs_f64(bytes / link * ABORT_FACTOR + 120.0);
    tokio::select! {
        () = region.wait_formed_within(timeout) => {}
        failed = report_progress(region, started, load, during) => return failed,
    }
    let statuses = region.statuses().await;
    let led = statuses.values().flat_map(NodeStatus::led_groups);
    let led: Vec<_> = led
        .map(|group| (group.group.clone(), group.applied))
        .collect();
    eventually(
        "the node has applied what the leaders had",
        CATCH_UP_TIMEOUT,
        async || {
            let status = region.status(REJOINING_SEAT).await?;
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
async fn report_progress(
    region: &Region,
    started: Instant,
    load: &PlainLoad,
    during: &mut Histogram<u64>,
) -> anyhow::Result<()> {
    let mut ticks = tokio::time::interval(REPORT_INTERVAL);
    loop {
        ticks.tick().await;
        let now = read_snapshot_counts(region).await?;
        let latencies = load.take_latencies();
        during.add(&latencies)?;
        let status = region.status(REJOINING_SEAT).await;
        let leads = status.map_or(0, |status| status.led_groups().count());
        println!(
            "{:5.0} s: {} MB received, {} snapshots completed, {} MB over the network; leads \
             {leads} groups; {}",
            started.elapsed().as_secs_f64(),
            megabytes(now.bytes),
            now.received.values().sum::<u64>(),
            megabytes(region.network.bytes_passed_to(REJOINING_SEAT)),
            latency_summary(&latencies),
        );
    }
}

/// Verifies that no transfer started again.
fn check_snapshots(before: &SnapshotCounts, after: &SnapshotCounts) -> anyhow::Result<()> {
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

fn check_times(
    volume: &VolumeParams,
    region: &Region,
    snapshots: &SnapshotCounts,
    elapsed: Duration,
) -> anyhow::Result<()> {
    let elapsed = elapsed.as_secs_f64();
    if volume.bytes_per_second == 0 {
        println!(
            "caught up after {elapsed:.1} s, with snapshots of {} MB",
            megabytes(snapshots.bytes)
        );
        return Ok(());
    }
    let needed = snapshots.bytes as f64 / volume.bytes_per_second as f64;
    println!(
        "caught up after {elapsed:.1} s, {:.2} times the {needed:.1} s that snapshots of {} MB \
         need over the network; {} MB went over it in total",
        elapsed / needed,
        megabytes(snapshots.bytes),
        megabytes(region.network.bytes_passed_to(REJOINING_SEAT)),
    );
    ensure!(
        elapsed <= needed * MAX_CATCH_UP_FACTOR,
        "caught up in more than {MAX_CATCH_UP_FACTOR} times the time that the bytes need"
    );
    Ok(())
}

fn check_latencies(before: &Histogram<u64>, during: &Histogram<u64>) -> anyhow::Result<()> {
    let [before, during] = [before, during].map(|all| quantile_ms(all, 0.99));
    println!(
        "99 % of the writes within {during:.2} ms, {:.2} times the {before:.2} ms before",
        during / before
    );
    ensure!(
        during <= before * MAX_P99_FACTOR,
        "p99 of the writes is more than {MAX_P99_FACTOR} times what it was before"
    );
    Ok(())
}

/// Sums up the nodes' snapshot metrics: those sent by the others, and those received by the node
/// that lost its directory.
async fn read_snapshot_counts(region: &Region) -> anyhow::Result<SnapshotCounts> {
    let mut all = SnapshotCounts::default();
    for seat in region.running() {
        // A node that was just started doesn't respond yet.
        let page = eventually("a node serves its metrics", METRICS_TIMEOUT, async || {
            let call = region.nodes[seat].admin_api().get("/metrics").unchecked();
            Some(call.try_send().await.ok()?.text().to_owned())
        });
        let page = page.await;
        if seat == REJOINING_SEAT {
            for (group, count) in parse_samples(&page, "cloudkv_snapshots_total", "received")? {
                *all.received.entry(group).or_default() += count;
            }
            let bytes = parse_samples(&page, "cloudkv_snapshot_bytes_total", "received")?;
            all.bytes += bytes.iter().map(|(_, bytes)| bytes).sum::<u64>();
        } else {
            let sum = |name| -> anyhow::Result<u64> {
                let samples = parse_samples(&page, name, "sent")?;
                Ok(samples.iter().map(|(_, count)| count).sum())
            };
            all.sent += sum("cloudkv_snapshots_total")?;
            all.failed += sum("cloudkv_snapshot_failures_total")?;
        }
    }
    Ok(all)
}

/// Parses a counter's samples of one direction, by group.
fn parse_samples(page: &str, name: &str, direction: &str) -> anyhow::Result<Vec<(String, u64)>> {
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
