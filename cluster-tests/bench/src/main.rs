//! `cloudkv-bench`: measures a node next to the systems that it is compared with, in one run.
//!
//! `all` compares with a bare hyper server, RocksDB alone, and webdis in front of Redis; `region`
//! compares three nodes with three of etcd; `batches` compares puts in batches with single ones;
//! `ab` compares this build with an older one; `router` compares a router with HAProxy and nginx;
//! `geo` measures propagation between regions; `bulk` measures exports and imports, `backup` backups
//! and restores, and `watch` those who watch a bucket; `big` checks ten million keys. The other
//! subcommands are the parts that these consist of, each a process of its own so that its processor
//! time is measured separately.

mod ab;
mod all;
mod args;
mod backup;
mod batches;
mod big;
mod bulk;
mod disk;
mod engine;
mod geo;
mod http;
mod hyper_server;
mod load;
mod load_keys;
mod peak_memory;
mod process;
mod procfs;
mod region;
mod report;
mod request_template;
mod rocks;
mod rounds;
mod router;
mod servers;
mod streamed;
mod transfer;
mod users;
mod watch;
mod workload;

use clap::{Parser, Subcommand};

#[derive(Debug, Parser)]
#[command(version, about = "Measures CloudKV next to comparable systems")]
struct Cli {
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, Subcommand)]
enum Command {
    /// Measure a node next to bare hyper, RocksDB alone, and webdis in front of Redis.
    All(all::Args),
    /// Measure a region of three nodes next to three of etcd.
    Region(region::Args),
    /// Measure puts in batches next to single ones.
    Batches(batches::Args),
    /// Measure reads and writes with an older build of the node and with this one, alternately.
    Ab(ab::Args),
    /// Measure a router next to HAProxy and nginx, in front of the same node.
    Router(router::Args),
    /// Measure the latency of propagation to another region.
    Geo(geo::Args),
    /// Measure exports and imports next to single writes.
    Bulk(bulk::Args),
    /// Measure a backup and its restore, and compare all keys.
    Backup(backup::Args),
    /// Measure how long events take to reach those who watch a bucket.
    Watch(watch::Args),
    /// Check a node with ten million keys.
    Big(big::Args),
    /// Write many keys through a node's API.
    LoadKeys(load_keys::Args),
    /// Put a server under load.
    Load(load::Args),
    /// Serve constant responses with hyper alone.
    HyperServer(hyper_server::Args),
    /// Measure RocksDB alone.
    Rocksdb(rocks::Args),
}

fn main() -> anyhow::Result<()> {
    match Cli::parse().command {
        Command::All(args) => all::run(&args),
        Command::Region(args) => region::run(&args),
        Command::Batches(args) => batches::run(&args),
        Command::Ab(args) => ab::run(&args),
        Command::Router(args) => router::run(&args),
        Command::Geo(args) => geo::run(&args),
        Command::Bulk(args) => bulk::run(&args),
        Command::Backup(args) => backup::run(&args),
        Command::Watch(args) => watch::run(&args),
        Command::Big(args) => big::run(&args),
        Command::LoadKeys(args) => load_keys::run(&args),
        Command::Load(args) => load::run(&args),
        Command::HyperServer(args) => hyper_server::run(&args),
        Command::Rocksdb(args) => rocks::run(&args),
    }
}
