//! Settings: one typed [`Config`], the same names everywhere.
//!
//! A setting is declared once, in `settings.rs`: its field, its documentation, what is right for
//! it and its default. From that come the flag (`--max-connections`), the variable
//! (`CLOUDKV_MAX_CONNECTIONS`), the key of the TOML file (`max_connections`), the help and the
//! output of `--print-config`. Flags win over variables, those over the file, the file over the
//! defaults; an empty variable counts as none.
//!
//! A wrong setting stops the start. The message names the setting, where it came from, the value,
//! and what would be right. Nothing here reads the process's globals but the configuration file:
//! arguments and variables come in as parameters, so that tests can give any.

mod checks;
mod cli;
mod error;
mod hosts;
mod kinds;
mod memory;
mod print;
mod settings;
mod sources;
mod table;
mod values;
mod words;

#[cfg(test)]
mod tests;

use std::ffi::OsString;
use std::num::NonZero;

use clap::Parser;
use clap::error::ErrorKind;

pub use cli::{Action, LimitFlags, PlanAction};
pub use cli::{CA_DAYS, CERTIFICATE_DAYS, CertsArgs, CertsOrder, CertsTerm};
pub use error::{ConfigError, Origin};
pub use settings::Config;
pub use values::{Kib, LogFormat, Mib, Region, Secret, Target};

use cli::{AdminArgs, Cli, Operator};
use sources::Found;

/// What the command line asks for.
#[derive(Debug)]
pub enum Command {
    /// Run a node.
    Run(Box<Config>),
    /// Print this on standard output and end well: help, the version, the configuration.
    Print(String),
    /// Call the operator's port of a running node.
    Admin(OperatorCall),
    /// Make certificates.
    Certs(CertsArgs),
}

/// A call to the operator's port of a running node.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct OperatorCall {
    /// Which node.
    pub target: Target,
    /// The token that it asks for.
    pub token: Option<Secret>,
    /// What to ask.
    pub action: Action,
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
            Err(error) => return printed_or_refused(error),
        };
        let mut found = Found::default();
        let file_from_variable = found.add_variables(variables)?;
        match cli.operator {
            Some(Operator::Admin(admin)) => {
                found.add_file(admin.config.clone().or(file_from_variable))?;
                return operator_call(admin, &found).map(Command::Admin);
            }
            Some(Operator::Certs(certs)) => return Ok(Command::Certs(certs)),
            None => {}
        }
        found.add_file(cli.config.or(file_from_variable))?;
        found.add_flags(cli.settings);
        let config = Self::from_found(&found)?;
        checks::check(&config)?;
        Ok(if cli.print_config {
            Command::Print(config.to_toml())
        } else {
            Command::Run(Box::new(config))
        })
    }

    /// Bytes for blocks that were read from disk, with 0 resolved to a quarter of the memory.
    pub fn block_cache_bytes(&self) -> usize {
        match self.block_cache_mib.bytes() {
            0 => memory::limit() / 4,
            bytes => bytes,
        }
    }

    /// Threads that serve users, with 0 resolved to one per core.
    pub fn http_workers(&self) -> usize {
        match self.http_threads {
            0 => std::thread::available_parallelism().map_or(1, NonZero::get),
            threads => threads,
        }
    }
}

/// Help and version come as errors from the parser, but are none.
fn printed_or_refused(error: clap::Error) -> Result<Command, ConfigError> {
    match error.kind() {
        ErrorKind::DisplayHelp | ErrorKind::DisplayVersion => {
            Ok(Command::Print(error.render().to_string()))
        }
        _ => Err(ConfigError::Usage(error)),
    }
}

/// Where to call is a setting like any other, so that `admin status` needs no flags on the
/// machine, or in the container, where the node runs.
fn operator_call(args: AdminArgs, found: &Found) -> Result<OperatorCall, ConfigError> {
    let (text, origin) = match args.admin {
        Some(text) => (text, Origin::Flag("--admin".to_owned())),
        None => found.text("admin"),
    };
    let target = Target::parse(&text).ok_or_else(|| ConfigError::Wrong {
        setting: "admin",
        origin,
        value: text,
        right: "the operator's port of a node, as in http://127.0.0.1:9090".to_owned(),
    })?;
    let token = match args.token {
        Some(token) => Some(Secret::new(token)),
        None => found.token()?,
    };
    Ok(OperatorCall {
        target,
        token,
        action: args.action,
    })
}
