//! Upgrades three regions node by node from an older build, and rolls back, under load.

use std::path::PathBuf;
use std::time::Duration;

use anyhow::ensure;
use clap::builder::PossibleValuesParser;
use cloudkv_faults::{RegionsOptions, run_regions};

use crate::mixed::new_seed;

#[derive(Clone, Debug, clap::Args)]
pub(crate) struct Args {
    /// Older build of cloudkv-node
    #[arg(long)]
    old_binary: PathBuf,
    /// Seed of the load; random by default. Printed first
    #[arg(long)]
    seed: Option<u64>,
    /// Minimum time in minutes from the first restart to the last one
    #[arg(long, default_value_t = 3.0)]
    minutes: f64,
    /// Nodes of each region
    #[arg(long, default_value = "3", value_parser = PossibleValuesParser::new(["1", "3"]))]
    each: String,
    /// Number of shards
    #[arg(long, default_value_t = 4)]
    shards: u32,
    /// Clients of each node, and of the keys that all regions write
    #[arg(long, default_value_t = 2)]
    clients: u32,
}

pub(crate) async fn run(args: &Args) -> anyhow::Result<()> {
    let old = std::path::absolute(&args.old_binary)?;
    ensure!(old.is_file(), "there is no file {}", old.display());
    let seed = args.seed.unwrap_or_else(new_seed);
    let (minutes, each) = (args.minutes, args.each.parse()?);
    println!("upgrade --seed {seed} --minutes {minutes} --each {each}");
    let duration = Duration::from_secs_f64(minutes * 60.0);
    let mut options = RegionsOptions::new(seed, duration, each);
    options.is_verbose = true;
    options.shards = args.shards;
    options.clients_per_node = args.clients;
    options.kinds = vec![];
    options.old_binary = Some(old);
    let report = run_regions(&options).await;
    println!("{report}");
    ensure!(report.has_passed(), "the run with --seed {seed} failed");
    Ok(())
}
