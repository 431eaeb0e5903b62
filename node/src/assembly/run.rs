//! Runs a node: bind, recover, serve, drain, stop.
//!
//! There are several runtimes, so that load on one can't delay the others: Raft has its own, and so
//! has each thread that serves users; everything else runs on the caller's.

use std::io;
use std::sync::Arc;
use std::time::{Duration, Instant};

use cloudkv_common::files::{FilesError, raise_limit, room_for_connections};
use cloudkv_common::server::{BindError, Encryption, Memory};
use cloudkv_proto::v1 as pb;
use http::HeaderValue;
use tokio::net::TcpListener;
use tokio::runtime::Handle;
use tokio::task::JoinHandle;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

use super::entry::Entry;
use super::groups::{Groups, Place, StartError};
use super::journal;
use super::node_port;
use super::observe::Observer;
use super::operate::Operator;
use super::place::place;
use super::ports::{Ports, Users, bind_rpc};
use super::regions;
use super::start_log;
use super::threads::Threads;
use super::upkeep::{upkeep, watch_disk};
use super::wiring::{answering, geo, proposer};
use crate::admin::Progress;
use crate::api::{Api, CreationSettings, HttpSettings};
use crate::cluster::{Comparer, Keeper};
use crate::config::Config;
use crate::geo::Geo;
use crate::rpc::{Runtimes, TlsError};
use crate::service::Service;
use crate::{admin, meta, rpc};

/// Maximum number of files that the databases of log and state keep open, 1024 each
/// (`max_open_files`).
const DATABASE_FILES: u64 = 2 * 1024;

/// Connections to and from eight other nodes that each further thread for users holds.
const LINK_FILES: u64 = 16;

/// Time for background tasks to end.
const TASKS_END: Duration = Duration::from_secs(15);

/// Time for the last read counts to reach their shards before these stop.
const REPORTED_WITHIN: Duration = Duration::from_secs(2);

/// Interval at which responses get a new replication lag.
const TELL_LAG: Duration = Duration::from_millis(250);

/// Reason for which a node ends without a requested stop.
#[derive(Debug, thiserror::Error)]
pub enum RunError {
    /// The node can't start.
    #[error(transparent)]
    Start(#[from] StartError),
    /// The limit of open files is too low.
    #[error(transparent)]
    Files(#[from] FilesError),
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
    #[error("run the node: {0}")]
    Failed(String),
}

/// Returns the number of files that are open besides users' connections.
fn own_files(config: &Config) -> u64 {
    let beyond_the_first = config.user_threads().saturating_sub(1) as u64;
    DATABASE_FILES + LINK_FILES * beyond_the_first
}

/// Runs a node until `stop` is cancelled, or until it fails. A region that was not given explicitly
/// is only joined, never created.
pub async fn run(
    mut config: Config,
    is_region_explicit: bool,
    stop: CancellationToken,
) -> Result<(), RunError> {
    let started_at = Instant::now();
    config.max_connections =
        room_for_connections(raise_limit(), config.max_connections, own_files(&config))?;
    let (ports, admin_port) = Ports::bind(&config)?;
    start_log::begins(&config, &ports);
    // Dropped last.
    let threads = Threads::start(&config)?;
    let start = Start {
        runtimes: threads.runtimes(),
        config: Arc::new(config),
        names_region: is_region_explicit,
        began: started_at,
    };
    run_on(start, ports, admin_port, stop).await
}

/// Inputs of a start.
struct Start {
    runtimes: Runtimes,
    config: Arc<Config>,
    /// True if the region was given explicitly.
    names_region: bool,
    began: Instant,
}

async fn run_on(
    start: Start,
    mut ports: Ports,
    admin_port: TcpListener,
    stop: CancellationToken,
) -> Result<(), RunError> {
    let (runtimes, config) = (&start.runtimes, start.config.clone());
    // Cancelled after the last request has completed.
    let stop_groups = CancellationToken::new();
    let raft = &runtimes.raft;
    let endpoint = place(&config, &ports)?;
    start_log::place(&config, &endpoint, ports.rpc.is_some());
    let tls = endpoint.dialer.tls();
    let (tasks, stop_admin) = (TaskTracker::new(), CancellationToken::new());
    let progress = Progress::default();
    progress.waits_for("the data directory to be opened and its log to be read");
    let admin_router = admin::Front::new(starting(&config, &progress), config.admin_token.as_ref());
    tasks.spawn(cloudkv_common::admin::serve(
        admin_port,
        admin_router.router(),
        stop_admin.clone(),
    ));
    let groups = start_groups(&start, endpoint, progress, stop_groups.clone(), &stop).await?;
    if ports.rpc.is_none() && node_port::has_others(&groups) {
        ports.rpc = Some(bind_rpc(&config)?);
    }
    node_port::tell(&config, ports.rpc.is_some());
    ports.write_addresses(&config)?;
    let service = groups.service(&config);
    let http = http_settings(&config, &groups.identity.cluster_id);
    let api = Api::new(
        service.clone(),
        &groups.identity.region,
        &http,
        CreationSettings {
            per_hour: config.address_creations_per_hour,
            trusted: config.trusted_proxies.clone(),
        },
    );
    let api = Arc::new(api.map_err(|error| RunError::System {
        verb: "name the region",
        source: io::Error::other(error),
    })?);

    let status = Arc::new(Observer::new(groups.clone(), api.clone(), &config));
    let geo = Arc::new(geo(&groups, &service));
    let admin_context = admin::Node {
        state: status,
        operations: Arc::new(Operator {
            directory: service.directory.clone(),
            groups: groups.clone(),
            geo: geo.clone(),
        }),
    };
    admin_router.replace(admin::router(admin_context, config.admin_token.as_ref()));
    let rpc_handlers = answering(
        &groups,
        &service,
        (geo.clone(), api.clone()),
        runtimes.clone(),
        &stop,
    );
    let leaving = rpc_handlers.leaving.clone();
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
        tasks.spawn(node_port::serve_later(
            groups.clone(),
            config.clone(),
            rpc_handlers,
            stop_admin.clone(),
        ));
    }

    let public_listeners = Users {
        listeners: ports.http,
        address: ports.http_address,
        workers: runtimes.workers.clone(),
        encryption,
    };
    let node = Node {
        groups,
        service,
        api,
        config,
        http,
        tasks,
        raft: raft.clone(),
        geo,
        stop: stop.clone(),
        stop_cluster: stop_groups.child_token(),
        stop_groups,
        began: start.began,
    };
    let outcome = tokio::select! {
        biased;
        why = node.groups.failed() => Err(RunError::Failed(why)),
        why = node.look_after_cluster() => Err(RunError::Failed(why)),
        served = node.serve(public_listeners, &stop) => served.map_err(|source| RunError::System {
            verb: "serve users",
            source,
        }),
    };
    if outcome.is_ok() {
        leaving.leave().await;
        let report = node.service.directory.report_reads();
        if tokio::time::timeout(REPORTED_WITHIN, report).await.is_err() {
            tracing::warn!(timeout = ?REPORTED_WITHIN, "reporting the last read counts timed out");
        }
    }
    node.stop_groups.cancel();
    let stopped = node.groups.stop().await;
    stop_admin.cancel();
    node.tasks.close();
    if tokio::time::timeout(TASKS_END, node.tasks.wait())
        .await
        .is_err()
    {
        tracing::warn!(timeout = ?TASKS_END, "background tasks did not end in time, aborted");
    }
    outcome?;
    stopped.map_err(|source| RunError::System {
        verb: "stop the groups",
        source,
    })?;
    tracing::info!("stopped");
    Ok(())
}

fn starting(config: &Config, progress: &Progress) -> admin::Starting {
    admin::Starting {
        progress: progress.clone(),
        region: config.region.to_string(),
        data_dir: config.data_dir.display().to_string(),
    }
}

async fn start_groups(
    start: &Start,
    endpoint: Place,
    progress: Progress,
    stop: CancellationToken,
    cancel: &CancellationToken,
) -> Result<Arc<Groups>, RunError> {
    let (cancel, runtimes) = (cancel.clone(), start.runtimes.clone());
    let (config, is_region_explicit) = (start.config.clone(), start.names_region);
    let start = start.runtimes.raft.spawn(async move {
        let entry = Entry {
            names_region: is_region_explicit,
            progress: &progress,
            give_up: &cancel,
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
struct Node {
    groups: Arc<Groups>,
    service: Service,
    api: Arc<Api>,
    config: Arc<Config>,
    http: HttpSettings,
    tasks: TaskTracker,
    raft: Handle,
    geo: Arc<Geo>,
    /// Stops the node, as a signal does.
    stop: CancellationToken,
    /// Stops placement decisions.
    stop_cluster: CancellationToken,
    stop_groups: CancellationToken,
    began: Instant,
}

impl Node {
    /// Recovers, then serves users until `stop`, and until their requests have completed.
    async fn serve(&self, listeners: Users, stop: &CancellationToken) -> io::Result<()> {
        // From the start: a region that joins is seeded with everything that the others have, and
        // the log of that must not stay.
        let write_buffer = self.config.write_buffer_mib.bytes();
        let maintenance = upkeep(self.groups.clone(), write_buffer, self.stop_groups.clone());
        self.tasks.spawn(maintenance);
        let watch = watch_disk(self.groups.space.clone(), self.stop_groups.clone());
        self.tasks.spawn(watch);
        let event_log = journal::write(self.groups.clone(), self.began, self.stop_groups.clone());
        self.tasks.spawn(event_log);
        if stop
            .run_until_cancelled(self.groups.serving())
            .await
            .is_none()
        {
            return Ok(());
        }
        self.start_tasks();
        start_log::serves(&self.groups, listeners.address, self.began);
        let drain = CancellationToken::new();
        let serve = listeners.serve(&self.api, &self.http, &drain);
        let shutdown = async {
            stop.cancelled().await;
            // While leadership moves, this node still serves users, and forwards their requests.
            self.stop_cluster.cancel();
            self.groups.hand_over().await;
            drain.cancel();
            Ok(())
        };
        // Serving ends by itself only on failure.
        futures_util::try_join!(serve, shutdown).map(drop)
    }

    /// Runs the placement controller and the consistency checker. Returns the reason once this node
    /// has been removed from the cluster.
    async fn look_after_cluster(&self) -> String {
        let groups = &self.groups;
        let placement_controller = Keeper {
            identity: groups.identity.clone(),
            registration: pb::RegisterNode {
                node: groups.identity.node_id,
                region: groups.identity.region.clone(),
                rpc: groups.place.rpc.clone(),
                http: groups.place.http.clone(),
                level: meta::LEVEL,
                version: env!("CARGO_PKG_VERSION").to_owned(),
                name: self.config.name.clone().unwrap_or_default(),
            },
            meta: groups.meta.clone(),
            catalog: groups.catalog.clone(),
            shards: groups.shards.iter().cloned().collect(),
            peers: groups.peers.clone(),
            vitals: groups.vitals.clone(),
            propose: proposer(&self.service),
            dialer: groups.place.dialer.clone(),
            named: self.config.join.clone(),
            space: groups.space.clone(),
            meta_gate: groups.meta_gate.clone(),
            stop_node: self.stop.clone(),
        };
        let watch = groups
            .vitals
            .clone()
            .watch(groups.peers.clone(), self.stop_groups.clone());
        self.tasks.spawn_on(watch, &self.raft);
        self.tasks
            .spawn(self.geo.clone().run(self.stop_groups.clone()));
        let consistency_checker = Comparer {
            shards: groups.shards.iter().cloned().collect(),
            peers: groups.peers.clone(),
            data_dir: self.config.data_dir.clone(),
            alarms: groups.replica_alarms.clone(),
        };
        let check = self
            .tasks
            .spawn(consistency_checker.run(self.stop_cluster.clone()));
        let control = Arc::new(placement_controller).run(self.stop_cluster.clone());
        let control = self.tasks.spawn_on(control, &self.raft);
        tokio::select! {
            why = reason(check) => why,
            why = reason(control) => why,
        }
    }

    fn start_tasks(&self) {
        let directory = &self.service.directory;
        let stop = || self.stop_groups.clone();
        self.tasks.spawn(directory.clone().sweep(stop()));
        self.tasks.spawn(directory.clone().reclaim(stop()));
        self.tasks.spawn(directory.clone().report(stop()));
        let failure_detector = self.groups.vitals.clone();
        let expire = directory.clone();
        let expire = expire.expire_accounts(move || failure_detector.clock_ok(), stop());
        self.tasks.spawn(expire);
        let (groups, api) = (self.groups.clone(), self.api.clone());
        let publish_lag = async move {
            loop {
                api.set_lag(&regions::lag(&groups));
                tokio::time::sleep(TELL_LAG).await;
            }
        };
        let stop_publishing = self.stop_groups.clone();
        self.tasks
            .spawn(async move { stop_publishing.run_until_cancelled(publish_lag).await });
    }
}

/// Returns the reason for which a task that should run until the node stops has ended early.
async fn reason(task: JoinHandle<Option<String>>) -> String {
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
        address_connections: config.address_connections,
        address_requests: config.address_requests,
        trusted: config.trusted_proxies.clone().into(),
        router_token: token,
        header_timeout: config.header_timeout,
        idle_timeout: config.idle_timeout,
        write_timeout: config.write_timeout,
        answer_memory: Arc::new(Memory::new(config.answer_memory_mib.bytes())),
        connection_answers: config.connection_answers_kib.bytes(),
        body_timeout: config.body_timeout,
        body_rate: config.min_body_rate,
        body_memory: config.body_memory_mib.bytes(),
        drain_timeout: config.drain_timeout,
        ..HttpSettings::default()
    }
}
