//! Mixes all kinds of faults at random, as the seed decides.

use cloudkv_faults::{FaultKind, RunOptions, run as run_faults};

use crate::args::{KindArgs, SeedArgs, from_minutes};
use crate::output::print_report;

#[derive(Clone, Debug, clap::Args)]
pub(crate) struct Args {
    #[command(flatten)]
    seed: SeedArgs,
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
    /// Leave out the clients that watch the bucket, and export and import it, through routers
    #[arg(long)]
    without_watchers: bool,
    /// Leave out the backups, the last of which is restored and checked
    #[arg(long)]
    without_backups: bool,
    #[command(flatten)]
    kinds: KindArgs,
}

pub(crate) async fn run(args: &Args) -> anyhow::Result<()> {
    let seed = args.seed.seed();
    println!("--seed {seed} --minutes {}", args.minutes);
    let mut options = RunOptions::new(seed, from_minutes(args.minutes));
    options.is_verbose = true;
    options.clients_per_node = args.clients;
    options.has_watchers = !args.without_watchers;
    options.has_backups = !args.without_backups;
    options.region.nodes = args.nodes;
    options.region.shards = args.shards;
    let on_request: &[FaultKind] = if args.nodes > 2 {
        &[FaultKind::Damage]
    } else {
        &[]
    };
    let usual = FaultKind::for_region_size(args.nodes);
    options.kinds = args.kinds.select(usual, on_request)?;
    print_report(&run_faults(&options).await)
}
