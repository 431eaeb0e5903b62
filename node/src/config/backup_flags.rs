//! Flags of the commands that make, list and restore backups, and that recover what is lost.

use std::path::PathBuf;

use clap::{Args, Subcommand};
use cloudkv_common::config::RegionName;

/// Arguments of the `restore` command.
#[derive(Clone, Debug, PartialEq, Eq, Args)]
pub struct RestoreArgs {
    /// Place of the backup: file:///FOLDER, or s3://BUCKET/FOLDER with credentials from the
    /// environment
    #[arg(long, value_name = "URL")]
    pub from: String,

    /// ID of the backup [default: the newest complete one]
    #[arg(long, value_name = "ID")]
    pub id: Option<String>,

    /// Data directory of the new cluster's first node: it must be empty, or not exist
    #[arg(long, value_name = "DIR")]
    pub data_dir: PathBuf,

    /// Name of the new cluster's first region [default: local]
    #[arg(long, value_name = "NAME", value_parser = parse_region)]
    pub region: Option<RegionName>,

    /// Number of shards of the new cluster, 1 to 64 [default: that of the backup]
    #[arg(long, value_name = "NUMBER", value_parser = clap::value_parser!(u16).range(1..=64))]
    pub shards: Option<u16>,
}

/// Arguments of `admin export-directory`.
#[derive(Clone, Debug, PartialEq, Eq, Args)]
pub struct ExportDirectoryArgs {
    /// Data directory of a node that doesn't run
    #[arg(long, value_name = "DIR")]
    pub data_dir: PathBuf,

    /// Directory for the lines, a file for each bucket: it must be empty, or not exist
    #[arg(long, value_name = "DIR")]
    pub to: PathBuf,

    /// Export all keys, and not only what other regions may lack
    #[arg(long)]
    pub all: bool,
}

/// Flags of `admin backup`.
#[derive(Clone, Debug, PartialEq, Eq, Args)]
pub struct BackupFlags {
    /// Place of backups, as the node reaches it: file:///FOLDER on its machine, or
    /// s3://BUCKET/FOLDER with credentials from the node's environment
    #[arg(long, value_name = "URL")]
    pub to: String,
    /// Begin a new one, also if one was interrupted
    #[arg(long)]
    pub new: bool,
    /// Show the node's lines, as JSON
    #[arg(long)]
    pub json: bool,
}

/// Flags of `admin backups`.
#[derive(Clone, Debug, PartialEq, Eq, Args)]
pub struct BackupsFlags {
    /// Place of backups: file:///FOLDER, or s3://BUCKET/FOLDER with credentials from the
    /// environment
    #[arg(long, value_name = "URL")]
    pub at: String,
    /// Only this backup; with --verify, it must be complete
    #[arg(long, value_name = "ID")]
    pub id: Option<String>,
    /// Read all of each complete one, and compare it with its checksums; exits with 1 if one is
    /// damaged
    #[arg(long)]
    pub verify: bool,
    /// Show them as JSON
    #[arg(long)]
    pub json: bool,
}

/// Subcommands of `admin metadata` and `admin shard`.
#[derive(Clone, Debug, PartialEq, Eq, Subcommand)]
pub enum RecoverAction {
    /// Show what can be recovered at this node and what would be lost, or do it
    Recover {
        /// Do it: the text that the report shows
        #[arg(long, value_name = "TEXT")]
        confirm: Option<String>,
        /// Show the report as JSON
        #[arg(long)]
        json: bool,
    },
}

pub(super) fn parse_region(text: &str) -> Result<RegionName, String> {
    RegionName::parse(text).ok_or_else(|| "expected a region's name".to_owned())
}
