//! Options of `ab`.

use crate::args::{RunArgs, parse_rounds, parse_seconds};
use anyhow::{Context, Result, ensure};
use std::path::PathBuf;

/// Options of `ab`.
#[derive(Debug, clap::Args)]
pub(crate) struct Args {
    /// Older build of cloudkv-node; this build is the one beside this program, or that of
    /// CLOUDKV_NODE_BIN.
    #[arg(long)]
    pub old_binary: PathBuf,
    /// Seconds of measurement for each number.
    #[arg(long, default_value_t = 5.0, value_parser = parse_seconds)]
    pub seconds: f64,
    /// Number of times that each build is started and measured.
    #[arg(long, default_value_t = 5, value_parser = parse_rounds)]
    pub rounds: usize,
    /// Numbers of connections.
    #[arg(long, value_delimiter = ',', default_value = "16,64")]
    pub connections: Vec<usize>,
    /// Shards of the region.
    #[arg(long, default_value_t = 3)]
    pub shards: u32,
    /// Client threads.
    #[arg(long, default_value_t = 1)]
    pub threads: usize,
    /// Additional arguments of each node.
    #[arg(long = "node-arg", allow_hyphen_values = true)]
    pub node_args: Vec<String>,
    /// Additional arguments of the nodes of this build only.
    #[arg(long = "new-node-arg", allow_hyphen_values = true)]
    pub new_node_args: Vec<String>,
    /// JSON file for the results; a Markdown table is written next to it.
    #[arg(long, default_value = "bench-ab.json")]
    pub out: PathBuf,
    #[command(flatten)]
    pub run: RunArgs,
}

impl Args {
    /// Returns the absolute path of the older build.
    pub(super) fn old_binary(&self) -> Result<PathBuf> {
        let old = std::path::absolute(&self.old_binary).context("path of the older build")?;
        ensure!(old.is_file(), "--old-binary: no file {}", old.display());
        Ok(old)
    }

    pub(super) fn validate(&self) -> Result<()> {
        ensure!(!self.connections.is_empty(), "--connections: at least one");
        let mut all = self.connections.iter();
        ensure!(
            all.all(|count| (1..=10_000).contains(count)),
            "--connections: 1 to 10000"
        );
        Ok(())
    }
}
