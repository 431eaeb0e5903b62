//! `cloudkv-bench`: measures a node beside what it must be compared with, in one run.
//!
//! `all` compares with a bare hyper server, RocksDB alone, and webdis in front of Redis;
//! `big` checks ten million keys; the other subcommands are the parts these are made of,
//! each a process of its own so that its processor time can be told apart.

mod engine;
mod http;
mod hyper_server;
mod load;
mod procfs;
mod workload;

use clap::{Parser, Subcommand};

#[derive(Debug, Parser)]
#[command(version, about = "Measures CloudKV beside what it is compared with")]
struct Cli {
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, Subcommand)]
enum Command {
    /// Put a server under load.
    Load(load::Args),
    /// Serve constant answers with hyper alone.
    HyperServer(hyper_server::Args),
}

fn main() -> anyhow::Result<()> {
    match Cli::parse().command {
        Command::Load(args) => load::run(&args),
        Command::HyperServer(args) => hyper_server::run(&args),
    }
}
