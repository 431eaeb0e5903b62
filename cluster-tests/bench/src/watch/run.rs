//! Measures, and publishes the results.

use super::args::Args;
use super::phase::{PhasePlan, RegionUnderTest};
use super::report::{self, Comparison, Report};
use crate::process;
use crate::procfs::Machine;
use crate::report::publish;
use anyhow::{Context, Result};
use cloudkv_test_harness::region::{Region, RegionOptions};
use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};
use std::path::Path;

const NODE_COUNT: usize = 3;

/// Arguments with which one address may have all watchers.
const WATCHER_ARGS: [&str; 4] = [
    "--address-connections=5000",
    "--max-watchers=20000",
    "--max-bucket-watchers=20000",
    "--address-watchers=20000",
];

/// Measures, prints and writes the results.
pub(crate) fn run(args: &Args) -> Result<()> {
    args.validate()?;
    raise_fd_limit()?;
    let report = process::block_on_until_signal(measure(args))?;
    publish(&args.out, &report, &report::markdown(&report))
}

async fn measure(args: &Args) -> Result<Report> {
    let machine = Machine::read();
    let dir = process::work_dir(&args.data_dir)?;
    let region = start_region(args, dir.path()).await;
    let pids = region.nodes.iter().filter_map(|member| member.pid());
    let nodes = RegionUnderTest {
        addrs: region.http_addresses(0..NODE_COUNT),
        pids: pids.collect(),
    };
    let mut comparisons = Vec::new();
    for (rate, watchers) in [(args.rate, args.watchers), (args.high_rate, 1)] {
        let unwatched = PhasePlan { rate, watchers: 0 };
        let unwatched = nodes.measure(args, unwatched).await?;
        let watched = nodes.measure(args, PhasePlan { rate, watchers }).await?;
        eprintln!(
            "{watchers} watchers, {rate} writes/s: delay p50 {:.0} µs, p99 {:.0} µs",
            watched.delay_us.p50, watched.delay_us.p99
        );
        comparisons.push(Comparison { unwatched, watched });
    }
    Ok(Report {
        machine,
        seconds: args.seconds,
        comparisons,
    })
}

async fn start_region(args: &Args, dir: &Path) -> Region {
    let node_args = WATCHER_ARGS.iter().map(ToString::to_string);
    let options = RegionOptions {
        nodes: NODE_COUNT,
        shards: args.shards,
        args: node_args.chain(args.node_args.iter().cloned()).collect(),
        dir: Some(dir.join("region")),
        is_direct: true,
        ..RegionOptions::default()
    };
    Region::start_with(options).await
}

/// Lets this process have a connection for each watcher.
fn raise_fd_limit() -> Result<()> {
    let limit = getrlimit(Resource::Nofile);
    let raised = Rlimit {
        current: limit.maximum,
        ..limit
    };
    setrlimit(Resource::Nofile, raised).context("raise the limit of open files")
}
