//! Decides whether a node listens on the rpc port for other nodes and routers.
//!
//! Without certificates, every process that reaches that port can act as a node: it reads and
//! changes everything. A single node that knows of no other has no use for the port, so it has
//! none.

use std::sync::Arc;

use tokio::net::TcpListener;
use tokio_util::sync::CancellationToken;

use super::node::Node;
use super::ports::bind_rpc;
use crate::cluster::LocalGroups;
use crate::config::Config;
use crate::meta::NodeState;
use crate::rpc::{self, RpcServerContext};

/// Returns whether the cluster has other nodes: those that admitted this one, or those in the
/// metadata.
pub(super) fn has_other_nodes(groups: &LocalGroups) -> bool {
    let me = groups.identity.node_id;
    let topology = groups.catalog.topology();
    let mut nodes = topology.nodes().iter();
    !groups.identity.bootstraps_cluster
        || nodes.any(|node| node.id != me && node.state != NodeState::Removed)
}

/// Logs who can reach the rpc port, or the settings that would open it.
pub(super) fn log_access(config: &Config, is_listening: bool) {
    let address = config.rpc_address();
    if !is_listening {
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

/// Serves other nodes and routers on `listener`; without one, as soon as there are other nodes.
pub(super) fn serve(node: &Node, listener: Option<TcpListener>, context: RpcServerContext) {
    let stop = node.stop.admin.clone();
    if let Some(listener) = listener {
        node.tasks.spawn(rpc::serve(listener, context, stop));
    } else {
        let (groups, config) = (node.components.groups.clone(), node.config.clone());
        node.tasks
            .spawn(serve_when_needed(groups, config, context, stop));
    }
}

/// Serves other nodes once the metadata names one: the last entries of the log may do so some time
/// after the start.
async fn serve_when_needed(
    groups: Arc<LocalGroups>,
    config: Arc<Config>,
    handlers: RpcServerContext,
    stop: CancellationToken,
) {
    let mut changes = groups.catalog.topology_changes();
    while !has_other_nodes(&groups) {
        match stop.run_until_cancelled(changes.changed()).await {
            Some(Ok(())) => {}
            Some(Err(_)) | None => return,
        }
    }
    match bind_rpc(&config) {
        Ok(listener) => {
            log_access(&config, true);
            rpc::serve(listener, handlers, stop).await;
        }
        Err(error) => tracing::error!(%error, "binding the rpc port failed"),
    }
}
