//! Mixes all kinds of faults at random, as the seed decides.

use std::time::Duration;

use anyhow::ensure;
use cloudkv_faults::{FaultKind, RunOptions, run as run_faults};

#[derive(Clone, Debug, clap::Args)]
pub(crate) struct Args {
    /// Seed of faults and load; random by default. Printed first
    #[arg(long)]
    seed: Option<u64>,
    /// Minutes of faults
    #[arg(long, default_value_t = 5.0)]
    minutes: f64,
    /// Nodes of the region
    #[arg(long, default_value_t = 3)]
    nodes: usize,
    /// Shards of the region
    #[arg(long, default_value_t = 8)]
    shards: u32,
    /// Clients of each node
    #[arg(long, default_value_t = 6)]
    clients: u32,
    /// Only these kinds of faults
    #[arg(long, value_delimiter = ',')]
    kinds: Vec<FaultKind>,
}

pub(crate) async fn run(args: &Args) -> anyhow::Result<()> {
    let seed = args.seed.unwrap_or_else(new_seed);
    println!("--seed {seed} --minutes {}", args.minutes);
    let mut options = RunOptions::new(seed, Duration::from_secs_f64(args.minutes * 60.0));
    options.is_verbose = true;
    options.clients_per_node = args.clients;
    options.region.nodes = args.nodes;
    options.region.shards = args.shards;
    options.kinds = FaultKind::for_region_size(args.nodes);
    if !args.kinds.is_empty() {
        let is_on_request = |kind: &FaultKind| *kind == FaultKind::Damage && args.nodes > 2;
        let is_supported = |kind: &FaultKind| options.kinds.contains(kind) || is_on_request(kind);
        let unsupported = args.kinds.iter().find(|kind| !is_supported(kind));
        ensure!(
            unsupported.is_none(),
            "{unsupported:?} is not supported with such a region"
        );
        options.kinds.clone_from(&args.kinds);
    }
    let report = run_faults(&options).await;
    println!("{report}");
    ensure!(report.has_passed(), "the run with --seed {seed} failed");
    Ok(())
}

/// Returns a new seed: short, so that it is easily passed on.
pub(crate) fn new_seed() -> u64 {
    let random = uuid::Uuid::new_v4();
    u64::from(u32::from_be_bytes(
        random.into_bytes()[..4].try_into().expect("4 bytes"),
    ))
}
