//! Loads the nodes to saturation, without faults: no leader may change.

use std::time::{Duration, Instant};

use anyhow::ensure;
use cloudkv_test_harness::load::{LoadPattern, PlainLoad};

use crate::args::{RegionArgs, from_minutes};
use crate::output::quantile_ms;

/// Interval at which the groups' terms are checked.
const CHECK_INTERVAL: Duration = Duration::from_secs(10);

#[derive(Clone, Debug, clap::Args)]
pub(crate) struct Args {
    /// Minutes of load
    #[arg(long, default_value_t = 10.0)]
    minutes: f64,
    /// Clients, all nodes together
    #[arg(long, default_value_t = 192)]
    clients: usize,
    #[command(flatten)]
    region: RegionArgs,
}

pub(crate) async fn run(args: &Args) -> anyhow::Result<()> {
    let region = args.region.start().await;
    let bucket = region.api(0).create_bucket_with(&[("plan", "pro")]).await;
    let nodes = region.http_addresses(0..3);
    // Once all groups have settled, leadership is transferred to preferred leaders. That is
    // awaited, since such elections are not caused by load.
    region.wait_leaders_balanced().await;
    let before = region.terms().await;
    let load = PlainLoad::start(&nodes, &bucket, args.clients, LoadPattern::OwnKeys, None);
    let started = Instant::now();
    while started.elapsed() < from_minutes(args.minutes) {
        let requests = load.requests();
        tokio::time::sleep(CHECK_INTERVAL).await;
        let latencies = load.take_latencies();
        println!(
            "{:5} s: {:6.0} requests/s, 99 % within {:.1} ms",
            started.elapsed().as_secs(),
            (load.requests() - requests) as f64 / CHECK_INTERVAL.as_secs_f64(),
            quantile_ms(&latencies, 0.99)
        );
        let now = region.terms().await;
        let changed: Vec<_> = now
            .iter()
            .filter(|(group, term)| before.get(*group) != Some(*term))
            .collect();
        ensure!(
            changed.is_empty(),
            "elections: {changed:?}, before {before:?}"
        );
    }
    let outcome = load.stop().await;
    println!(
        "{} min of saturation: {} requests, {} errors, no election",
        args.minutes, outcome.requests, outcome.errors
    );
    ensure!(outcome.errors == 0, "{}", outcome.first_errors.join("\n"));
    Ok(())
}
