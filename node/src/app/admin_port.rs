//! The admin port: it tells of the start, and then of the running node.

use std::sync::Arc;

use tokio::net::TcpListener;
use tokio_util::task::TaskTracker;

use super::node::Node;
use super::status::NodeStatus;
use super::stop_signals::StopSignals;
use crate::admin::{self, AdminContext, AdminRouter, Operator, StartProgress, StartingNode};
use crate::config::Config;

/// Serves the admin port of a starting node. Returns its routes, which [`serve_node`] replaces.
pub(super) fn serve_start(
    config: &Config,
    listener: TcpListener,
    progress: &StartProgress,
    tasks: &TaskTracker,
    stop: &StopSignals,
) -> AdminRouter {
    let starting = StartingNode {
        progress: progress.clone(),
        region: config.region.to_string(),
        data_dir: config.data_dir.display().to_string(),
    };
    let router = AdminRouter::new(starting, config.admin_token.as_ref());
    let (routes, stop) = (router.router(), stop.admin.clone());
    tasks.spawn(cloudkv_common::admin::serve(listener, routes, stop));
    router
}

/// Serves the status and the operations of a node that has been built.
pub(super) fn serve_node(router: &AdminRouter, node: &Node) {
    let groups = node.components.groups.clone();
    let directory = node.service.directory.clone();
    let context = AdminContext {
        state: Arc::new(NodeStatus::new(
            node.components.clone(),
            node.api.clone(),
            node.backups.status().clone(),
            &node.config,
        )),
        operations: Arc::new(Operator::new(
            directory,
            groups,
            node.geo.clone(),
            node.backups.clone(),
            (node.config.data_dir.clone(), node.restart.clone()),
        )),
    };
    router.replace(admin::router(context, node.config.admin_token.as_ref()));
}
