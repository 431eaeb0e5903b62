//! Arguments that several commands have.

use std::time::Duration;

use anyhow::bail;
use cloudkv_faults::{FaultKind, RegionsOptions};
use cloudkv_test_harness::region::{Region, RegionOptions};
use uuid::Uuid;

/// Seed of a run.
#[derive(Clone, Copy, Debug, clap::Args)]
pub(crate) struct SeedArgs {
    /// Seed of faults and load; random by default. Printed first
    #[arg(long)]
    seed: Option<u64>,
}

impl SeedArgs {
    /// Returns the seed: by default a new one, and short, so that it is easily passed on.
    pub(crate) fn seed(self) -> u64 {
        self.seed.unwrap_or_else(|| {
            let [a, b, c, d, ..] = Uuid::new_v4().into_bytes();
            u64::from(u32::from_be_bytes([a, b, c, d]))
        })
    }
}

/// Kinds of faults of a run.
#[derive(Clone, Debug, clap::Args)]
pub(crate) struct KindArgs {
    /// Only these kinds of faults
    #[arg(long, value_delimiter = ',')]
    kinds: Vec<FaultKind>,
}

impl KindArgs {
    /// Returns the requested kinds: by default `usual`; those in `on_request` are allowed, too.
    ///
    /// # Errors
    /// Fails if another kind is requested.
    pub(crate) fn select(
        &self,
        usual: Vec<FaultKind>,
        on_request: &[FaultKind],
    ) -> anyhow::Result<Vec<FaultKind>> {
        if self.kinds.is_empty() {
            return Ok(usual);
        }
        let is_supported = |kind: &FaultKind| usual.contains(kind) || on_request.contains(kind);
        if let Some(kind) = self.kinds.iter().find(|kind| !is_supported(kind)) {
            bail!("{kind} is not supported with such regions");
        }
        Ok(self.kinds.clone())
    }
}

/// A region of three nodes.
#[derive(Clone, Debug, clap::Args)]
pub(crate) struct RegionArgs {
    /// Shards of the region
    #[arg(long, default_value_t = 8)]
    shards: u32,
    /// Additional arguments of each node
    #[arg(long = "node-arg", allow_hyphen_values = true)]
    node_args: Vec<String>,
}

impl RegionArgs {
    /// Starts the region.
    pub(crate) async fn start(&self) -> Region {
        let options = RegionOptions {
            shards: self.shards,
            args: self.node_args.clone(),
            ..RegionOptions::default()
        };
        Region::start_with(options).await
    }
}

/// A run over three regions.
#[derive(Clone, Debug, clap::Args)]
pub(crate) struct RegionsRunArgs {
    #[command(flatten)]
    seed: SeedArgs,
    /// Number of shards
    #[arg(long, default_value_t = 4)]
    shards: u32,
    /// Clients of each node, and of the keys that all regions write
    #[arg(long, default_value_t = 2)]
    clients: u32,
}

impl RegionsRunArgs {
    /// Prints the command that repeats the run, and creates the options of so many minutes with
    /// `each` nodes in each region.
    pub(crate) fn options(
        &self,
        command: &str,
        minutes: f64,
        each: &str,
    ) -> anyhow::Result<RegionsOptions> {
        let seed = self.seed.seed();
        println!("{command} --seed {seed} --minutes {minutes} --each {each}");
        Ok(RegionsOptions {
            shards: self.shards,
            clients_per_node: self.clients,
            is_verbose: true,
            ..RegionsOptions::new(seed, from_minutes(minutes), each.parse()?)
        })
    }
}

/// Returns a duration of so many minutes.
pub(crate) fn from_minutes(minutes: f64) -> Duration {
    Duration::from_secs_f64(minutes * 60.0)
}
