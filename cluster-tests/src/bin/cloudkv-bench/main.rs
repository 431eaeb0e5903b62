//! `cloudkv-bench`: measures a node beside what it must be compared with, in one run.
//!
//! `all` compares with a bare hyper server, RocksDB alone, and webdis in front of Redis;
//! `region` compares three nodes with three of etcd; `router` compares a router with HAProxy and
//! nginx; `geo` measures propagation between regions; `big` checks ten million keys; the other subcommands are the parts these are made of,
//! each a process of its own so that its processor time can be told apart.

mod all;
mod big;
mod disk;
mod engine;
mod geo;
mod http;
mod hyper_server;
mod load;
mod load_keys;
mod process;
mod procfs;
mod region;
mod report;
mod rocks;
mod router;
mod servers;
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
    /// Measure a node beside bare hyper, RocksDB alone, and webdis in front of Redis.
    All(all::Args),
    /// Measure a region of three nodes beside three of etcd.
    Region(region::Args),
    /// Measure a router beside HAProxy and nginx, in front of the same node.
    Router(router::Args),
    /// Measure how long writes take to another region.
    Geo(geo::Args),
    /// Check a node with ten million keys.
    Big(big::Args),
    /// Write many keys through a node's API.
    LoadKeys(load_keys::Args),
    /// Put a server under load.
    Load(load::Args),
    /// Serve constant answers with hyper alone.
    HyperServer(hyper_server::Args),
    /// Measure RocksDB alone.
    Rocksdb(rocks::Args),
}

fn main() -> anyhow::Result<()> {
    match Cli::parse().command {
        Command::All(args) => all::run(&args),
        Command::Region(args) => region::run(&args),
        Command::Router(args) => router::run(&args),
        Command::Geo(args) => geo::run(&args),
        Command::Big(args) => big::run(&args),
        Command::LoadKeys(args) => load_keys::run(&args),
        Command::Load(args) => load::run(&args),
        Command::HyperServer(args) => hyper_server::run(&args),
        Command::Rocksdb(args) => rocks::run(&args),
    }
}
