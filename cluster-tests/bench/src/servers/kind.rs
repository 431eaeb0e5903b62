//! Kinds of servers.

use serde::Serialize;
use std::fmt;

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
