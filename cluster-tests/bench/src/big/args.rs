//! Options of `big`.

use crate::args::{RunArgs, parse_seconds};
use std::path::PathBuf;

/// Options of `big`.
#[derive(Debug, clap::Args)]
pub(crate) struct Args {
    /// Number of keys.
    #[arg(long, default_value_t = 10_000_000)]
    pub keys: u64,
    /// Seconds of measurement for each throughput.
    #[arg(long, default_value_t = 10.0, value_parser = parse_seconds)]
    pub seconds: f64,
    /// Connections of the loader.
    #[arg(long, default_value_t = 256)]
    pub connections: usize,
    /// Requests in flight on each of the loader's connections.
    #[arg(long, default_value_t = 16)]
    pub depth: usize,
    /// JSON file for the results; a Markdown table is written next to it.
    #[arg(long, default_value = "bench-big.json")]
    pub out: PathBuf,
    #[command(flatten)]
    pub run: RunArgs,
    /// Program of the node, a release build.
    #[arg(long, default_value = "target/release/cloudkv-node")]
    pub node_bin: PathBuf,
}
