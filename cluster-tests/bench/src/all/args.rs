//! Options of `all`.

use crate::args::{RunArgs, parse_seconds};
use crate::servers::Tuning;
use std::path::PathBuf;

/// Options of `all`.
#[derive(Debug, clap::Args)]
pub(crate) struct Args {
    /// Seconds of measurement for each number.
    #[arg(long, default_value_t = 4.0, value_parser = parse_seconds)]
    pub seconds: f64,
    /// One second for each number, 1 and 64 connections, 100 B only: about two minutes.
    #[arg(long)]
    pub quick: bool,
    /// JSON file for the results; a Markdown table is written next to it.
    #[arg(long, default_value = "bench-results.json")]
    pub out: PathBuf,
    #[command(flatten)]
    pub run: RunArgs,
    /// Program of the node, a release build.
    #[arg(long, default_value = "target/release/cloudkv-node")]
    pub node_bin: PathBuf,
    /// Measure only the systems that the node is compared with.
    #[arg(long)]
    pub skip_node: bool,
    /// Configuration of webdis.
    #[arg(long, value_enum, default_value = "best")]
    pub webdis: Tuning,
    /// Number of client threads.
    #[arg(long, default_value_t = 1)]
    pub threads: usize,
}
