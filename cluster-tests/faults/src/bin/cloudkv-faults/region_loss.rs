//! Loses the region that a router's global name resolves to, and measures the time until all
//! requests to that name succeed again, and the cost.

use std::time::Duration;

use anyhow::{Context, ensure};
use cloudkv_test_harness::load::{ExchangeOutcome, NodeConnection};
use cloudkv_test_harness::{RawRequest, RoutedRegions};
use futures_util::future::join_all;
use tokio::time::{Instant, MissedTickBehavior, interval};

use crate::output::median_and_max;

const REGIONS: [&str; 3] = ["eu", "us", "ap"];
/// Number of keys that the load reads and writes.
const KEY_COUNT: u64 = 256;
/// Interval between two probe writes: the precision of the measurement.
const WRITE_INTERVAL: Duration = Duration::from_millis(10);
/// Duration of the probe writes after the loss.
const WATCH_DURATION: Duration = Duration::from_secs(5);
/// Time after which a probe write counts as failed.
const WRITE_TIMEOUT: Duration = Duration::from_secs(1);
/// Maximum time until the global name is served again.
const MAX_OUTAGE: Duration = Duration::from_secs(2);

#[derive(Clone, Debug, clap::Args)]
pub(crate) struct Args {
    /// Number of region losses
    #[arg(long, default_value_t = 6)]
    rounds: u32,
    /// Nodes of each of the three regions
    #[arg(long, default_value_t = 1)]
    nodes: usize,
    /// Clients of the router
    #[arg(long, default_value_t = 64)]
    clients: usize,
    /// Requests per second, all clients together, half of them writes
    #[arg(long, default_value_t = 1000.0)]
    rate: f64,
    /// Freeze the region's nodes, as if no packet reached them, instead of killing them
    #[arg(long)]
    still: bool,
}

pub(crate) async fn run(args: &Args) -> anyhow::Result<()> {
    let mut regions = RoutedRegions::start(&REGIONS, args.nodes, KEY_COUNT).await;
    let (mut times, mut requests, mut unknown) = (vec![], 0, 0);
    for round in 1..=args.rounds {
        let name = regions.global_region().await;
        let name = name.context("no region serves the global name")?;
        let lost = REGIONS.iter().position(|other| *other == name);
        let lost = lost.with_context(|| format!("there is no region {name}"))?;
        let load = regions.load(args.clients, args.rate);
        load.wait_progress(500).await;
        fail_region(&mut regions, lost, args.still);
        let outage = measure_outage(&regions, round).await;
        check_refused(&regions, lost).await?;
        restore_region(&mut regions, lost, args.still).await;
        let outcome = load.stop().await;
        println!(
            "{round:3}: {name}: the global name is served again after {} ms; {} requests, {} of \
             unknown outcome, {} other errors",
            outage.as_millis(),
            outcome.requests,
            outcome.unknown_outcomes,
            outcome.errors - outcome.unknown_outcomes
        );
        for error in outcome
            .first_errors
            .iter()
            .filter(|_| outcome.errors > outcome.unknown_outcomes)
        {
            println!("     {error}");
        }
        times.push(outage);
        requests += outcome.requests;
        unknown += outcome.unknown_outcomes;
    }
    let (median, worst) = median_and_max(&mut times)?;
    println!(
        "a region lost {} times: the global name was served again after {} ms in the median, \
         {} ms at worst; {requests} requests, {unknown} writes of unknown outcome",
        times.len(),
        median.as_millis(),
        worst.as_millis()
    );
    ensure!(
        worst <= MAX_OUTAGE,
        "the longest outage took more than {MAX_OUTAGE:?}"
    );
    Ok(())
}

/// Checks that the name of a lost region isn't served by another one.
async fn check_refused(regions: &RoutedRegions, region: usize) -> anyhow::Result<()> {
    let answer = regions.get_from(region).await.context("no response")?;
    let name = REGIONS[region];
    ensure!(answer.status == 503, "{name} is served: {answer:?}");
    Ok(())
}

fn fail_region(regions: &mut RoutedRegions, region: usize, is_frozen: bool) {
    for seat in regions.cluster.seats(region) {
        if is_frozen {
            regions.cluster.nodes[seat].pause();
        } else {
            regions.cluster.kill(seat);
        }
    }
}

async fn restore_region(regions: &mut RoutedRegions, region: usize, is_frozen: bool) {
    for seat in regions.cluster.seats(region) {
        if is_frozen {
            regions.cluster.nodes[seat].resume();
        } else {
            regions.cluster.restart(seat).await;
        }
    }
    regions.cluster.wait_serving(region).await;
    regions.wait_served(region).await;
}

/// Writes to the global name; returns the time after which no write failed any more.
async fn measure_outage(regions: &RoutedRegions, round: u32) -> Duration {
    let started = Instant::now();
    let mut ticks = interval(WRITE_INTERVAL);
    ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
    let mut writes = vec![];
    while started.elapsed() < WATCH_DURATION {
        ticks.tick().await;
        let path = regions
            .bucket
            .key_path(&format!("r{round}-{}", writes.len()));
        let (router, sent) = (regions.router.http(), started.elapsed());
        writes.push(tokio::spawn(async move {
            let request = RawRequest::new("PUT", &path).parse_body(b"v");
            let reply = NodeConnection::new(router, WRITE_TIMEOUT)
                .exchange(&request)
                .await;
            (
                sent,
                matches!(reply, ExchangeOutcome::Response(answer) if answer.status == 200),
            )
        }));
    }
    let writes = join_all(writes).await.into_iter();
    let failed = writes.filter_map(|write| match write {
        Ok((_, true)) => None,
        Ok((sent, false)) => Some(sent + WRITE_INTERVAL),
        Err(_) => Some(WATCH_DURATION),
    });
    failed.max().unwrap_or_default()
}
