//! All kinds of faults at random, as a seed says.

use std::time::Duration;

use anyhow::ensure;
use cloudkv_cluster_tests::faults::{Kind, RunOptions, run as run_faults};

#[derive(Clone, Debug, clap::Args)]
pub struct Args {
    /// Decides faults and load; a new one if it isn't given. It is printed first
    #[arg(long)]
    seed: Option<u64>,
    /// How long there are faults
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
    kinds: Vec<Kind>,
}

pub async fn run(args: &Args) -> anyhow::Result<()> {
    let seed = args.seed.unwrap_or_else(new_seed);
    println!("--seed {seed} --minutes {}", args.minutes);
    let mut options = RunOptions::new(seed, Duration::from_secs_f64(args.minutes * 60.0));
    options.talks = true;
    options.clients = args.clients;
    options.region.nodes = args.nodes;
    options.region.shards = args.shards;
    options.kinds = Kind::of_a_region(args.nodes);
    if !args.kinds.is_empty() {
        let by_name = |kind: &Kind| *kind == Kind::Damage && args.nodes > 2;
        let happens = |kind: &Kind| options.kinds.contains(kind) || by_name(kind);
        let odd = args.kinds.iter().find(|kind| !happens(kind));
        ensure!(odd.is_none(), "{odd:?} is no fault of such a region");
        options.kinds.clone_from(&args.kinds);
    }
    let report = run_faults(&options).await;
    println!("{report}");
    ensure!(report.passed(), "the run with --seed {seed} failed");
    Ok(())
}

/// Short, so that it is easily said again.
pub fn new_seed() -> u64 {
    let random = uuid::Uuid::new_v4();
    u64::from(u32::from_be_bytes(
        random.into_bytes()[..4].try_into().expect("4 bytes"),
    ))
}
