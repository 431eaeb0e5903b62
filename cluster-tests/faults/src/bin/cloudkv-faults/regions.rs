//! Mixes all kinds of faults in three distant regions, as the seed decides.

use std::time::Duration;

use anyhow::ensure;
use clap::builder::PossibleValuesParser;
use cloudkv_faults::{FaultKind, RegionsOptions, run_regions};

use crate::mixed::new_seed;

#[derive(Clone, Debug, clap::Args)]
pub(crate) struct Args {
    /// Seed of faults and load; random by default. Printed first
    #[arg(long)]
    seed: Option<u64>,
    /// Minutes of faults
    #[arg(long, default_value_t = 5.0)]
    minutes: f64,
    /// Nodes of each region
    #[arg(long, default_value = "1", value_parser = PossibleValuesParser::new(["1", "3"]))]
    each: String,
    /// Number of shards
    #[arg(long, default_value_t = 4)]
    shards: u32,
    /// Clients of each node, and of the keys that all regions write
    #[arg(long, default_value_t = 2)]
    clients: u32,
    /// Only these kinds of faults
    #[arg(long, value_delimiter = ',')]
    kinds: Vec<FaultKind>,
    /// Have the third region join after a third of the time
    #[arg(long)]
    join: bool,
}

pub(crate) async fn run(args: &Args) -> anyhow::Result<()> {
    let seed = args.seed.unwrap_or_else(new_seed);
    let (minutes, each) = (args.minutes, args.each.parse()?);
    println!("regions --seed {seed} --minutes {minutes} --each {each}");
    let duration = Duration::from_secs_f64(minutes * 60.0);
    let mut options = RegionsOptions::new(seed, duration, each);
    options.is_verbose = true;
    options.shards = args.shards;
    options.clients_per_node = args.clients;
    options.has_late_region = args.join;
    if !args.kinds.is_empty() {
        let unsupported = args.kinds.iter().find(|kind| !options.kinds.contains(kind));
        ensure!(
            unsupported.is_none(),
            "{unsupported:?} is not supported with such regions"
        );
        options.kinds.clone_from(&args.kinds);
    }
    let report = run_regions(&options).await;
    println!("{report}");
    ensure!(report.has_passed(), "the run with --seed {seed} failed");
    Ok(())
}
