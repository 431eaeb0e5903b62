//! Settings: one typed [`Config`], with the same names everywhere.
//!
//! Each setting is declared once, in `settings.rs`; [`cloudkv_common::config`] describes the
//! mechanism.

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
use cloudkv_common::config::{
    Optional, SecretToken, Setting, SettingSources, Settings, help_or_error, to_toml,
};

pub use cli::{AdminAction, LimitFlags, PlanAction, StatusFlags};
pub use cli::{
    CA_VALIDITY_DAYS, CERTIFICATE_VALIDITY_DAYS, CertificateValidity, CertsArgs, CertsCommand,
};
pub use cloudkv_common::config::{
    AdminTarget, ConfigError, Kib, LogFormat, Mib, RegionName, Secret, SettingSource,
};
pub use settings::Config;

use cli::{AdminArgs, Cli, CliCommand};

/// Command that the command line requests.
#[derive(Debug)]
pub enum Command {
    /// Run a node.
    Run {
        /// Settings of the node.
        config: Box<Config>,
        /// True if the region was given explicitly, false if it is the default.
        is_region_explicit: bool,
    },
    /// Print this text on standard output and exit with 0: help, the version, the configuration.
    Print(String),
    /// Call the admin port of a running node.
    Admin(AdminCall),
    /// Make certificates.
    Certs(CertsArgs),
}

/// A call of the admin port of a running node.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct AdminCall {
    /// Address of the admin port.
    pub target: AdminTarget,
    /// Admin token, if there is one.
    pub token: Option<Secret>,
    /// Requested action.
    pub action: AdminAction,
}

/// Maximum number of threads for work that is neither for users nor for Raft.
const MAX_MAIN_THREADS: usize = 4;

/// Default address of the rpc port.
const DEFAULT_RPC_ADDRESS: SocketAddr = SocketAddr::new(IpAddr::V4(Ipv4Addr::LOCALHOST), 7070);

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
        let mut sources = SettingSources::new(Self::ALL);
        let file_from_variable = sources.add_variables(variables)?;
        match cli.command {
            Some(CliCommand::Admin(admin)) => {
                refuse_flags("admin", &cli.settings.0, &["admin", "admin_token"])?;
                let file = admin.config.clone().or(cli.config);
                sources.add_file(file.or(file_from_variable))?;
                sources.add_flags(cli.settings.0);
                return admin_call(admin, &sources).map(Command::Admin);
            }
            Some(CliCommand::Certs(certs)) => {
                refuse_flags("certs", &cli.settings.0, &[])?;
                return Ok(Command::Certs(certs));
            }
            None => {}
        }
        sources.add_file(cli.config.or(file_from_variable))?;
        sources.add_flags(cli.settings.0);
        let config = Self::from_sources(&sources)?;
        checks::check(&config)?;
        Ok(if cli.print_config {
            Command::Print(to_toml(&config))
        } else {
            Command::Run {
                config: Box::new(config),
                is_region_explicit: sources.text("region").1 != SettingSource::Default,
            }
        })
    }

    /// Address of the rpc port, if the node listens for other nodes and routers.
    pub fn rpc_address(&self) -> SocketAddr {
        self.rpc.unwrap_or(DEFAULT_RPC_ADDRESS)
    }

    /// Returns whether the node is configured to listen for other nodes and routers: by any setting
    /// that has no other purpose.
    pub fn listens_for_nodes(&self) -> bool {
        self.rpc.is_some()
            || self.init
            || !self.join.is_empty()
            || self.advertise_rpc.is_some()
            || self.rpc_cert.is_some()
    }

    /// Size of the block cache in bytes, with 0 resolved to a quarter of the memory.
    pub fn block_cache_bytes(&self) -> usize {
        match self.block_cache_mib.bytes() {
            0 => memory::memory_limit() / 4,
            bytes => bytes,
        }
    }

    /// Number of threads that serve users, with 0 resolved to one per core.
    pub fn http_workers(&self) -> usize {
        match self.http_threads {
            0 => std::thread::available_parallelism().map_or(1, NonZero::get),
            threads => threads,
        }
    }

    /// Number of threads that only serve users; 1 if all work shares the same threads.
    pub fn user_threads(&self) -> usize {
        match self.raft_threads {
            0 => 1,
            _ => self.http_workers(),
        }
    }

    /// Number of threads for work that is neither for users nor for Raft, or for all work.
    pub fn main_threads(&self) -> usize {
        match self.raft_threads {
            0 => self.http_workers(),
            _ => self.http_workers().min(MAX_MAIN_THREADS),
        }
    }
}

/// Refuses flags that have no effect on a command.
fn refuse_flags(
    command: &str,
    given: &[(&'static Setting, String)],
    allowed: &[&str],
) -> Result<(), ConfigError> {
    let mut given = given.iter();
    match given.find(|(setting, _)| !allowed.contains(&setting.name)) {
        None => Ok(()),
        Some((setting, _)) => Err(ConfigError::Conflict {
            problem: format!("--{} has no effect on `{command}`", setting.flag()),
            right: format!("`cloudkv-node {command} --help` lists its flags"),
        }),
    }
}

/// Builds a call of the admin port. The address is a setting like any other, so that `admin status`
/// needs no flags on the machine, or in the container, where the node runs.
fn admin_call(args: AdminArgs, sources: &SettingSources) -> Result<AdminCall, ConfigError> {
    let (text, origin) = match args.admin {
        Some(text) => (text, SettingSource::Flag("--admin".to_owned())),
        None => sources.text("admin"),
    };
    let target = AdminTarget::parse(&text).ok_or_else(|| ConfigError::InvalidValue {
        setting: "admin",
        origin,
        value: text,
        right: "the address of a node's admin port, as in http://127.0.0.1:9090".to_owned(),
    })?;
    let token = match args.token {
        Some(token) => Some(Secret::new(token)),
        None => sources.read("admin_token", &Optional(SecretToken))?,
    };
    Ok(AdminCall {
        target,
        token,
        action: args.action,
    })
}
