//! Servers under load: how each is started, and the form of its requests.

mod endpoint;
mod etcd;
mod hyper;
mod kind;
mod node;
mod proxies;
mod webdis;

pub(crate) use endpoint::Endpoint;
pub(crate) use etcd::Etcd;
pub(crate) use hyper::{BareHyper, stand_in_samples};
pub(crate) use kind::ServerKind;
pub(crate) use node::{Node, OwnedBucket, create_bucket, create_owned_bucket, restart_timed};
pub(crate) use proxies::Proxy;
pub(crate) use webdis::{INSTALL_COMMAND, Tuning, Webdis};
