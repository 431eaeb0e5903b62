//! Restarts all nodes as planned, under load.

use anyhow::ensure;
use cloudkv_test_harness::load::{LoadPattern, PlainLoad};

use crate::args::RegionArgs;
use crate::output::latency_summary;

#[derive(Clone, Debug, clap::Args)]
pub(crate) struct Args {
    /// Clients, all nodes together
    #[arg(long, default_value_t = 48)]
    clients: usize,
    /// Requests per second, all clients together
    #[arg(long, default_value_t = 2000.0)]
    rate: f64,
    /// Number of restarts of each node
    #[arg(long, default_value_t = 3)]
    rounds: u32,
    #[command(flatten)]
    region: RegionArgs,
}

pub(crate) async fn run(args: &Args) -> anyhow::Result<()> {
    let mut region = args.region.start().await;
    let bucket = region.api(0).create_bucket_with(&[("plan", "pro")]).await;
    let nodes = region.http_addresses(0..3);
    let load = PlainLoad::start(
        &nodes,
        &bucket,
        args.clients,
        LoadPattern::OwnKeys,
        Some(args.rate),
    );
    for round in 1..=args.rounds {
        for seat in 0..3 {
            region.terminate(seat).await;
            region.restart(seat).await;
            region.wait_formed().await;
            let latencies = latency_summary(&load.take_latencies());
            println!("round {round}, node {seat}: {latencies}");
        }
    }
    let outcome = load.stop().await;
    println!(
        "{} restarts: {} requests, {} retried over another connection, {} errors",
        args.rounds * 3,
        outcome.requests,
        outcome.retries,
        outcome.errors
    );
    ensure!(outcome.errors == 0, "{}", outcome.first_errors.join("\n"));
    Ok(())
}
