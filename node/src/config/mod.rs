//! Settings: one typed [`Config`], with the same names everywhere.
//!
//! Each setting is declared once, in `settings.rs`; [`cloudkv_common::config`] describes the
//! mechanism.

mod backup_flags;
mod checks;
mod cli;
mod derived;
mod load;
mod memory;
mod settings;

#[cfg(test)]
mod tests;
#[cfg(test)]
mod usage_tests;

pub use backup_flags::{
    BackupFlags, BackupsFlags, ExportDirectoryArgs, RecoverAction, RestoreArgs,
};
pub use cli::{AdminAction, LimitFlags, PlanAction, StatusFlags};
pub use cli::{
    CA_VALIDITY_DAYS, CERTIFICATE_VALIDITY_DAYS, CertificateValidity, CertsArgs, CertsCommand,
};
pub use cloudkv_common::config::{
    AdminTarget, ConfigError, Kib, LogFormat, Mib, RegionName, Secret, SettingSource,
};
pub use load::{AdminCall, Command};
pub use settings::Config;
