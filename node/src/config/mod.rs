//! Settings: one typed [`Config`], the same names everywhere.
//!
//! A setting is declared once, in `settings.rs`; what that means is told in
//! [`cloudkv_common::config`].

mod checks;
mod cli;
mod memory;
mod settings;

#[cfg(test)]
mod tests;
#[cfg(test)]
mod usage_tests;

use std::ffi::OsString;
use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::num::NonZero;

use clap::Parser;
use cloudkv_common::config::{Found, Maybe, Setting, Settings, Token, printed_or_refused, to_toml};

pub use cli::{Action, LimitFlags, PlanAction, StatusFlags};
pub use cli::{CA_DAYS, CERTIFICATE_DAYS, CertsArgs, CertsOrder, CertsTerm};
pub use cloudkv_common::config::{
    ConfigError, Kib, LogFormat, Mib, Origin, Region, Secret, Target,
};
pub use settings::Config;

use cli::{AdminArgs, Cli, Operator};

/// What the command line asks for.
#[derive(Debug)]
pub enum Command {
    /// Run a node.
    Run {
        /// Its settings.
        config: Box<Config>,
        /// Whether somebody named its region, or it is the default.
        names_region: bool,
    },
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

/// Threads for what is neither for users nor for Raft.
const MAIN_THREADS: usize = 4;

/// Where other nodes and routers come in, unless it is said.
const DEFAULT_RPC: SocketAddr = SocketAddr::new(IpAddr::V4(Ipv4Addr::LOCALHOST), 7070);

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
        match cli.operator {
            Some(Operator::Admin(admin)) => {
                refuse_flags("admin", &cli.settings.0, &["admin", "admin_token"])?;
                let file = admin.config.clone().or(cli.config);
                found.add_file(file.or(file_from_variable))?;
                found.add_flags(cli.settings.0);
                return operator_call(admin, &found).map(Command::Admin);
            }
            Some(Operator::Certs(certs)) => {
                refuse_flags("certs", &cli.settings.0, &[])?;
                return Ok(Command::Certs(certs));
            }
            None => {}
        }
        found.add_file(cli.config.or(file_from_variable))?;
        found.add_flags(cli.settings.0);
        let config = Self::from_found(&found)?;
        checks::check(&config)?;
        Ok(if cli.print_config {
            Command::Print(to_toml(&config))
        } else {
            Command::Run {
                config: Box::new(config),
                names_region: found.text("region").1 != Origin::Default,
            }
        })
    }

    /// Where other nodes and routers come in, if the node listens for any.
    pub fn rpc_address(&self) -> SocketAddr {
        self.rpc.unwrap_or(DEFAULT_RPC)
    }

    /// Whether the node is told to listen for other nodes and routers: by anything that would mean
    /// nothing else.
    pub fn serves_nodes(&self) -> bool {
        self.rpc.is_some()
            || self.init
            || !self.join.is_empty()
            || self.advertise_rpc.is_some()
            || self.rpc_cert.is_some()
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

    /// Threads that serve users and nothing else; 1 if all is done on the same.
    pub fn user_threads(&self) -> usize {
        match self.raft_threads {
            0 => 1,
            _ => self.http_workers(),
        }
    }

    /// Threads for what is neither for users nor for Raft, unless they do all.
    pub fn main_threads(&self) -> usize {
        match self.raft_threads {
            0 => self.http_workers(),
            _ => self.http_workers().min(MAIN_THREADS),
        }
    }
}

/// Refuses flags before a command to which they would mean nothing.
fn refuse_flags(
    command: &str,
    given: &[(&'static Setting, String)],
    allowed: &[&str],
) -> Result<(), ConfigError> {
    let mut given = given.iter();
    match given.find(|(setting, _)| !allowed.contains(&setting.name)) {
        None => Ok(()),
        Some((setting, _)) => Err(ConfigError::Conflict {
            problem: format!("--{} means nothing to `{command}`", setting.flag()),
            right: format!("`cloudkv-node {command} --help` shows its flags"),
        }),
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
        None => found.read("admin_token", &Maybe(Token))?,
    };
    Ok(OperatorCall {
        target,
        token,
        action: args.action,
    })
}
