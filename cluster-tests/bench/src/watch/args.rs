//! Options of `watch`.

use crate::args::parse_seconds;
use anyhow::{Result, ensure};
use std::path::PathBuf;

/// Options of `watch`.
#[derive(Debug, clap::Args)]
pub(crate) struct Args {
    /// Number of watchers at the low rate.
    #[arg(long, default_value_t = 1000)]
    pub watchers: usize,
    /// Low rate: writes per second.
    #[arg(long, default_value_t = 100.0)]
    pub rate: f64,
    /// High rate, with one watcher: writes per second.
    #[arg(long, default_value_t = 10_000.0)]
    pub high_rate: f64,
    /// Seconds of measurement for each number.
    #[arg(long, default_value_t = 10.0, value_parser = parse_seconds)]
    pub seconds: f64,
    /// Shards of the region.
    #[arg(long, default_value_t = 3)]
    pub shards: u32,
    /// Additional arguments of each node.
    #[arg(long = "node-arg", allow_hyphen_values = true)]
    pub node_args: Vec<String>,
    /// JSON file for the results; a Markdown table is written next to it.
    #[arg(long, default_value = "bench-watch.json")]
    pub out: PathBuf,
    /// Directory for data; must be on a real disk.
    #[arg(long, default_value = "target/bench-data")]
    pub data_dir: PathBuf,
}

impl Args {
    pub(super) fn validate(&self) -> Result<()> {
        // A node lets one address have half of its 10,000 connections.
        ensure!((1..=4000).contains(&self.watchers), "--watchers: 1 to 4000");
        for (name, rate) in [("rate", self.rate), ("high-rate", self.high_rate)] {
            ensure!((1.0..=1e6).contains(&rate), "--{name}: 1 to 1000000");
        }
        Ok(())
    }
}
