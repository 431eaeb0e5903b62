//! `cloudkv-faults`: runs regions of nodes while machines and networks fail.
//!
//! Without a subcommand it mixes all kinds of faults under load and checks what clients saw; each
//! subcommand measures or shows one thing. All start real nodes, release builds beside this
//! program.
// As in the library of the tests: a failure panics with what was observed.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

mod absence;
mod args;
mod failover;
mod mixed;
mod output;
mod power;
mod region_loss;
mod regions;
mod rejoin;
mod rolling;
mod saturate;
mod upgrade;

use clap::{Parser, Subcommand};
use cloudkv_test_harness::run_until_signal;

#[derive(Debug, Parser)]
#[command(version, args_conflicts_with_subcommands = true)]
#[command(about = "Runs regions while machines and networks fail")]
struct Cli {
    #[command(subcommand)]
    command: Option<Command>,

    #[command(flatten)]
    mixed: mixed::Args,
}

#[derive(Debug, Subcommand)]
enum Command {
    /// Kill a shard's leader repeatedly, and measure the time until its writes succeed again
    Failover(failover::Args),
    /// Cut a region off from the others while they are written, and measure how fast it catches up
    Absence(absence::Args),
    /// Lose the region that a router's global name resolves to, and measure the time until requests
    /// succeed again
    RegionLoss(region_loss::Args),
    /// Mix all kinds of faults in three regions, far from each other
    Regions(regions::Args),
    /// Cut the power of one node, of several and of all, under load: nothing acknowledged is lost
    Power(power::Args),
    /// Restart all nodes, one after the other, under load: no request may fail
    Rolling(rolling::Args),
    /// Load all nodes to saturation: no leader may change
    Saturate(saturate::Args),
    /// Have a node lose its disk and rejoin, under load; with `--data-mib` over a slow network,
    /// with a limit on the time that it takes
    Rejoin(rejoin::Args),
    /// Upgrade three regions from an older build, roll back, and upgrade again, under load
    Upgrade(upgrade::Args),
}

fn main() -> anyhow::Result<()> {
    let cli = Cli::parse();
    let work = async {
        match cli.command {
            None => mixed::run(&cli.mixed).await,
            Some(Command::Failover(args)) => failover::run(&args).await,
            Some(Command::Absence(args)) => absence::run(&args).await,
            Some(Command::RegionLoss(args)) => region_loss::run(&args).await,
            Some(Command::Regions(args)) => regions::run(&args).await,
            Some(Command::Power(args)) => power::run(&args).await,
            Some(Command::Rolling(args)) => rolling::run(&args).await,
            Some(Command::Saturate(args)) => saturate::run(&args).await,
            Some(Command::Rejoin(args)) => rejoin::run(&args).await,
            Some(Command::Upgrade(args)) => upgrade::run(&args).await,
        }
    };
    let runtime = tokio::runtime::Runtime::new()?;
    runtime.block_on(run_until_signal(work))?
}
