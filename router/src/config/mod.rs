//! Settings: one typed [`Config`], the same names everywhere.
//!
//! A setting is declared once, in `settings.rs`; what that means is told in
//! [`cloudkv_common::config`].

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
use cloudkv_common::config::{Flags, Found, Settings, printed_or_refused, to_toml};

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

    /// Print the settings in effect as a TOML file, with their documentation, and end
    #[arg(long)]
    print_config: bool,

    /// Ask the router that runs with these settings whether it is ready, and end with 0 if it is,
    /// else with 1: for health checks of containers
    #[arg(long)]
    health: bool,

    #[command(flatten)]
    settings: Flags<Config>,
}

/// What the command line asks for.
#[derive(Debug)]
pub enum Command {
    /// Run a router.
    Run(Box<Config>),
    /// Ask the router whose operator's port is here whether it is ready.
    Health(SocketAddr),
    /// Print this on standard output and end well: help, the version, the configuration.
    Print(String),
}

impl Config {
    /// Reads the command line, the variables and the file that one of them names.
    ///
    /// `args` begins with the program's name, as [`std::env::args_os`] does.
    pub fn load(
        args: impl IntoIterator<Item = OsString>,
        variables: impl IntoIterator<Item = (OsString, OsString)>,
    ) -> Result<Command, ConfigError> {
        let cli = match Cli::try_parse_from(args) {
            Ok(cli) => cli,
            Err(error) => return printed_or_refused(error).map(Command::Print),
        };
        let mut found = Found::new(Self::ALL);
        let file_from_variable = found.add_variables(variables)?;
        found.add_file(cli.config.or(file_from_variable))?;
        found.add_flags(cli.settings.0);
        let config = Self::from_found(&found)?;
        checks::check(&config)?;
        Ok(if cli.health {
            Command::Health(config.admin)
        } else if cli.print_config {
            Command::Print(to_toml(&config))
        } else {
            Command::Run(Box::new(config))
        })
    }

    /// Threads that serve users, with 0 resolved.
    pub fn workers(&self) -> usize {
        match self.threads {
            0 => std::thread::available_parallelism().map_or(1, workers_of),
            threads => threads,
        }
    }
}

/// How many threads serve users where there are so many cores: one is left to the system, which does
/// much of a proxy's work, and to the router's own. The fewer threads there are, the more often a thread
/// is awake already when something comes for it.
fn workers_of(cores: NonZero<usize>) -> usize {
    (cores.get() - 1).max(1)
}
