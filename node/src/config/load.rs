//! Loads the configuration, and what the command line requests, from all sources.

use std::ffi::OsString;

use clap::Parser;
use cloudkv_common::config::{
    AdminTarget, ConfigError, Optional, Secret, SecretToken, Setting, SettingSource,
    SettingSources, Settings, help_or_error, load_settings, read_sources, to_toml,
};

use super::backup_flags::{ExportDirectoryArgs, RestoreArgs};
use super::checks;
use super::cli::{AdminAction, AdminArgs, CertsArgs, Cli, CliCommand};
use super::settings::Config;

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
    /// Restore a backup.
    Restore(RestoreArgs),
    /// Export the data directory of a stopped node.
    ExportDirectory(ExportDirectoryArgs),
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
        match cli.command {
            Some(CliCommand::Admin(admin)) => {
                refuse_flags("admin", &cli.settings.0, &["admin", "admin_token"])?;
                if let AdminAction::ExportDirectory(args) = admin.action {
                    SettingSources::new(Self::ALL).add_variables(variables)?;
                    return Ok(Command::ExportDirectory(args));
                }
                let file = admin.config.clone().or(cli.config);
                let sources = read_sources(variables, file, cli.settings)?;
                admin_call(admin, &sources).map(Command::Admin)
            }
            Some(CliCommand::Certs(certs)) => {
                refuse_flags("certs", &cli.settings.0, &[])?;
                // It reads no setting, but a misspelled variable is refused as elsewhere.
                SettingSources::new(Self::ALL).add_variables(variables)?;
                Ok(Command::Certs(certs))
            }
            Some(CliCommand::Restore(restore)) => {
                refuse_flags("restore", &cli.settings.0, &[])?;
                SettingSources::new(Self::ALL).add_variables(variables)?;
                Ok(Command::Restore(restore))
            }
            None => {
                let (config, sources) =
                    load_settings(variables, cli.config, cli.settings, checks::check)?;
                Ok(if cli.print_config {
                    Command::Print(to_toml(&config))
                } else {
                    Command::Run {
                        config: Box::new(config),
                        is_region_explicit: sources.text("region").1 != SettingSource::Default,
                    }
                })
            }
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
