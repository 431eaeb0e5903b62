//! Whether a node listens for other nodes and routers.
//!
//! Whoever reaches that port without a certificate is as good as a node: it reads and changes
//! everything. A node that is alone and wasn't told of any other has no use for it, so it has none.

use std::sync::Arc;

use tokio_util::sync::CancellationToken;

use super::groups::Groups;
use super::ports::bind_rpc;
use crate::config::Config;
use crate::meta::NodeState;
use crate::rpc::{self, Answering};

/// Whether the cluster has other nodes: those that took this one in, or that the metadata names.
pub(super) fn has_others(groups: &Groups) -> bool {
    let me = groups.identity.node_id;
    let topology = groups.catalog.topology();
    let mut nodes = topology.nodes().iter();
    !groups.identity.founder || nodes.any(|node| node.id != me && node.state != NodeState::Removed)
}

/// Tells the operator who gets in, or what to set to let somebody in.
pub(super) fn tell(config: &Config, listens: bool) {
    let address = config.rpc_address();
    if !listens {
        tracing::info!(
            "not listening for other nodes and routers: set rpc (--rpc {address}) for a router, \
             and init (--init) for a second node to join"
        );
    } else if config.rpc_cert.is_none() {
        tracing::warn!(
            rpc = %address,
            "other nodes and routers need no certificate: every process on this machine that \
             reaches rpc can read and change everything in the cluster; set rpc_cert, rpc_key and \
             rpc_ca (cloudkv-node certs makes them)"
        );
    }
}

/// Serves other nodes from when one turns up in the metadata, as the last entries of the log may
/// tell some time after the start.
pub(super) async fn serve_later(
    groups: Arc<Groups>,
    config: Arc<Config>,
    answering: Answering,
    stop: CancellationToken,
) {
    let mut changes = groups.catalog.topology_changes();
    while !has_others(&groups) {
        match stop.run_until_cancelled(changes.changed()).await {
            Some(Ok(())) => {}
            Some(Err(_)) | None => return,
        }
    }
    match bind_rpc(&config) {
        Ok(listener) => {
            tell(&config, true);
            rpc::serve(listener, answering, stop).await;
        }
        Err(error) => tracing::error!(%error, "listen for the cluster's other nodes"),
    }
}
