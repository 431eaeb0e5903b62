//! Options of `backup`.

use crate::args::{RunArgs, parse_seconds};
use crate::load_keys::KEY_DIGITS;
use anyhow::{Result, ensure};
use std::path::PathBuf;

/// Options of `backup`.
#[derive(Debug, clap::Args)]
pub(crate) struct Args {
    /// Number of keys.
    #[arg(long, default_value_t = 1_000_000)]
    pub keys: u64,
    /// Bytes of a value.
    #[arg(long, default_value_t = 100)]
    pub value_size: usize,
    /// Shards of the region.
    #[arg(long, default_value_t = 8)]
    pub shards: u32,
    /// Requests per second of other users, as many reads and as many writes.
    #[arg(long, default_value_t = 300.0)]
    pub users_rate: f64,
    /// Seconds for which the latency of other users is measured, each time.
    #[arg(long, default_value_t = 20.0, value_parser = parse_seconds)]
    pub seconds: f64,
    /// Additional arguments of each node.
    #[arg(long = "node-arg", allow_hyphen_values = true)]
    pub node_args: Vec<String>,
    /// JSON file for the results; a Markdown table is written next to it.
    #[arg(long, default_value = "bench-backup.json")]
    pub out: PathBuf,
    #[command(flatten)]
    pub run: RunArgs,
}

impl Args {
    pub(super) fn validate(&self) -> Result<()> {
        ensure!(
            (1..=10_u64.pow(KEY_DIGITS as u32)).contains(&self.keys),
            "--keys: 1 to 10^{KEY_DIGITS}"
        );
        ensure!(
            (1..=16_384).contains(&self.value_size),
            "--value-size: 1 to 16384"
        );
        ensure!(
            (1.0..=100_000.0).contains(&self.users_rate),
            "--users-rate: 1 to 100000"
        );
        Ok(())
    }
}
