//! Kills a shard's leader with `kill -9`, and measures the time until its writes succeed again.

use std::net::SocketAddr;
use std::time::{Duration, Instant};

use anyhow::ensure;
use cloudkv_test_harness::RawRequest;
use cloudkv_test_harness::load::{ExchangeOutcome, LoadPattern, NodeConnection, PlainLoad};
use cloudkv_test_harness::region::key_in_shard;
use futures_util::stream::{FuturesUnordered, StreamExt};

use crate::args::RegionArgs;
use crate::output::median_and_max;

/// Interval between two writes: the precision of the measurement.
const WRITE_INTERVAL: Duration = Duration::from_millis(10);

/// Timeout of a single write; others are sent meanwhile.
const WRITE_TIMEOUT: Duration = Duration::from_secs(30);

/// Limits of the median and of the longest outage.
const MAX_MEDIAN_OUTAGE: Duration = Duration::from_millis(800);
const MAX_OUTAGE: Duration = Duration::from_secs(2);

#[derive(Clone, Debug, clap::Args)]
pub(crate) struct Args {
    /// Number of kills
    #[arg(long, default_value_t = 50)]
    kills: u32,
    #[command(flatten)]
    region: RegionArgs,
}

pub(crate) async fn run(args: &Args) -> anyhow::Result<()> {
    let mut region = args.region.start().await;
    let bucket = region.api(0).create_bucket_with(&[("plan", "pro")]).await;
    let mut gaps = vec![];
    for round in 0..args.kills {
        let shard = round % region.shards();
        let name = key_in_shard(&bucket, "k", shard, region.shards());
        let leader = region.wait_leader(&format!("shard-{shard}")).await;
        let others = region.running().into_iter();
        let others = region.http_addresses(others.filter(|seat| *seat != leader));
        let load = PlainLoad::start(&others, &bucket, 2, LoadPattern::OwnKeys, Some(100.0));
        let path = bucket.key_path(&name);
        first_write(&others, &path).await;
        let killed = Instant::now();
        region.kill(leader);
        first_write(&others, &path).await;
        let gap = killed.elapsed();
        println!(
            "{:3}: shard {shard} at node {leader}: {:4} ms",
            round + 1,
            gap.as_millis()
        );
        gaps.push(gap);
        if gap > MAX_OUTAGE {
            region.keep_files();
            println!(
                "     too long; the logs of the nodes are in {}",
                region.dir().display()
            );
        }
        load.stop().await;
        region.restart(leader).await;
        region.wait_formed().await;
    }
    let (median, worst) = median_and_max(&mut gaps)?;
    println!(
        "kill -9 of a shard's leader, {} times: writes succeeded again after {} ms in the median, \
         {} ms at worst",
        gaps.len(),
        median.as_millis(),
        worst.as_millis()
    );
    ensure!(
        median <= MAX_MEDIAN_OUTAGE && worst <= MAX_OUTAGE,
        "outages of more than {MAX_MEDIAN_OUTAGE:?} in the median, or {MAX_OUTAGE:?} at worst"
    );
    Ok(())
}

/// Sends a write every [`WRITE_INTERVAL`], each over a connection of its own and to the next node,
/// and returns when the first one succeeds.
async fn first_write(nodes: &[SocketAddr], path: &str) {
    let mut writes = FuturesUnordered::new();
    let mut ticks = tokio::time::interval(WRITE_INTERVAL);
    for number in 0_u64.. {
        tokio::select! {
            _ = ticks.tick() => {
                let node = nodes[usize::try_from(number).unwrap_or(0) % nodes.len()];
                let body = number.to_string();
                let request = RawRequest::new("PUT", path).parse_body(body.as_bytes());
                writes.push(async move {
                    NodeConnection::new(node, WRITE_TIMEOUT).exchange(&request).await
                });
            }
            Some(reply) = writes.next() => {
                if matches!(reply, ExchangeOutcome::Response(answer) if answer.status == 200) {
                    return;
                }
            }
        }
    }
}
