//! Mixes all kinds of faults in three distant regions, as the seed decides.

use clap::builder::PossibleValuesParser;
use cloudkv_faults::run_regions;

use crate::args::{KindArgs, RegionsRunArgs};
use crate::output::print_report;

#[derive(Clone, Debug, clap::Args)]
pub(crate) struct Args {
    #[command(flatten)]
    run: RegionsRunArgs,
    /// Minutes of faults
    #[arg(long, default_value_t = 5.0)]
    minutes: f64,
    /// Nodes of each region
    #[arg(long, default_value = "1", value_parser = PossibleValuesParser::new(["1", "3"]))]
    each: String,
    #[command(flatten)]
    kinds: KindArgs,
    /// Leave out the clients that watch shared keys, and export and import them, through routers
    #[arg(long)]
    without_watchers: bool,
    /// Have the third region join after a third of the time
    #[arg(long)]
    join: bool,
}

pub(crate) async fn run(args: &Args) -> anyhow::Result<()> {
    let mut options = args.run.options("regions", args.minutes, &args.each)?;
    options.has_late_region = args.join;
    options.has_watchers = !args.without_watchers;
    options.kinds = args.kinds.select(options.kinds, &[])?;
    print_report(&run_regions(&options).await)
}
