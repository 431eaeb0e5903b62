//! Builds a node, in the order in which its ports can serve: the admin port tells of the start, the
//! rpc port is needed to catch up, and the public port comes last.

use std::io;
use std::sync::Arc;
use std::time::Instant;

use cloudkv_common::process::SystemError;
use tokio::net::TcpListener;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

use super::admin_port::{serve_node, serve_start};
use super::components::Components;
use super::endpoint::{NodeEndpoint, resolve_endpoint};
use super::errors::RunError;
use super::membership::{MembershipContext, requested_region};
use super::node::Node;
use super::ports::{Ports, PublicListeners, bind_rpc};
use super::public_api::{build_api, http_settings};
use super::start_report::StartReport;
use super::starting_port::StartingPort;
use super::starting_rpc_port::StartingRpcPort;
use super::stop_signals::StopSignals;
use super::wiring::{build_call_handlers, build_replication};
use super::{rpc_port, start_log};
use crate::admin::RestartRequest;
use crate::backup::Backups;
use crate::calls::server_context;
use crate::config::Config;
use crate::rpc::{RpcRuntimes, StreamDrain};

/// Inputs for building a node.
pub(super) struct NodeBuilder {
    pub config: Arc<Config>,
    /// True if the region was given explicitly.
    pub is_region_explicit: bool,
    pub runtimes: RpcRuntimes,
    /// Time at which the process began to start the node.
    pub started_at: Instant,
}

impl NodeBuilder {
    /// Builds the node, and serves its other ports. Returns it with the public port as the start
    /// serves it, and the listeners that replace that. `stop` cancels the start, too.
    pub(super) async fn build(
        self,
        mut ports: Ports,
        admin_port: TcpListener,
        stop: CancellationToken,
    ) -> Result<(Node, StartingPort, PublicListeners), RunError> {
        let config = self.config.clone();
        let endpoint = resolve_endpoint(&config, &ports)?;
        start_log::log_endpoint(&config, &endpoint, ports.rpc.is_some());
        let (tasks, stop) = (TaskTracker::new(), StopSignals::new(stop));
        let report = StartReport::default();
        report.set_waiting_for("the data directory to be opened and its log to be read");
        let admin_router = serve_start(&config, admin_port, report.admin(), &tasks, &stop);
        let starting_port = self.open_starting_port(&ports, &endpoint, &report, &tasks)?;
        let starting_rpc_port = StartingRpcPort::open(
            ports.rpc.as_ref(),
            endpoint.dialer.tls(),
            report.watch_address_conflict(),
            &tasks,
        )?;
        let components = self.start_components(endpoint, report, &stop).await?;
        starting_rpc_port.close().await;
        if ports.rpc.is_none() && rpc_port::has_other_nodes(&components.groups) {
            ports.rpc = Some(bind_rpc(&config)?);
        }
        rpc_port::log_access(&config, ports.rpc.is_some());
        ports.write_addresses(&config)?;
        let node = self.assemble(components, tasks, stop)?;
        serve_node(&admin_router, &node);
        self.serve_other_nodes(&node, ports.rpc);
        let listeners = PublicListeners {
            encryption: node.components.endpoint.public_encryption(),
            listeners: ports.http,
            address: ports.http_address,
            workers: self.runtimes.workers,
        };
        Ok((node, starting_port, listeners))
    }

    /// Answers users until the node serves them.
    fn open_starting_port(
        &self,
        ports: &Ports,
        endpoint: &NodeEndpoint,
        report: &StartReport,
        tasks: &TaskTracker,
    ) -> Result<StartingPort, RunError> {
        let region = requested_region(&self.config, self.is_region_explicit);
        let api = (region.as_str(), endpoint.public_encryption());
        let workers = &self.runtimes.workers;
        StartingPort::open(&ports.http, workers, api, &self.config, report, tasks)
    }

    /// Starts the components on Raft's threads.
    async fn start_components(
        &self,
        endpoint: NodeEndpoint,
        report: StartReport,
        stop: &StopSignals,
    ) -> Result<Arc<Components>, RunError> {
        let (config, runtimes, stop) = (self.config.clone(), self.runtimes.clone(), stop.clone());
        let is_region_explicit = self.is_region_explicit;
        let start = self.runtimes.raft.spawn(async move {
            let membership = MembershipContext {
                is_region_explicit,
                report: &report,
                cancel: &stop.node,
            };
            Components::start(&config, endpoint, &runtimes, membership, &stop.groups).await
        });
        let components = start.await.map_err(io::Error::other);
        let components = components.map_err(SystemError::while_doing("start the groups"))?;
        Ok(Arc::new(components?))
    }

    /// Builds the service, the API and the replication to other regions over the components.
    fn assemble(
        &self,
        components: Arc<Components>,
        tasks: TaskTracker,
        stop: StopSignals,
    ) -> Result<Node, RunError> {
        let config = self.config.clone();
        let service = components.build_service(&config, &self.runtimes.general);
        let identity = &components.groups.identity;
        let http = http_settings(&config, &identity.cluster_id);
        let api = build_api(&config, service.clone(), &identity.region, &http)?;
        let geo = Arc::new(build_replication(&components, &service));
        let backups = Backups::new(&service, &components.groups, stop.node.clone());
        Ok(Node {
            components,
            service,
            api,
            geo,
            backups,
            config,
            http,
            tasks,
            raft_runtime: self.runtimes.raft.clone(),
            forwarded_drain: StreamDrain::default(),
            restart: RestartRequest::new(stop.node.clone()),
            stop,
            started_at: self.started_at,
        })
    }

    /// Serves other nodes and routers on the rpc port.
    fn serve_other_nodes(&self, node: &Node, listener: Option<TcpListener>) {
        let tls = node.components.endpoint.dialer.tls();
        let handlers = build_call_handlers(
            &node.components,
            &node.service,
            (node.geo.clone(), node.api.clone()),
            (&node.stop.node, &node.restart),
        );
        let drain = node.forwarded_drain.clone();
        let context = server_context(handlers, drain, tls.clone(), self.runtimes.clone());
        if let Some(tls) = tls {
            let watch = tls.watch(node.stop.admin.clone());
            node.tasks.spawn_on(watch, &node.raft_runtime);
        }
        rpc_port::serve(node, listener, context);
    }
}
