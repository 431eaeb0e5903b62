//! Power losses of one node, of several and of all, under load, as a seed says.

use anyhow::ensure;
use cloudkv_cluster_tests::faults::{PowerOptions, run_power};
use cloudkv_cluster_tests::power::Disk;

use super::mixed::new_seed;

#[derive(Clone, Debug, clap::Args)]
pub struct Args {
    /// Decides power losses and load; a new one if it isn't given. It is printed first
    #[arg(long)]
    seed: Option<u64>,
    /// Number of power losses
    #[arg(long, default_value_t = 100)]
    cuts: usize,
    /// Nodes of the region
    #[arg(long, default_value_t = 3)]
    nodes: usize,
    /// Shards of the region
    #[arg(long, default_value_t = 8)]
    shards: u32,
    /// Clients of each node
    #[arg(long, default_value_t = 4)]
    clients: u32,
}

pub async fn run(args: &Args) -> anyhow::Result<()> {
    let seed = args.seed.unwrap_or_else(new_seed);
    println!("--seed {seed} --cuts {}", args.cuts);
    ensure!(
        Disk::is_supported(),
        "power losses need Linux with /dev/fuse"
    );
    let mut options = PowerOptions::new(seed, args.cuts, args.nodes);
    options.run.talks = true;
    options.run.clients = args.clients;
    options.run.region.shards = args.shards;
    let report = run_power(&options).await;
    println!("{report}");
    ensure!(report.passed(), "the run with --seed {seed} failed");
    Ok(())
}
