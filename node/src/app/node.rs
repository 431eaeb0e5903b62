//! A node: its components, and what serving needs.

use std::sync::Arc;
use std::time::Instant;

use tokio::runtime::Handle;
use tokio_util::task::TaskTracker;

use super::components::Components;
use super::stop_signals::StopSignals;
use crate::admin::RestartRequest;
use crate::api::{Api, HttpSettings};
use crate::backup::Backups;
use crate::config::Config;
use crate::geo::GeoReplication;
use crate::rpc::StreamDrain;
use crate::service::Service;

/// A node that has been built: `build` does so, `serve` and `tasks` run it, `drain` ends it.
pub(super) struct Node {
    pub components: Arc<Components>,
    pub service: Service,
    pub api: Arc<Api>,
    pub geo: Arc<GeoReplication>,
    pub backups: Backups,
    pub config: Arc<Config>,
    pub http: HttpSettings,
    /// All tasks that run until the node stops.
    pub tasks: TaskTracker,
    /// Runtime of Raft.
    pub raft_runtime: Handle,
    /// Drains the requests that other nodes and routers forward.
    pub forwarded_drain: StreamDrain,
    pub stop: StopSignals,
    /// Request to end so that the next start carries out a recovery.
    pub restart: RestartRequest,
    pub started_at: Instant,
}
