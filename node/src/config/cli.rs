//! The command line. The flags for settings are generated from the list of settings.

use std::path::PathBuf;

use clap::{Args, Parser, Subcommand};
use cloudkv_common::config::{Flags, RegionName};
use cloudkv_common::hosts::is_host_name;

use super::Config;
use super::backup_flags::{
    BackupFlags, BackupsFlags, ExportDirectoryArgs, RecoverAction, RestoreArgs, parse_region,
};
use crate::types::{BucketId, Plan};

/// CloudKV's storage node.
///
/// Each setting is a flag, an environment variable and a key of the TOML file; flags win over
/// variables, variables over the file.
#[derive(Parser)]
#[command(
    name = "cloudkv-node",
    version,
    max_term_width = 100,
    after_help = "--help shows all settings, --print-config writes them as a file.",
    after_long_help = "--print-config writes the settings as a file."
)]
pub(super) struct Cli {
    #[command(subcommand)]
    pub command: Option<CliCommand>,

    /// TOML file with settings [variable: CLOUDKV_CONFIG]
    #[arg(long, value_name = "FILE")]
    pub config: Option<PathBuf>,

    /// Print the settings in effect as a TOML file, with their documentation, and exit
    #[arg(long)]
    pub print_config: bool,

    #[command(flatten)]
    pub settings: Flags<Config>,
}

#[derive(Subcommand)]
pub(super) enum CliCommand {
    /// Call the admin port of a running node
    #[command(arg_required_else_help = false)]
    Admin(AdminArgs),
    /// Make a CA, and certificates for nodes and routers
    Certs(CertsArgs),
    /// Make the data directory of a new cluster's first node from a backup
    Restore(RestoreArgs),
}

/// Default validity of a CA, in days.
pub const CA_VALIDITY_DAYS: u32 = 3650;
/// Default validity of a certificate, in days.
pub const CERTIFICATE_VALIDITY_DAYS: u32 = 825;

/// Arguments of the `certs` command.
#[derive(Clone, Debug, PartialEq, Eq, Args)]
pub struct CertsArgs {
    /// Directory of the CA's files, and of all other files that are made
    #[arg(long, value_name = "DIR", default_value = "certs", global = true)]
    pub dir: PathBuf,

    /// The certificates to make.
    #[command(subcommand)]
    pub command: CertsCommand,
}

/// Subcommands of `certs`.
#[derive(Clone, Debug, PartialEq, Eq, Subcommand)]
pub enum CertsCommand {
    /// Make a CA: ca.pem, which all nodes and routers get, and ca.key, which none of them needs
    Init {
        /// Days until it expires
        #[arg(long, default_value_t = CA_VALIDITY_DAYS, value_parser = days_parser())]
        days: u32,
    },
    /// Make a node's certificate and key: HOST.pem and HOST.key
    Node {
        /// Host of the node's advertise_rpc, a DNS name or an IP address, and its other hosts, if
        /// any; the first one names the files
        #[arg(required = true, value_name = "HOST", value_parser = parse_host)]
        hosts: Vec<String>,
        /// Validity of the certificate.
        #[command(flatten)]
        term: CertificateValidity,
    },
    /// Make a router's certificate and key, which aren't valid for a node: NAME.pem and
    /// NAME.key
    Router {
        /// Name of the router, as nodes show it in their logs
        #[arg(value_name = "NAME", value_parser = parse_host)]
        name: String,
        /// Validity of the certificate.
        #[command(flatten)]
        term: CertificateValidity,
    },
    /// Make everything that a cluster needs and doesn't have yet: the CA, and for each node and
    /// router a directory with tls.crt, tls.key and ca.crt. Certificates that expire within 30 days
    /// are renewed, all others are kept: it can be run before every start
    Setup {
        /// Directory with a subdirectory for each node and router, of the same name
        #[arg(long, value_name = "DIR")]
        into: PathBuf,
        /// Node, by the host of its advertise_rpc
        #[arg(long = "node", value_name = "HOST", value_parser = parse_host)]
        nodes: Vec<String>,
        /// Router, by its name
        #[arg(long = "router", value_name = "NAME", value_parser = parse_host)]
        routers: Vec<String>,
    },
}

/// Validity of a certificate, and whether it replaces another one.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Args)]
pub struct CertificateValidity {
    /// Days until it expires
    #[arg(long, default_value_t = CERTIFICATE_VALIDITY_DAYS, value_parser = days_parser())]
    pub days: u32,
    /// Replace existing files: running nodes load the new ones by themselves
    #[arg(long)]
    pub renew: bool,
}

#[derive(Args)]
pub(super) struct AdminArgs {
    /// Address of the node's admin port [default: the setting `admin`] [variable: CLOUDKV_ADMIN]
    #[arg(long, value_name = "URL", global = true)]
    pub admin: Option<String>,

    /// Admin token [default: the setting `admin_token`] [variable: CLOUDKV_ADMIN_TOKEN]
    #[arg(long, value_name = "TOKEN", global = true)]
    pub token: Option<String>,

    /// TOML file with settings [variable: CLOUDKV_CONFIG]
    #[arg(long, value_name = "FILE", global = true)]
    pub config: Option<PathBuf>,

    #[command(subcommand)]
    pub action: AdminAction,
}

/// Subcommands of `admin`.
#[derive(Clone, Debug, PartialEq, Eq, Subcommand)]
pub enum AdminAction {
    /// Show the availability of the node's region, its fault tolerance, and the cluster's nodes
    Status(StatusFlags),
    /// Exit with 0 if the node is healthy, else with 1: for health checks of containers
    Health {
        /// Check also whether the node is ready to serve
        #[arg(long)]
        ready: bool,
    },
    /// Show the plans, or change the limits of one
    #[command(subcommand)]
    Plan(PlanAction),
    /// Change the plan of a bucket
    BucketPlan {
        /// ID of the bucket
        #[arg(value_parser = parse_bucket)]
        bucket: BucketId,
        /// free, pro or business
        #[arg(value_parser = parse_plan)]
        plan: Plan,
    },
    /// Move a node's shards to others, and then remove it from the cluster; shows first which
    /// losses the region survives without it
    Decommission {
        /// The node: its name, its rpc address or its number
        node: String,
        /// Decommission it even if the region survives less without the node
        #[arg(long)]
        yes: bool,
        /// Show the progress until the node is removed
        #[arg(long)]
        wait: bool,
    },
    /// Let a node that is being decommissioned take shards again
    Recommission {
        /// The node: its name, its rpc address or its number
        node: String,
    },
    /// Let other nodes replace a lost one: it can't come back
    Replace {
        /// The lost node: its name, its rpc address or its number
        node: String,
    },
    /// Let the other regions go on without a lost one: it can only come back by joining again, and
    /// changes that it had not sent to any of them are lost
    RemoveRegion {
        /// Name of the region
        #[arg(value_parser = parse_region)]
        region: RegionName,
    },
    /// Back up the node's region and the metadata, while the node serves; goes on with a backup
    /// that was interrupted
    Backup(BackupFlags),
    /// List the backups at a place, or verify them; no node is called
    Backups(BackupsFlags),
    /// Write what only a stopped node has as lines of an import; no node is called
    ExportDirectory(ExportDirectoryArgs),
    /// Recover the metadata by force when a majority of its voters is lost for good
    #[command(subcommand)]
    Metadata(RecoverAction),
    /// Recover shards by force when a majority of their voters is lost for good
    #[command(subcommand)]
    Shard(RecoverAction),
    /// Compare the data of all regions; exits with 1 if they differ
    Verify {
        /// Show it as JSON
        #[arg(long)]
        json: bool,
    },
}

/// Flags of `admin status`.
#[derive(Clone, Debug, Default, PartialEq, Eq, Args)]
pub struct StatusFlags {
    /// Show all fields, as JSON
    #[arg(long, conflicts_with_all = ["verbose", "watch"])]
    pub json: bool,
    /// Show normal state, too: this node's groups, regions, clocks, disk and certificate
    #[arg(long)]
    pub verbose: bool,
    /// Show it again every two seconds, until interrupted
    #[arg(long, conflicts_with = "check")]
    pub watch: bool,
    /// Exit with 1 if something needs an operator
    #[arg(long)]
    pub check: bool,
}

/// Subcommands of `admin plan`.
#[derive(Clone, Debug, PartialEq, Eq, Subcommand)]
pub enum PlanAction {
    /// Show the terms of each plan
    List {
        /// Show it as JSON
        #[arg(long)]
        json: bool,
    },
    /// Change limits of a plan, for all of its buckets
    Set {
        /// free, pro or business
        #[arg(value_parser = parse_plan)]
        plan: Plan,
        /// The limits to change.
        #[command(flatten)]
        limits: LimitFlags,
    },
}

/// Limits to change; limits that aren't given stay as they are.
#[derive(Clone, Debug, Default, PartialEq, Eq, Args)]
#[group(required = true, multiple = true)]
pub struct LimitFlags {
    /// Maximum number of keys in a bucket, from 1 on
    #[arg(long, value_name = "NUMBER", value_parser = parse_key_limit)]
    pub keys: Option<u64>,
    /// Maximum size of a key in bytes, up to 1024
    #[arg(long, value_name = "BYTES", value_parser = parse_bytes)]
    pub key_bytes: Option<u64>,
    /// Maximum size of a value in bytes, or with a unit as in 64KiB; up to 1MiB
    #[arg(long, value_name = "BYTES", value_parser = parse_bytes)]
    pub value_bytes: Option<u64>,
    /// Maximum number of buckets with the plan per account; 0: unlimited
    #[arg(long, value_name = "NUMBER", value_parser = parse_bucket_limit)]
    pub buckets: Option<u64>,
    /// Maximum bytes of all keys and values in a bucket, as in 1073741824 or 1GiB; 0: unlimited
    #[arg(long, value_name = "BYTES", value_parser = parse_byte_limit)]
    pub bytes: Option<u64>,
}

fn days_parser() -> clap::builder::RangedI64ValueParser<u32> {
    clap::value_parser!(u32).range(1..=36_500)
}

fn parse_host(text: &str) -> Result<String, String> {
    let is_dns_name = text.len() <= 253 && is_host_name(text);
    if is_dns_name && !text.starts_with('.') || text.parse::<std::net::IpAddr>().is_ok() {
        return Ok(text.to_owned());
    }
    Err("expected a DNS name or an IP address, as in node1.example.com or 10.0.0.1".to_owned())
}

/// Parses a size: bytes, or a number with one of the units that the status shows.
fn parse_bytes(text: &str) -> Result<u64, String> {
    let end = text.find(|digit: char| !digit.is_ascii_digit());
    let (number, unit) = text.split_at(end.unwrap_or(text.len()));
    let unit: Option<u64> = match unit.trim() {
        "" | "B" => Some(1),
        "KiB" => Some(1 << 10),
        "MiB" => Some(1 << 20),
        "GiB" => Some(1 << 30),
        "TiB" => Some(1 << 40),
        _ => None,
    };
    let number = number.parse::<u64>().ok();
    let bytes = number
        .zip(unit)
        .and_then(|(number, unit)| number.checked_mul(unit));
    bytes.ok_or_else(|| "expected a number of bytes, as in 1073741824 or 1GiB".to_owned())
}

/// Parses a number of keys, which is always limited.
fn parse_key_limit(text: &str) -> Result<u64, String> {
    let number = text.parse::<u64>().ok().filter(|number| *number > 0);
    number.ok_or_else(|| "expected a whole number from 1 on, as in 20000".to_owned())
}

fn parse_bucket_limit(text: &str) -> Result<u64, String> {
    let number = text.parse::<u64>().ok();
    number.ok_or_else(|| "expected a whole number, as in 10, or 0: unlimited".to_owned())
}

fn parse_byte_limit(text: &str) -> Result<u64, String> {
    parse_bytes(text).map_err(|expected| format!("{expected}, or 0: unlimited"))
}

fn parse_plan(text: &str) -> Result<Plan, String> {
    let names = || Plan::ALL.map(Plan::name).join(", ");
    Plan::parse(text).ok_or_else(|| format!("expected one of {}", names()))
}

fn parse_bucket(text: &str) -> Result<BucketId, String> {
    let expected = "expected a bucket's ID: an a and 13 letters and digits";
    BucketId::parse(text.as_bytes()).ok_or_else(|| expected.to_owned())
}
