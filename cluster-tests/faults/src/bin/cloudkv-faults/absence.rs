//! Measures how fast a region catches up that was cut off while the others were written, and
//! whether the others keep their load.

use std::time::{Duration, Instant};

use anyhow::ensure;
use cloudkv_test_harness::load::{LoadPattern, PlainLoad};
use cloudkv_test_harness::prometheus::sum_of_samples;
use cloudkv_test_harness::region::{MultiRegionCluster, RegionOptions};
use cloudkv_test_harness::{Bucket, eventually};

use crate::args::from_minutes;
use crate::output::latency_summary;

const REGIONS: [&str; 3] = ["eu", "us", "ap"];
/// Region that is cut off; the others are written.
const ISOLATED_REGION: usize = 2;
/// Duration of the measurement before the cut.
const BASELINE_DURATION: Duration = Duration::from_secs(20);
/// Interval at which the region's backlog is polled.
const POLL_INTERVAL: Duration = Duration::from_millis(100);
/// Maximum time to catch up.
const CATCH_UP_TIMEOUT: Duration = Duration::from_secs(1800);
/// Maximum time until counts are published.
const COUNT_TIMEOUT: Duration = Duration::from_secs(60);
/// Required rate of catching up, as a multiple of the write rate.
const MIN_CATCH_UP_FACTOR: f64 = 5.0;
/// Required share of the load that the other regions keep meanwhile.
const MIN_LOAD_SHARE: f64 = 0.9;

#[derive(Clone, Debug, clap::Args)]
pub(crate) struct Args {
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

pub(crate) async fn run(args: &Args) -> anyhow::Result<()> {
    let options = RegionOptions {
        shards: 8,
        ..RegionOptions::default()
    };
    let world = MultiRegionCluster::start_with(&REGIONS, args.nodes, REGIONS.len(), options).await;
    let delay = Duration::from_millis(args.delay_ms);
    world.delay_regions(delay);
    let bucket = world.api(0).create_bucket_with(&[("plan", "pro")]).await;
    world.wait_bucket_converged(&bucket).await;
    let writers = world.http_addresses(0..world.seats(ISOLATED_REGION).start);
    let (clients, rate) = (args.clients, Some(args.rate));
    let load = PlainLoad::start(&writers, &bucket, clients, LoadPattern::NewKeys, rate);
    tokio::time::sleep(BASELINE_DURATION).await;
    let before = load.take_latencies();

    world.isolate_region(ISOLATED_REGION);
    tokio::time::sleep(from_minutes(args.minutes)).await;
    let during = load.take_latencies();
    let backlog = region_backlog(&world).await?;
    let (healed, written) = (Instant::now(), load.requests());
    world.network.heal();
    world.delay_regions(delay);
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
        println!("{when}: {}", latency_summary(latencies));
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
    ensure!(outcome.errors == 0, "{}", outcome.first_errors.join("\n"));
    ensure!(
        times >= MIN_CATCH_UP_FACTOR,
        "caught up at less than {MIN_CATCH_UP_FACTOR} times the rate of writes"
    );
    ensure!(
        kept >= MIN_LOAD_SHARE,
        "the other regions did not keep their load"
    );
    Ok(())
}

/// Sums up the changes that the region lacks, from the metrics of the others.
async fn region_backlog(world: &MultiRegionCluster) -> anyhow::Result<f64> {
    let label = format!("region=\"{}\"", REGIONS[ISOLATED_REGION]);
    let mut sum = 0.0;
    for seat in 0..world.seats(ISOLATED_REGION).start {
        let page = world.nodes[seat].admin_api().get("/metrics").unchecked();
        let page = page.try_send().await?;
        sum += sum_of_samples(page.text(), "cloudkv_geo_behind", &label);
    }
    Ok(sum)
}

/// Waits until the region lacks no more than the writes of one second.
async fn wait_caught_up(world: &MultiRegionCluster, rate: f64) -> anyhow::Result<()> {
    let started = Instant::now();
    let mut last_report = started;
    loop {
        let backlog = region_backlog(world).await?;
        if backlog <= rate {
            return Ok(());
        }
        ensure!(
            started.elapsed() < CATCH_UP_TIMEOUT,
            "{backlog} changes behind after {CATCH_UP_TIMEOUT:?}"
        );
        if last_report.elapsed() > Duration::from_secs(10) {
            last_report = Instant::now();
            println!("{backlog} changes behind");
        }
        tokio::time::sleep(POLL_INTERVAL).await;
    }
}

/// Checks that all regions count every acknowledged key, and hold the same.
async fn check_equal(world: &MultiRegionCluster, bucket: &Bucket, keys: u64) {
    for (region, name) in REGIONS.iter().enumerate() {
        let seat = world.seats(region).start;
        let what = format!("{name} counts {keys} keys");
        eventually(&what, COUNT_TIMEOUT, async || {
            let summary = world.api(seat).bucket_summary(bucket).await;
            (summary["estimated_keys"] == keys).then_some(())
        })
        .await;
    }
    world.wait_no_retained_changes().await;
    println!(
        "{}",
        world.admin_with_retries(0, &["verify"]).await.trim_end()
    );
}
