//! Cuts the power of one node, of several, of whole regions and of all, under load, on disks that
//! lose unsynced writes, as the seed decides.

use anyhow::ensure;
use clap::builder::PossibleValuesParser;
use cloudkv_faults::{PowerOptions, RegionsOptions, Report, run_power, run_regions};
use cloudkv_test_harness::power::Disk;

use crate::args::SeedArgs;
use crate::output::print_report;

#[derive(Clone, Debug, clap::Args)]
pub(crate) struct Args {
    #[command(flatten)]
    seed: SeedArgs,
    /// Number of power losses
    #[arg(long, default_value_t = 100)]
    cuts: usize,
    /// Number of regions: with 3, mostly whole regions lose power
    #[arg(long, default_value = "1", value_parser = PossibleValuesParser::new(["1", "3"]))]
    regions: String,
    /// Nodes of each region: by default 3 in one region, 1 in each of three
    #[arg(long)]
    nodes: Option<usize>,
    /// Number of shards
    #[arg(long, default_value_t = 8)]
    shards: u32,
    /// Clients of each node: by default 4 in one region, 2 in each of three, where as many write
    /// keys shared by all regions
    #[arg(long)]
    clients: Option<u32>,
}

pub(crate) async fn run(args: &Args) -> anyhow::Result<()> {
    let seed = args.seed.seed();
    let is_one = args.regions == "1";
    let nodes = args.nodes.unwrap_or(if is_one { 3 } else { 1 });
    let (regions, cuts) = (&args.regions, args.cuts);
    println!("power --regions {regions} --nodes {nodes} --seed {seed} --cuts {cuts}");
    ensure!(
        Disk::is_supported(),
        "power losses need Linux with /dev/fuse"
    );
    let report = if is_one {
        run_one(seed, nodes, args).await
    } else {
        ensure!([1, 3].contains(&nodes), "regions of 1 or 3 nodes each");
        run_several(seed, nodes, args).await
    };
    print_report(&report)
}

async fn run_one(seed: u64, nodes: usize, args: &Args) -> Report {
    let mut options = PowerOptions::new(seed, args.cuts, nodes);
    options.run.is_verbose = true;
    options.run.region.shards = args.shards;
    options.run.clients_per_node = args.clients.unwrap_or(options.run.clients_per_node);
    run_power(&options).await
}

async fn run_several(seed: u64, each: usize, args: &Args) -> Report {
    let mut options = RegionsOptions::with_power_losses(seed, args.cuts, each);
    options.is_verbose = true;
    options.shards = args.shards;
    options.clients_per_node = args.clients.unwrap_or(options.clients_per_node);
    run_regions(&options).await
}
