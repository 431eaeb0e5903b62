//! The command line. Its flags for settings are made from the list of settings.

use std::path::PathBuf;

use clap::{Args, Parser, Subcommand};
use cloudkv_common::config::{Flags, Region};

use super::Config;
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
    pub operator: Option<Operator>,

    /// TOML file with settings [variable: CLOUDKV_CONFIG]
    #[arg(long, value_name = "FILE")]
    pub config: Option<PathBuf>,

    /// Print the settings in effect as a TOML file, with their documentation, and end
    #[arg(long)]
    pub print_config: bool,

    #[command(flatten)]
    pub settings: Flags<Config>,
}

#[derive(Subcommand)]
pub(super) enum Operator {
    /// Call the operator's port of a running node
    #[command(arg_required_else_help = false)]
    Admin(AdminArgs),
    /// Make a CA, and certificates for nodes and routers
    Certs(CertsArgs),
}

/// Days for which a CA is good, unless it is said.
pub const CA_DAYS: u32 = 3650;
/// Days for which a certificate is good, unless it is said.
pub const CERTIFICATE_DAYS: u32 = 825;

/// Which certificates to make, and where.
#[derive(Clone, Debug, PartialEq, Eq, Args)]
pub struct CertsArgs {
    /// The directory of the CA's files, in which all others are made, too
    #[arg(long, value_name = "DIR", default_value = "certs", global = true)]
    pub dir: PathBuf,

    /// What to make.
    #[command(subcommand)]
    pub order: CertsOrder,
}

/// What certificates are made.
#[derive(Clone, Debug, PartialEq, Eq, Subcommand)]
pub enum CertsOrder {
    /// Make a CA: ca.pem, which all nodes and routers get, and ca.key, which none of them needs
    Init {
        /// Days until it expires
        #[arg(long, default_value_t = CA_DAYS, value_parser = days())]
        days: u32,
    },
    /// Make a node's certificate and key: HOST.pem and HOST.key
    Node {
        /// The host of the node's advertise_rpc, a DNS name or an IP address, and more if it has
        /// more; the first one names the files
        #[arg(required = true, value_name = "HOST", value_parser = host)]
        hosts: Vec<String>,
        /// How long they are good for
        #[command(flatten)]
        term: CertsTerm,
    },
    /// Make a router's certificate and key, with which nobody can act as a node: NAME.pem and
    /// NAME.key
    Router {
        /// The router's name, as nodes show it in their logs
        #[arg(value_name = "NAME", value_parser = host)]
        name: String,
        /// How long they are good for
        #[command(flatten)]
        term: CertsTerm,
    },
    /// Make all that a cluster needs and doesn't have yet: the CA, and for each node and router a
    /// folder with tls.crt, tls.key and ca.crt. Certificates that expire within 30 days are
    /// renewed, all others stay: it may run before every start
    Setup {
        /// The directory with a folder for each node and router, named as it is
        #[arg(long, value_name = "DIR")]
        into: PathBuf,
        /// A node, by the host of its advertise_rpc
        #[arg(long = "node", value_name = "HOST", value_parser = host)]
        nodes: Vec<String>,
        /// A router, by its name
        #[arg(long = "router", value_name = "NAME", value_parser = host)]
        routers: Vec<String>,
    },
}

/// How long a certificate is good for, and whether it takes the place of another.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Args)]
pub struct CertsTerm {
    /// Days until it expires
    #[arg(long, default_value_t = CERTIFICATE_DAYS, value_parser = days())]
    pub days: u32,
    /// Replace the files that are there: running nodes take the new ones by themselves
    #[arg(long)]
    pub renew: bool,
}

#[derive(Args)]
pub(super) struct AdminArgs {
    /// The node's operator's port [default: the setting `admin`] [variable: CLOUDKV_ADMIN]
    #[arg(long, value_name = "URL", global = true)]
    pub admin: Option<String>,

    /// The operator's token [default: the setting `admin_token`] [variable: CLOUDKV_ADMIN_TOKEN]
    #[arg(long, value_name = "TOKEN", global = true)]
    pub token: Option<String>,

    /// TOML file with settings [variable: CLOUDKV_CONFIG]
    #[arg(long, value_name = "FILE", global = true)]
    pub config: Option<PathBuf>,

    #[command(subcommand)]
    pub action: Action,
}

/// What an operator asks of a node.
#[derive(Clone, Debug, PartialEq, Eq, Subcommand)]
pub enum Action {
    /// Show what the node's region serves, what it survives, and the nodes of the cluster
    Status(StatusFlags),
    /// End with 0 if the node works, else with 1: for health checks of containers
    Health {
        /// Ask whether it is ready to serve, too
        #[arg(long)]
        ready: bool,
    },
    /// Show the plans, or change what one offers
    #[command(subcommand)]
    Plan(PlanAction),
    /// Give a bucket another plan
    BucketPlan {
        /// The bucket's ID
        #[arg(value_parser = bucket)]
        bucket: BucketId,
        /// free, pro or business
        #[arg(value_parser = plan)]
        plan: Plan,
    },
    /// Move a node's shards to others, and then remove it from the cluster; says first what the
    /// region survives without it
    Decommission {
        /// The node: its name, its rpc address or its number
        node: String,
        /// Do it even if the region survives less without the node
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
    /// Let others take the place of a node that is lost: it can't come back
    Replace {
        /// The node that is lost: its name, its rpc address or its number
        node: String,
    },
    /// Have the other regions go on without one that is lost: it can't come back but by joining
    /// anew, and what it had not sent to any of them is lost
    RemoveRegion {
        /// The region's name
        #[arg(value_parser = region)]
        region: Region,
    },
    /// Compare what all regions hold; ends with 1 if they differ
    Verify {
        /// Show it as JSON
        #[arg(long)]
        json: bool,
    },
}

/// How the status is shown.
#[derive(Clone, Debug, Default, PartialEq, Eq, Args)]
pub struct StatusFlags {
    /// Show all fields, as JSON
    #[arg(long, conflicts_with_all = ["verbose", "watch"])]
    pub json: bool,
    /// Show what is normal, too: all groups, regions, disk and clock
    #[arg(long)]
    pub verbose: bool,
    /// Show it again every two seconds, until it is interrupted
    #[arg(long, conflicts_with = "check")]
    pub watch: bool,
    /// End with 1 if something needs a person
    #[arg(long)]
    pub check: bool,
}

/// What an operator does with plans.
#[derive(Clone, Debug, PartialEq, Eq, Subcommand)]
pub enum PlanAction {
    /// Show what each plan offers
    List {
        /// Show it as JSON
        #[arg(long)]
        json: bool,
    },
    /// Change limits of a plan, for all of its buckets, from now on
    Set {
        /// free, pro or business
        #[arg(value_parser = plan)]
        plan: Plan,
        /// The limits to change.
        #[command(flatten)]
        limits: LimitFlags,
    },
}

/// Limits to change; those that aren't given stay.
#[derive(Clone, Debug, Default, PartialEq, Eq, Args)]
#[group(required = true, multiple = true)]
pub struct LimitFlags {
    /// Keys of a bucket
    #[arg(long, value_name = "NUMBER")]
    pub keys: Option<u64>,
    /// Bytes of a key, up to 1024
    #[arg(long, value_name = "BYTES")]
    pub key_bytes: Option<u64>,
    /// Bytes of a value, up to 1048576
    #[arg(long, value_name = "BYTES")]
    pub value_bytes: Option<u64>,
    /// Buckets of the plan per account; 0: any number
    #[arg(long, value_name = "NUMBER")]
    pub buckets: Option<u64>,
    /// Bytes of all keys and values of a bucket; 0: any number
    #[arg(long, value_name = "BYTES")]
    pub bytes: Option<u64>,
}

fn days() -> clap::builder::RangedI64ValueParser<u32> {
    clap::value_parser!(u32).range(1..=36_500)
}

fn host(text: &str) -> Result<String, String> {
    let name = |byte: u8| byte.is_ascii_alphanumeric() || b"-._".contains(&byte);
    let dns = !text.is_empty() && text.len() <= 253 && text.bytes().all(name);
    if dns && !text.starts_with('.') || text.parse::<std::net::IpAddr>().is_ok() {
        return Ok(text.to_owned());
    }
    Err("expected a DNS name or an IP address, as in node1.example.com or 10.0.0.1".to_owned())
}

fn plan(text: &str) -> Result<Plan, String> {
    let names = || Plan::ALL.map(Plan::name).join(", ");
    Plan::parse(text).ok_or_else(|| format!("expected one of {}", names()))
}

fn region(text: &str) -> Result<Region, String> {
    Region::parse(text).ok_or_else(|| "expected a region's name".to_owned())
}

fn bucket(text: &str) -> Result<BucketId, String> {
    let right = "expected a bucket's ID: an a and 13 letters and digits";
    BucketId::parse(text.as_bytes()).ok_or_else(|| right.to_owned())
}
