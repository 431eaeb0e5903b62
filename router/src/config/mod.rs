//! Settings: one typed [`Config`], with the same names everywhere.
//!
//! Each setting is declared once, in `settings.rs`; [`cloudkv_common::config`] describes the
//! mechanism.

mod checks;
mod kinds;
mod settings;

#[cfg(test)]
mod tests;

use std::ffi::OsString;
use std::net::SocketAddr;
use std::num::NonZero;
use std::path::PathBuf;

use clap::Parser;
use cloudkv_common::config::{Flags, help_or_error, load_settings, to_toml};

pub use cloudkv_common::config::ConfigError;
pub use kinds::Domain;
pub use settings::Config;

/// CloudKV's router.
///
/// Each setting is a flag, an environment variable and a key of the TOML file; flags win over
/// variables, variables over the file.
#[derive(Parser)]
#[command(
    name = "cloudkv-router",
    version,
    max_term_width = 100,
    after_help = "--help shows all settings, --print-config writes them as a file.",
    after_long_help = "--print-config writes the settings as a file."
)]
struct Cli {
    /// TOML file with settings [variable: CLOUDKV_CONFIG]
    #[arg(long, value_name = "FILE")]
    config: Option<PathBuf>,

    /// Print the settings in effect as a TOML file, with their documentation, and exit
    #[arg(long)]
    print_config: bool,

    /// Check whether the router that runs with these settings is ready, and exit with 0 if it is,
    /// else with 1: for health checks of containers
    #[arg(long)]
    health: bool,

    #[command(flatten)]
    settings: Flags<Config>,
}

/// Command that the command line requests.
#[derive(Debug)]
pub enum Command {
    /// Run a router.
    Run(Box<Config>),
    /// Check whether the router with this admin port is ready.
    Health(SocketAddr),
    /// Print this text on standard output and exit with 0: help, the version, the configuration.
    Print(String),
}

impl Config {
    /// Reads the command line, the environment variables, and the file that one of them names.
    ///
    /// `args` begins with the program's name, as [`std::env::args_os`] does.
    pub fn load(
        args: impl IntoIterator<Item = OsString>,
        variables: impl IntoIterator<Item = (OsString, OsString)>,
    ) -> Result<Command, ConfigError> {
        let cli = match Cli::try_parse_from(args) {
            Ok(cli) => cli,
            Err(error) => return help_or_error(error).map(Command::Print),
        };
        let (config, _) = load_settings(variables, cli.config, cli.settings, checks::check)?;
        Ok(if cli.health {
            Command::Health(config.admin)
        } else if cli.print_config {
            Command::Print(to_toml(&config))
        } else {
            Command::Run(Box::new(config))
        })
    }

    /// Number of threads that serve users, with 0 resolved.
    pub fn workers(&self) -> usize {
        match self.threads {
            0 => std::thread::available_parallelism().map_or(1, default_workers),
            threads => threads,
        }
    }
}

/// Default number of threads that serve users. One core is left to the system, which does much of a
/// proxy's work, and to the router's other tasks. The fewer threads there are, the more often a
/// thread is already awake when a request arrives.
fn default_workers(cores: NonZero<usize>) -> usize {
    (cores.get() - 1).max(1)
}
