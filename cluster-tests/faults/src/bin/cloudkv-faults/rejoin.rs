//! Has a node lose its disk and rejoin under a new identity, while the others serve.

use std::net::SocketAddr;
use std::time::{Duration, Instant};

use anyhow::ensure;
use cloudkv_test_harness::load::{LoadPattern, PlainClient, PlainError, PlainLoad};
use cloudkv_test_harness::region::{Region, RegionOptions};
use cloudkv_test_harness::{Bucket, RawRequest};
use futures_util::future::join_all;
use hdrhistogram::Histogram;

use crate::rejoin_volume::{self, VolumeArgs};

/// Seat of the node that loses its disk.
pub(crate) const REJOINING_SEAT: usize = 2;

/// Maximum time for the node to be restored.
const RESTORE_TIMEOUT: Duration = Duration::from_secs(1200);

#[derive(Clone, Debug, clap::Args)]
pub(crate) struct Args {
    /// Number of keys
    #[arg(long, default_value_t = 1_000_000)]
    keys: u64,
    /// Share of the capacity that the load takes
    #[arg(long, default_value_t = 0.3)]
    load: f64,
    /// Clients, all nodes together
    #[arg(long, default_value_t = 64)]
    pub clients: usize,
    /// Seconds of measuring the capacity, and the load before the loss
    #[arg(long, default_value_t = 20.0)]
    pub seconds: f64,
    /// Shards of the region
    #[arg(long, default_value_t = 8)]
    pub shards: u32,
    /// Additional arguments of each node
    #[arg(long = "node-arg", allow_hyphen_values = true)]
    pub node_args: Vec<String>,
    #[command(flatten)]
    volume: VolumeArgs,
}

pub(crate) async fn run(args: &Args) -> anyhow::Result<()> {
    if let Some(volume) = args.volume.params() {
        return rejoin_volume::run(args, &volume).await;
    }
    let options = RegionOptions {
        shards: args.shards,
        args: args.node_args.clone(),
        ..RegionOptions::default()
    };
    let mut region = Region::start_with(options).await;
    let bucket = region.api(0).create_bucket_with(&[("plan", "pro")]).await;
    let all: Vec<_> = (0..3).map(|seat| region.seat(seat).http()).collect();
    let others: Vec<_> = all[..REJOINING_SEAT].to_vec();
    fill(&all, &bucket, args).await?;

    let measure = Duration::from_secs_f64(args.seconds);
    let (clients, work) = (args.clients, LoadPattern::AllKeys(args.keys));
    let full = PlainLoad::start(&others, &bucket, clients, work, None);
    tokio::time::sleep(measure).await;
    let capacity = full.stop().await.requests as f64 / args.seconds;
    let rate = capacity * args.load;
    println!("capacity {capacity:.0} requests/s, half of them writes; load {rate:.0} requests/s");

    let load = PlainLoad::start(&others, &bucket, clients, work, Some(rate));
    tokio::time::sleep(Duration::from_secs(2)).await;
    load.take_latencies();
    tokio::time::sleep(measure).await;
    let before = load.take_latencies();

    let lost = region.node_id(REJOINING_SEAT).await;
    let started = Instant::now();
    region.kill(REJOINING_SEAT);
    region.rejoin_wiped(REJOINING_SEAT).await;
    region.replace_node(0, &lost).await;
    region.wait_formed_within(RESTORE_TIMEOUT).await;
    let elapsed = started.elapsed();
    let during = load.take_latencies();
    let outcome = load.stop().await;
    region.wait_converged().await;

    let status = region.status(REJOINING_SEAT).await;
    let groups = status.iter().flat_map(|status| &status.groups);
    let by_snapshot = groups
        .filter(|group| group.is_shard() && group.purged > 0)
        .count();
    println!(
        "node {REJOINING_SEAT} was restored after {:.1} s, {by_snapshot} of {} shards by snapshot",
        elapsed.as_secs_f64(),
        args.shards
    );
    for (when, latencies) in [("before", &before), ("during", &during)] {
        println!("{when}: {}", latency_summary(latencies));
    }
    println!(
        "{} errors, {} of them writes of unknown outcome, {} requests retried",
        outcome.errors, outcome.unknown_outcomes, outcome.retries
    );
    // The node was killed: only writes in flight to it may fail, one for each client.
    let in_flight = outcome.unknown_outcomes <= args.clients as u64;
    let shown = outcome.first_errors.join("\n");
    ensure!(
        outcome.errors == outcome.unknown_outcomes && in_flight,
        "{shown}"
    );
    ensure!(by_snapshot > 0, "no shard was restored by snapshot");
    Ok(())
}

/// Formats the number of requests, and their latencies.
pub(crate) fn latency_summary(latencies: &Histogram<u64>) -> String {
    let millis = |quantile| latencies.value_at_quantile(quantile) as f64 / 1000.0;
    format!(
        "{} requests, median {:.2} ms, 99 % within {:.2} ms, longest {:.0} ms",
        latencies.len(),
        millis(0.5),
        millis(0.99),
        latencies.max() as f64 / 1000.0
    )
}

async fn fill(nodes: &[SocketAddr], bucket: &Bucket, args: &Args) -> anyhow::Result<()> {
    let started = Instant::now();
    let clients = args.clients as u64;
    let writers = (0..clients).map(|first| {
        let mut plain = PlainClient::new(nodes, usize::try_from(first).unwrap_or(0));
        let (bucket, keys) = (bucket.clone(), args.keys);
        tokio::spawn(async move {
            for key in (first..keys).step_by(usize::try_from(clients).unwrap_or(1)) {
                let request = RawRequest::new("PUT", &bucket.key_path(&key.to_string()));
                plain.send(&request.parse_body(&[b'v'; 100])).await?;
            }
            Ok::<(), PlainError>(())
        })
    });
    for written in join_all(writers).await {
        written?.map_err(anyhow::Error::msg)?;
    }
    println!(
        "{} keys written in {:.1} s",
        args.keys,
        started.elapsed().as_secs_f64()
    );
    Ok(())
}
