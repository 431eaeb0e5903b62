//! Has a node lose its disk and rejoin under a new identity, while the others serve.

use std::time::{Duration, Instant};

use anyhow::ensure;
use cloudkv_test_harness::load::{LoadPattern, PlainLoad};

use super::args::Args;
use super::steps::{REJOINING_SEAT, check_errors, write_keys};
use crate::output::latency_summary;

/// Maximum time for the node to be restored.
const RESTORE_TIMEOUT: Duration = Duration::from_secs(1200);

/// Bytes of a value.
const VALUE_BYTES: usize = 100;

/// Measures the load and its latencies before the loss, and while the node is restored.
pub(super) async fn run(args: &Args) -> anyhow::Result<()> {
    let mut region = args.region.start().await;
    let bucket = region.api(0).create_bucket_with(&[("plan", "pro")]).await;
    let (clients, keys) = (args.clients, args.keys);
    write_keys(&region, &bucket, clients, keys, VALUE_BYTES).await?;

    let others = region.http_addresses(0..REJOINING_SEAT);
    let measure = Duration::from_secs_f64(args.seconds);
    let work = LoadPattern::AllKeys(keys);
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

    let started = Instant::now();
    region.replace_after_disk_loss(REJOINING_SEAT, 0).await;
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
        region.shards()
    );
    for (when, latencies) in [("before", &before), ("during", &during)] {
        println!("{when}: {}", latency_summary(latencies));
    }
    check_errors(&outcome, args.clients)?;
    ensure!(by_snapshot > 0, "no shard was restored by snapshot");
    Ok(())
}
