//! Servers under load: how each is started, and the form of its requests.

mod etcd;
mod hyper;
mod node;
mod proxies;
mod webdis;

pub(crate) use etcd::Etcd;
pub(crate) use hyper::{BareHyper, stand_in_samples};
pub(crate) use node::{Node, create_bucket, restart_timed};
pub(crate) use proxies::Proxy;
pub(crate) use webdis::{INSTALL_COMMAND, Tuning, Webdis};

use crate::load::Args;
use crate::workload::Operation;
use serde::Serialize;
use std::fmt;
use std::net::SocketAddr;

/// Server that a measurement belongs to.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize)]
#[serde(rename_all = "snake_case")]
pub(crate) enum ServerKind {
    /// `cloudkv-node`.
    Node,
    /// hyper with constant responses.
    Hyper,
    /// webdis in front of Redis.
    Webdis,
    /// Three `cloudkv-node`.
    Region,
    /// Three `cloudkv-node` with mutual TLS.
    RegionTls,
    /// Three etcd, each with its JSON gateway.
    Etcd,
    /// `cloudkv-router` in front of a node.
    Router,
    /// HAProxy in front of a node.
    Haproxy,
    /// nginx in front of a node.
    Nginx,
}

impl fmt::Display for ServerKind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(match self {
            Self::Node => "cloudkv-node",
            Self::Hyper => "bare hyper",
            Self::Webdis => "webdis + redis",
            Self::Region => "region of 3",
            Self::RegionTls => "region of 3, TLS",
            Self::Etcd => "etcd of 3",
            Self::Router => "cloudkv-router",
            Self::Haproxy => "HAProxy",
            Self::Nginx => "nginx",
        })
    }
}

/// A running server as a client sees it.
#[derive(Debug, Clone)]
pub(crate) struct Endpoint {
    /// Kind of the server.
    pub kind: ServerKind,
    /// Listening address.
    pub addr: SocketAddr,
    /// Processes of the server, whose processor time is summed up.
    pub pids: Vec<u32>,
    /// Paths for GET and PUT, by size of value.
    pub paths: Vec<Paths>,
}

/// Paths of values of one size.
#[derive(Debug, Clone)]
pub(crate) struct Paths {
    /// Bytes of a value.
    pub value_size: usize,
    /// Path of a GET up to the key.
    pub get: String,
    /// Path of a GET after the key.
    pub get_suffix: String,
    /// Path of a PUT up to the key.
    pub put: String,
}

impl Endpoint {
    /// Returns the load options for one operation; `None` for a size without values.
    pub(crate) fn load(&self, operation: Operation, value_size: usize) -> Option<Args> {
        let paths = self
            .paths
            .iter()
            .find(|paths| paths.value_size == value_size)?;
        let (prefix, suffix) = match operation {
            Operation::Get => (&paths.get, paths.get_suffix.as_str()),
            Operation::Put => (&paths.put, ""),
        };
        let mut args = Args::new(self.addr, operation, prefix);
        suffix.clone_into(&mut args.path_suffix);
        args.value_size = value_size;
        args.watch.clone_from(&self.pids);
        Some(args)
    }
}
