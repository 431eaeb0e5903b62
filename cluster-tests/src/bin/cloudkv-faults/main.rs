//! `cloudkv-faults`: what regions of nodes do when machines and networks fail.
//!
//! Alone it mixes all kinds of faults under load and checks what clients saw; the subcommands
//! each measure or show one thing. All start real nodes, release builds beside this program.
// As in the library of the tests: who can't go on says what it saw.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

mod absence;
mod failover;
mod mixed;
mod power;
mod region_loss;
mod regions;
mod rejoin;
mod rejoin_volume;
mod rolling;
mod saturate;
mod upgrade;

use clap::{Parser, Subcommand};
use tokio::signal::unix::{SignalKind, signal};

#[derive(Debug, Parser)]
#[command(version, args_conflicts_with_subcommands = true)]
#[command(about = "Shows what regions do when machines and networks fail")]
struct Cli {
    #[command(subcommand)]
    command: Option<Command>,

    #[command(flatten)]
    mixed: mixed::Args,
}

#[derive(Debug, Subcommand)]
enum Command {
    /// Kill the leader of a shard again and again; how long until its writes go on?
    Failover(failover::Args),
    /// Cut a region off from the others while they are written; how fast does it catch up?
    Absence(absence::Args),
    /// Lose the region that a router's global name stands for; how long until that goes on?
    RegionLoss(region_loss::Args),
    /// Mix all kinds of faults in three regions, far from each other
    Regions(regions::Args),
    /// Take the power of one node, of several and of all, under load: nothing acknowledged is lost
    Power(power::Args),
    /// Restart all nodes, one after the other, under load: no request may fail.
    Rolling(rolling::Args),
    /// Load all nodes as much as they take: no leader may change.
    Saturate(saturate::Args),
    /// Let a node lose its disk and come back, under load; with `--data-mib` over a slow link, and
    /// judge how long it takes.
    Rejoin(rejoin::Args),
    /// Roll three regions forward from an older build, back, and forward again, under load.
    Upgrade(upgrade::Args),
}

fn main() -> anyhow::Result<()> {
    let cli = Cli::parse();
    let runtime = tokio::runtime::Runtime::new()?;
    runtime.block_on(async {
        // Nodes end with this process' destructors, which a signal would skip.
        let mut terminate = signal(SignalKind::terminate())?;
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
        tokio::select! {
            result = work => result,
            _ = tokio::signal::ctrl_c() => anyhow::bail!("interrupted"),
            _ = terminate.recv() => anyhow::bail!("terminated"),
        }
    })
}
