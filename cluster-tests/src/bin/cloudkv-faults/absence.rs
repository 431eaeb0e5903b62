//! Measures how fast a region catches up that was cut off while the others were written, and
//! whether the others keep their load.

use std::time::{Duration, Instant};

use anyhow::{Context, ensure};
use cloudkv_cluster_tests::faults::{PlainLoad, Work};
use cloudkv_cluster_tests::region::{RegionOptions, World};
use cloudkv_cluster_tests::{Bucket, eventually};
use hdrhistogram::Histogram;

const REGIONS: [&str; 3] = ["eu", "us", "ap"];
/// Region that is cut off; the others are written.
const AWAY: usize = 2;
/// Duration of the measurement before the cut.
const BEFORE: Duration = Duration::from_secs(20);
/// Interval at which the region's backlog is polled.
const LOOKS: Duration = Duration::from_millis(100);
/// Maximum time to catch up.
const CAUGHT_UP_WITHIN: Duration = Duration::from_secs(1800);
/// Maximum time until counts are published.
const COUNTED_WITHIN: Duration = Duration::from_secs(60);
/// Required rate of catching up, as a multiple of the write rate.
const TIMES: f64 = 5.0;
/// Required share of the load that the other regions keep meanwhile.
const KEPT: f64 = 0.9;

#[derive(Clone, Debug, clap::Args)]
pub struct Args {
    /// Minutes for which the region is cut off
    #[arg(long, default_value_t = 10.0)]
    minutes: f64,
    /// Writes per second, of new keys, in the two other regions together
    #[arg(long, default_value_t = 2000.0)]
    rate: f64,
    /// One-way delay between regions, in milliseconds
    #[arg(long, default_value_t = 40)]
    delay_ms: u64,
    /// Nodes of each region
    #[arg(long, default_value_t = 1)]
    nodes: usize,
    /// Clients, both regions together
    #[arg(long, default_value_t = 32)]
    clients: usize,
}

pub async fn run(args: &Args) -> anyhow::Result<()> {
    let options = RegionOptions {
        shards: 8,
        ..RegionOptions::default()
    };
    let world = World::start_with(&REGIONS, args.nodes, REGIONS.len(), options).await;
    let delay = Duration::from_millis(args.delay_ms);
    world.delay(delay);
    let bucket = world.api(0).bucket_with(&[("plan", "pro")]).await;
    world.wait_equal(&bucket).await;
    let writers = (0..world.seats(AWAY).start).map(|seat| world.seat(seat).http());
    let writers: Vec<_> = writers.collect();
    let (clients, rate) = (args.clients, Some(args.rate));
    let load = PlainLoad::start(&writers, &bucket, clients, Work::NewKeys, rate);
    tokio::time::sleep(BEFORE).await;
    let before = load.take_latencies();

    world.cut_off(AWAY);
    tokio::time::sleep(Duration::from_secs_f64(args.minutes * 60.0)).await;
    let during = load.take_latencies();
    let backlog = behind(&world).await?;
    let (healed, written) = (Instant::now(), load.requests());
    world.network.heal();
    world.delay(delay);
    wait_caught_up(&world, args.rate).await?;
    let took = healed.elapsed().as_secs_f64();
    let meanwhile = load.requests() - written;
    let after = load.take_latencies();

    let outcome = load.stop().await;
    for (when, latencies) in [
        ("before", &before),
        ("cut off", &during),
        ("catching up", &after),
    ] {
        println!("{when}: {}", told(latencies));
    }
    let times = (backlog + meanwhile as f64) / took / args.rate;
    let kept = meanwhile as f64 / took / args.rate;
    println!(
        "{backlog} changes behind after {} minutes; caught up in {took:.1} s with {meanwhile} more \
         written meanwhile: {times:.1} times the write rate, {:.0} % of the load kept; {} errors",
        args.minutes,
        kept * 100.0,
        outcome.errors
    );
    check_equal(&world, &bucket, outcome.requests).await;
    println!("all regions hold {} keys and agree", outcome.requests);
    ensure!(outcome.errors == 0, "{}", outcome.shown.join("\n"));
    ensure!(times >= TIMES, "caught up at less than {TIMES} times the rate of writes");
    ensure!(kept >= KEPT, "the other regions did not keep their load");
    Ok(())
}

/// Sums up the changes that the region lacks, from the metrics of the others.
async fn behind(world: &World) -> anyhow::Result<f64> {
    let label = format!("region=\"{}\"", REGIONS[AWAY]);
    let mut sum = 0.0;
    for seat in 0..world.seats(AWAY).start {
        let page = world.members[seat].admin_api().get("/metrics").unchecked();
        let page = page.try_send().await?;
        let is_match =
            |line: &&str| line.starts_with("cloudkv_geo_behind{") && line.contains(&label);
        for line in page.text().lines().filter(is_match) {
            let value = line.rsplit(' ').next().context("a sample's value")?;
            sum += value.parse::<f64>()?;
        }
    }
    Ok(sum)
}

/// Waits until the region lacks no more than the writes of one second.
async fn wait_caught_up(world: &World, rate: f64) -> anyhow::Result<()> {
    let started = Instant::now();
    let mut last_report = started;
    loop {
        let backlog = behind(world).await?;
        if backlog <= rate {
            return Ok(());
        }
        ensure!(
            started.elapsed() < CAUGHT_UP_WITHIN,
            "{backlog} changes behind after {CAUGHT_UP_WITHIN:?}"
        );
        if last_report.elapsed() > Duration::from_secs(10) {
            last_report = Instant::now();
            println!("{backlog} changes behind");
        }
        tokio::time::sleep(LOOKS).await;
    }
}

/// Checks that all regions count every acknowledged key, and hold the same.
async fn check_equal(world: &World, bucket: &Bucket, keys: u64) {
    for (region, name) in REGIONS.iter().enumerate() {
        let seat = world.seats(region).start;
        let what = format!("{name} counts {keys} keys");
        eventually(&what, COUNTED_WITHIN, async || {
            let summary = world.api(seat).summary(bucket).await;
            (summary["estimated_keys"] == keys).then_some(())
        })
        .await;
    }
    world.wait_nothing_held().await;
    println!("{}", world.insist(0, &["verify"]).await.trim_end());
}

fn told(latencies: &Histogram<u64>) -> String {
    let millis = |quantile| latencies.value_at_quantile(quantile) as f64 / 1000.0;
    format!(
        "{} writes, median {:.2} ms, 99 % within {:.2} ms, longest {:.0} ms",
        latencies.len(),
        millis(0.5),
        millis(0.99),
        latencies.max() as f64 / 1000.0
    )
}
