//! Upgrades three regions node by node from an older build, and rolls back, under load.

use std::path::PathBuf;

use anyhow::ensure;
use clap::builder::PossibleValuesParser;
use cloudkv_faults::run_regions;

use crate::args::RegionsRunArgs;
use crate::output::print_report;

#[derive(Clone, Debug, clap::Args)]
pub(crate) struct Args {
    /// Older build of cloudkv-node
    #[arg(long)]
    old_binary: PathBuf,
    #[command(flatten)]
    run: RegionsRunArgs,
    /// Minimum time in minutes from the first restart to the last one
    #[arg(long, default_value_t = 3.0)]
    minutes: f64,
    /// Nodes of each region
    #[arg(long, default_value = "3", value_parser = PossibleValuesParser::new(["1", "3"]))]
    each: String,
}

pub(crate) async fn run(args: &Args) -> anyhow::Result<()> {
    let old = std::path::absolute(&args.old_binary)?;
    ensure!(old.is_file(), "there is no file {}", old.display());
    let mut options = args.run.options("upgrade", args.minutes, &args.each)?;
    options.kinds = vec![];
    options.old_binary = Some(old);
    print_report(&run_regions(&options).await)
}
