//! Runs a node: bind, recover, serve, drain, stop.
//!
//! There are several runtimes, so that load on one can't delay the others: Raft has its own, and so
//! has each thread that serves users; everything else runs on the caller's.

use std::io;
use std::sync::Arc;
use std::time::{Duration, Instant};

use cloudkv_common::fd_limit::{FdLimitError, connection_limit, raise_fd_limit};
use cloudkv_common::server::{BindError, Encryption, MemoryBudget};
use cloudkv_proto::v1 as pb;
use http::HeaderValue;
use tokio::net::TcpListener;
use tokio::runtime::Handle;
use tokio::task::JoinHandle;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

use super::endpoint::resolve_endpoint;
use super::event_log;
use super::groups::{Groups, NodeEndpoint, StartError};
use super::maintenance::{measure_disk_space, run_maintenance};
use super::membership::MembershipContext;
use super::node_list_writer::NodeListWriter;
use super::operator::Operator;
use super::ports::{Ports, PublicListeners, bind_rpc};
use super::region_status;
use super::rpc_port;
use super::start_log;
use super::status::NodeStatus;
use super::threads::Threads;
use super::wiring::{build_replication, build_rpc_handlers, metadata_proposer};
use crate::admin::StartProgress;
use crate::api::{Api, CreationSettings, HttpSettings};
use crate::cluster::{ConsistencyChecker, PlacementController};
use crate::config::Config;
use crate::geo::GeoReplication;
use crate::rpc::{RpcRuntimes, TlsError};
use crate::service::Service;
use crate::{admin, meta, rpc};

/// Maximum number of files that the databases of log and state keep open, 1024 each
/// (`max_open_files`).
const MAX_DATABASE_FILES: u64 = 2 * 1024;

/// Connections to and from eight other nodes that each further thread for users holds.
const CONNECTION_FILES_PER_THREAD: u64 = 16;

/// Time for background tasks to end.
const TASK_SHUTDOWN_TIMEOUT: Duration = Duration::from_secs(15);

/// Time for the last read counts to reach their shards before these stop.
const READ_REPORT_TIMEOUT: Duration = Duration::from_secs(2);

/// Interval at which responses get a new replication lag.
const LAG_PUBLISH_INTERVAL: Duration = Duration::from_millis(250);

/// Reason for which a node ends without a requested stop.
#[derive(Debug, thiserror::Error)]
pub enum RunError {
    /// The node can't start.
    #[error(transparent)]
    Start(#[from] StartError),
    /// The limit of open files is too low.
    #[error(transparent)]
    Files(#[from] FdLimitError),
    /// The node's certificates can't be used.
    #[error(transparent)]
    Tls(#[from] TlsError),
    /// Ports can't be bound.
    #[error(transparent)]
    Bind(#[from] BindError),
    /// Another call to the system failed.
    #[error("{verb}")]
    System {
        /// The failed action.
        verb: &'static str,
        /// The system's error.
        #[source]
        source: io::Error,
    },
    /// A Raft group has failed: to go on could lose acknowledged writes.
    #[error("run the node: stopped by a failure: {0}")]
    Failed(String),
}

/// Returns the number of files that are open besides users' connections.
fn reserved_files(config: &Config) -> u64 {
    let beyond_the_first = config.user_threads().saturating_sub(1) as u64;
    MAX_DATABASE_FILES + CONNECTION_FILES_PER_THREAD * beyond_the_first
}

/// Runs a node until `stop` is cancelled, or until it fails. A region that was not given explicitly
/// is only joined, never created.
pub async fn run(
    mut config: Config,
    is_region_explicit: bool,
    stop: CancellationToken,
) -> Result<(), RunError> {
    let started_at = Instant::now();
    config.max_connections = connection_limit(
        raise_fd_limit(),
        config.max_connections,
        reserved_files(&config),
    )?;
    let (ports, admin_port) = Ports::bind(&config)?;
    start_log::log_process(&config, &ports);
    // Dropped last.
    let threads = Threads::start(&config)?;
    let start = StartContext {
        runtimes: threads.runtimes(),
        config: Arc::new(config),
        is_region_explicit,
        started_at,
    };
    run_node(start, ports, admin_port, stop).await
}

/// Inputs of a start.
struct StartContext {
    runtimes: RpcRuntimes,
    config: Arc<Config>,
    /// True if the region was given explicitly.
    is_region_explicit: bool,
    started_at: Instant,
}

async fn run_node(
    start: StartContext,
    mut ports: Ports,
    admin_port: TcpListener,
    stop: CancellationToken,
) -> Result<(), RunError> {
    let (runtimes, config) = (&start.runtimes, start.config.clone());
    // Cancelled after the last request has completed.
    let stop_groups = CancellationToken::new();
    let raft = &runtimes.raft;
    let endpoint = resolve_endpoint(&config, &ports)?;
    start_log::log_endpoint(&config, &endpoint, ports.rpc.is_some());
    let tls = endpoint.dialer.tls();
    let (tasks, stop_admin) = (TaskTracker::new(), CancellationToken::new());
    let progress = StartProgress::default();
    progress.set_waiting_for("the data directory to be opened and its log to be read");
    let admin_router = admin::AdminRouter::new(
        starting_node(&config, &progress),
        config.admin_token.as_ref(),
    );
    tasks.spawn(cloudkv_common::admin::serve(
        admin_port,
        admin_router.router(),
        stop_admin.clone(),
    ));
    let groups = start_groups(&start, endpoint, progress, stop_groups.clone(), &stop).await?;
    if ports.rpc.is_none() && rpc_port::has_other_nodes(&groups) {
        ports.rpc = Some(bind_rpc(&config)?);
    }
    rpc_port::log_access(&config, ports.rpc.is_some());
    ports.write_addresses(&config)?;
    let service = groups.build_service(&config);
    let http = http_settings(&config, &groups.identity.cluster_id);
    let api = Api::new(
        service.clone(),
        &groups.identity.region,
        &http,
        CreationSettings {
            per_hour: config.address_creations_per_hour,
            trusted_proxies: config.trusted_proxies.clone(),
        },
    );
    let api = Arc::new(api.map_err(|error| RunError::System {
        verb: "name the region",
        source: io::Error::other(error),
    })?);

    let status = Arc::new(NodeStatus::new(groups.clone(), api.clone(), &config));
    let geo = Arc::new(build_replication(&groups, &service));
    let admin_context = admin::AdminContext {
        state: status,
        operations: Arc::new(Operator {
            directory: service.directory.clone(),
            groups: groups.clone(),
            geo: geo.clone(),
        }),
    };
    admin_router.replace(admin::router(admin_context, config.admin_token.as_ref()));
    let rpc_handlers = build_rpc_handlers(
        &groups,
        &service,
        (geo.clone(), api.clone()),
        runtimes.clone(),
        &stop,
    );
    let leaving = rpc_handlers.drain.clone();
    let encryption = match tls {
        Some(tls) => {
            tasks.spawn_on(tls.clone().watch(stop_admin.clone()), raft);
            Encryption::Routers(tls)
        }
        None => Encryption::Off,
    };
    if let Some(listener) = ports.rpc {
        tasks.spawn(rpc::serve(listener, rpc_handlers, stop_admin.clone()));
    } else {
        tasks.spawn(rpc_port::serve_when_needed(
            groups.clone(),
            config.clone(),
            rpc_handlers,
            stop_admin.clone(),
        ));
    }

    let public_listeners = PublicListeners {
        listeners: ports.http,
        address: ports.http_address,
        workers: runtimes.workers.clone(),
        encryption,
    };
    let node = RunningNode {
        groups,
        service,
        api,
        config,
        http,
        tasks,
        raft_runtime: raft.clone(),
        geo,
        stop: stop.clone(),
        stop_placement: stop_groups.child_token(),
        stop_groups,
        started_at: start.started_at,
    };
    let outcome = tokio::select! {
        biased;
        why = node.groups.wait_for_failure() => Err(RunError::Failed(why)),
        why = node.run_cluster_tasks() => Err(RunError::Failed(why)),
        served = node.serve(public_listeners, &stop) => served.map_err(|source| RunError::System {
            verb: "serve users",
            source,
        }),
    };
    if outcome.is_ok() {
        leaving.drain().await;
        let report = node.service.directory.report_reads();
        if tokio::time::timeout(READ_REPORT_TIMEOUT, report)
            .await
            .is_err()
        {
            tracing::warn!(timeout = ?READ_REPORT_TIMEOUT, "reporting the last read counts timed out");
        }
    }
    node.stop_groups.cancel();
    let stopped = node.groups.stop().await;
    stop_admin.cancel();
    node.tasks.close();
    if tokio::time::timeout(TASK_SHUTDOWN_TIMEOUT, node.tasks.wait())
        .await
        .is_err()
    {
        tracing::warn!(timeout = ?TASK_SHUTDOWN_TIMEOUT, "background tasks did not end in time, aborted");
    }
    outcome?;
    stopped.map_err(|source| RunError::System {
        verb: "stop the groups",
        source,
    })?;
    tracing::info!("stopped");
    Ok(())
}

fn starting_node(config: &Config, progress: &StartProgress) -> admin::StartingNode {
    admin::StartingNode {
        progress: progress.clone(),
        region: config.region.to_string(),
        data_dir: config.data_dir.display().to_string(),
    }
}

async fn start_groups(
    start: &StartContext,
    endpoint: NodeEndpoint,
    progress: StartProgress,
    stop: CancellationToken,
    cancel: &CancellationToken,
) -> Result<Arc<Groups>, RunError> {
    let (cancel, runtimes) = (cancel.clone(), start.runtimes.clone());
    let (config, is_region_explicit) = (start.config.clone(), start.is_region_explicit);
    let start = start.runtimes.raft.spawn(async move {
        let entry = MembershipContext {
            is_region_explicit,
            progress: &progress,
            cancel: &cancel,
        };
        Groups::start(&config, endpoint, &runtimes, entry, &stop).await
    });
    let groups = start.await.map_err(|error| RunError::System {
        verb: "start the groups",
        source: io::Error::other(error),
    })?;
    Ok(Arc::new(groups?))
}

/// A running node: what serving needs, and what runs beside it.
struct RunningNode {
    groups: Arc<Groups>,
    service: Service,
    api: Arc<Api>,
    config: Arc<Config>,
    http: HttpSettings,
    tasks: TaskTracker,
    raft_runtime: Handle,
    geo: Arc<GeoReplication>,
    /// Stops the node, as a signal does.
    stop: CancellationToken,
    /// Stops placement decisions.
    stop_placement: CancellationToken,
    stop_groups: CancellationToken,
    started_at: Instant,
}

impl RunningNode {
    /// Recovers, then serves users until `stop`, and until their requests have completed.
    async fn serve(&self, listeners: PublicListeners, stop: &CancellationToken) -> io::Result<()> {
        // From the start: a region that joins is seeded with everything that the others have, and
        // the log of that must not stay.
        let write_buffer = self.config.write_buffer_mib.bytes();
        let maintenance =
            run_maintenance(self.groups.clone(), write_buffer, self.stop_groups.clone());
        self.tasks.spawn(maintenance);
        let watch = measure_disk_space(self.groups.disk_space.clone(), self.stop_groups.clone());
        self.tasks.spawn(watch);
        let event_log = event_log::run(
            self.groups.clone(),
            self.started_at,
            self.stop_groups.clone(),
        );
        self.tasks.spawn(event_log);
        let node_list = Arc::new(NodeListWriter::new(self.groups.clone()));
        self.tasks
            .spawn(node_list.clone().run(self.stop_groups.clone()));
        if stop
            .run_until_cancelled(self.groups.wait_until_serving())
            .await
            .is_none()
        {
            return Ok(());
        }
        node_list.save_changes().await;
        self.start_background_tasks();
        start_log::log_serving(&self.groups, listeners.address, self.started_at);
        let drain = CancellationToken::new();
        let serve = listeners.serve(&self.api, &self.http, &drain);
        let shutdown = async {
            stop.cancelled().await;
            // While leadership moves, this node still serves users, and forwards their requests.
            self.stop_placement.cancel();
            self.groups.transfer_leaderships().await;
            drain.cancel();
            Ok(())
        };
        // Serving ends by itself only on failure.
        futures_util::try_join!(serve, shutdown).map(drop)
    }

    /// Runs the placement controller and the consistency checker. Returns the reason once this node
    /// has been removed from the cluster.
    async fn run_cluster_tasks(&self) -> String {
        let groups = &self.groups;
        let placement_controller = PlacementController {
            identity: groups.identity.clone(),
            registration: pb::RegisterNode {
                node: groups.identity.node_id,
                region: groups.identity.region.clone(),
                rpc: groups.endpoint.rpc.clone(),
                http: groups.endpoint.http.clone(),
                level: meta::MAX_FEATURE_LEVEL,
                version: env!("CARGO_PKG_VERSION").to_owned(),
                name: self.config.name.clone().unwrap_or_default(),
            },
            meta: groups.meta.clone(),
            catalog: groups.catalog.clone(),
            shards: groups.shards.iter().cloned().collect(),
            peers: groups.peers.clone(),
            failure_detector: groups.failure_detector.clone(),
            propose: metadata_proposer(&self.service),
            dialer: groups.endpoint.dialer.clone(),
            configured_addresses: self.config.join.clone(),
            disk_space: groups.disk_space.clone(),
            meta_gate: groups.metadata_gate.clone(),
            stop_node: self.stop.clone(),
        };
        let watch = groups
            .failure_detector
            .clone()
            .run(groups.peers.clone(), self.stop_groups.clone());
        self.tasks.spawn_on(watch, &self.raft_runtime);
        self.tasks
            .spawn(self.geo.clone().run(self.stop_groups.clone()));
        let consistency_checker = ConsistencyChecker {
            shards: groups.shards.iter().cloned().collect(),
            peers: groups.peers.clone(),
            data_dir: self.config.data_dir.clone(),
            mismatches: groups.replica_alarms.clone(),
        };
        let check = self
            .tasks
            .spawn(consistency_checker.run(self.stop_placement.clone()));
        let control = Arc::new(placement_controller).run(self.stop_placement.clone());
        let control = self.tasks.spawn_on(control, &self.raft_runtime);
        tokio::select! {
            why = failure_reason(check) => why,
            why = failure_reason(control) => why,
        }
    }

    fn start_background_tasks(&self) {
        let directory = &self.service.directory;
        let stop = || self.stop_groups.clone();
        self.tasks
            .spawn(directory.clone().sweep_deleted_buckets(stop()));
        self.tasks
            .spawn(directory.clone().run_space_reclaim(stop()));
        self.tasks.spawn(directory.clone().run_read_reports(stop()));
        let failure_detector = self.groups.failure_detector.clone();
        let expire = directory.clone();
        let expire = expire.expire_accounts(move || failure_detector.is_clock_ok(), stop());
        self.tasks.spawn(expire);
        let (groups, api) = (self.groups.clone(), self.api.clone());
        let publish_lag = async move {
            loop {
                api.set_replication_lag(&region_status::format_lag(&groups));
                tokio::time::sleep(LAG_PUBLISH_INTERVAL).await;
            }
        };
        let stop_publishing = self.stop_groups.clone();
        self.tasks
            .spawn(async move { stop_publishing.run_until_cancelled(publish_lag).await });
    }
}

/// Returns the reason for which a task that should run until the node stops has ended early.
async fn failure_reason(task: JoinHandle<Option<String>>) -> String {
    match task.await {
        Ok(None) => std::future::pending().await,
        Ok(Some(why)) => why,
        Err(error) => error.to_string(),
    }
}

fn http_settings(config: &Config, cluster_id: &str) -> HttpSettings {
    // With certificates, routers authenticate by theirs.
    let token = HeaderValue::from_str(cluster_id).ok();
    let token = token.filter(|token| config.rpc_cert.is_none() && !token.is_empty());
    HttpSettings {
        max_connections: config.max_connections,
        max_address_connections: config.address_connections,
        max_address_requests: config.address_requests,
        trusted_proxies: config.trusted_proxies.clone().into(),
        router_token: token,
        header_timeout: config.header_timeout,
        idle_timeout: config.idle_timeout,
        write_timeout: config.write_timeout,
        response_memory: Arc::new(MemoryBudget::new(config.answer_memory_mib.bytes())),
        max_connection_response_bytes: config.connection_answers_kib.bytes(),
        body_timeout: config.body_timeout,
        min_body_rate: config.min_body_rate,
        body_memory_bytes: config.body_memory_mib.bytes(),
        drain_timeout: config.drain_timeout,
        ..HttpSettings::default()
    }
}
