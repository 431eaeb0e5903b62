//! Settings of a program, with the same names in all sources.
//!
//! A program declares each of its settings once, with [`settings!`](crate::settings): its field,
//! its documentation, its kind and its default. From that derive the flag (`--max-connections`),
//! the environment variable (`CLOUDKV_MAX_CONNECTIONS`), the key of the TOML file
//! (`max_connections`), the help and the printed configuration. Flags override variables, those
//! override the file, the file overrides the defaults; an empty variable counts as not set.
//!
//! An invalid setting prevents the start. The message names the setting, its source, its value, and
//! what is expected. Nothing here reads global state of the process but the configuration file:
//! arguments and variables are parameters, so that tests can pass any.

mod checks;
mod error;
mod flags;
mod hosts;
mod kinds;
mod load;
mod networks;
mod print;
mod setting;
mod simple_kinds;
mod sources;
mod table;
mod values;

pub use checks::{check_admin_token, check_distinct_addresses};
pub use error::{ConfigError, SettingSource};
pub use flags::{Flags, help_or_error};
pub use hosts::{AddressOverrides, HostPort, HostPorts, NodeName};
pub use kinds::{Describe, Kind, ListenAddress, Number, Optional, TimeSpan, TimeSpanOrOff};
pub use load::{load_settings, read_sources};
pub use networks::Networks;
pub use print::to_toml;
pub use setting::Setting;
pub use simple_kinds::{
    DirectoryPath, FilePath, LogFormatKind, LogLevels, RegionNameKind, SecretToken, Switch,
};
pub use sources::SettingSources;
pub use table::Settings;
pub use values::{AdminTarget, Kib, Mib, RegionName, Secret};

pub use crate::telemetry::logs::LogFormat;
