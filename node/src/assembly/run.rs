//! Runs a node: bind, recover, serve, drain, stop.
//!
//! Several runtimes, so that load on one can't delay the other: Raft has its own, and so has each
//! thread that serves users; all else runs on the caller's.

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

/// Files that the databases of log and state keep open at most, 1024 each (`max_open_files`).
const DATABASE_FILES: u64 = 2 * 1024;

/// Connections that each further thread for users has, to and from eight other nodes.
const LINK_FILES: u64 = 16;

/// How long tasks in the background may take to end.
const TASKS_END: Duration = Duration::from_secs(15);

/// Time for the last counts of reads to get to their shards before these stop.
const REPORTED_WITHIN: Duration = Duration::from_secs(2);

/// How often answers tell of a new lag.
const TELL_LAG: Duration = Duration::from_millis(250);

/// Why a node ends other than by being told to.
#[derive(Debug, thiserror::Error)]
pub enum RunError {
    /// It doesn't start.
    #[error(transparent)]
    Start(#[from] StartError),
    /// The process may not open enough files.
    #[error(transparent)]
    Files(#[from] FilesError),
    /// Its certificates can't be used.
    #[error(transparent)]
    Tls(#[from] TlsError),
    /// Ports can't be bound.
    #[error(transparent)]
    Bind(#[from] BindError),
    /// The system refuses something else.
    #[error("{verb}")]
    System {
        /// What was tried.
        verb: &'static str,
        /// What the system said.
        #[source]
        source: io::Error,
    },
    /// A Raft group has failed: going on could lose what was acknowledged.
    #[error("stopped by a failure: {0}")]
    Failed(String),
}

/// Files that are open besides users' connections.
fn own_files(config: &Config) -> u64 {
    let beyond_the_first = config.user_threads().saturating_sub(1) as u64;
    DATABASE_FILES + LINK_FILES * beyond_the_first
}

/// Runs a node until `stop` is cancelled, or it fails. A region that nobody named is only joined.
pub async fn run(
    mut config: Config,
    names_region: bool,
    stop: CancellationToken,
) -> Result<(), RunError> {
    let began = Instant::now();
    config.max_connections =
        room_for_connections(raise_limit(), config.max_connections, own_files(&config))?;
    let (ports, admin_port) = Ports::bind(&config)?;
    start_log::begins(&config, &ports);
    // They end last.
    let threads = Threads::start(&config)?;
    let start = Start {
        runtimes: threads.runtimes(),
        config: Arc::new(config),
        names_region,
        began,
    };
    run_on(start, ports, admin_port, stop).await
}

/// What a start has to begin with.
struct Start {
    runtimes: Runtimes,
    config: Arc<Config>,
    /// Whether somebody named its region.
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
    // Cancelled after the last request has ended.
    let stop_groups = CancellationToken::new();
    let raft = &runtimes.raft;
    let place = place(&config, &ports)?;
    start_log::place(&config, &place, ports.rpc.is_some());
    let tls = place.dialer.tls();
    let (tasks, stop_admin) = (TaskTracker::new(), CancellationToken::new());
    let progress = Progress::default();
    progress.waits_for("the data directory to be opened and its log to be read");
    let front = admin::Front::new(starting(&config, &progress), config.admin_token.as_ref());
    tasks.spawn(cloudkv_common::admin::serve(
        admin_port,
        front.router(),
        stop_admin.clone(),
    ));
    let groups = start_groups(&start, place, progress, stop_groups.clone(), &stop).await?;
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

    let observer = Arc::new(Observer::new(groups.clone(), api.clone(), &config));
    let geo = Arc::new(geo(&groups, &service));
    let operator = admin::Node {
        state: observer,
        operations: Arc::new(Operator {
            directory: service.directory.clone(),
            groups: groups.clone(),
            geo: geo.clone(),
        }),
    };
    front.replace(admin::router(operator, config.admin_token.as_ref()));
    let answering = answering(
        &groups,
        &service,
        (geo.clone(), api.clone()),
        runtimes.clone(),
        &stop,
    );
    let leaving = answering.leaving.clone();
    let encryption = match tls {
        Some(tls) => {
            tasks.spawn_on(tls.clone().watch(stop_admin.clone()), raft);
            Encryption::Routers(tls)
        }
        None => Encryption::Off,
    };
    if let Some(listener) = ports.rpc {
        tasks.spawn(rpc::serve(listener, answering, stop_admin.clone()));
    } else {
        tasks.spawn(node_port::serve_later(
            groups.clone(),
            config.clone(),
            answering,
            stop_admin.clone(),
        ));
    }

    let users = Users {
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
        served = node.serve(users, &stop) => served.map_err(|source| RunError::System {
            verb: "serve users",
            source,
        }),
    };
    if outcome.is_ok() {
        leaving.leave().await;
        let report = node.service.directory.report_reads();
        if tokio::time::timeout(REPORTED_WITHIN, report).await.is_err() {
            tracing::warn!("the last counts of reads were not taken in time");
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
        tracing::warn!("tasks in the background were cut off");
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
    place: Place,
    progress: Progress,
    stop: CancellationToken,
    give_up: &CancellationToken,
) -> Result<Arc<Groups>, RunError> {
    let (give_up, runtimes) = (give_up.clone(), start.runtimes.clone());
    let (config, names_region) = (start.config.clone(), start.names_region);
    let start = start.runtimes.raft.spawn(async move {
        let entry = Entry {
            names_region,
            progress: &progress,
            give_up: &give_up,
        };
        Groups::start(&config, place, &runtimes, entry, &stop).await
    });
    let groups = start.await.map_err(|error| RunError::System {
        verb: "start the groups",
        source: io::Error::other(error),
    })?;
    Ok(Arc::new(groups?))
}

/// What serving needs, and what runs beside it.
struct Node {
    groups: Arc<Groups>,
    service: Service,
    api: Arc<Api>,
    config: Arc<Config>,
    http: HttpSettings,
    tasks: TaskTracker,
    raft: Handle,
    geo: Arc<Geo>,
    /// Ends the node, as a signal does.
    stop: CancellationToken,
    /// Ends decisions about the cluster.
    stop_cluster: CancellationToken,
    stop_groups: CancellationToken,
    began: Instant,
}

impl Node {
    /// Recovers, then serves users until `stop`, and until their requests have ended.
    async fn serve(&self, users: Users, stop: &CancellationToken) -> io::Result<()> {
        // From the beginning: a region that joins takes over all that the others have, and the log of
        // that must not stay.
        let write_buffer = self.config.write_buffer_mib.bytes();
        let upkeep = upkeep(self.groups.clone(), write_buffer, self.stop_groups.clone());
        self.tasks.spawn(upkeep);
        let watch = watch_disk(self.groups.space.clone(), self.stop_groups.clone());
        self.tasks.spawn(watch);
        let journal = journal::write(self.groups.clone(), self.began, self.stop_groups.clone());
        self.tasks.spawn(journal);
        if stop
            .run_until_cancelled(self.groups.serving())
            .await
            .is_none()
        {
            return Ok(());
        }
        self.start_tasks();
        start_log::serves(&self.groups, users.address, self.began);
        let drain = CancellationToken::new();
        let serve = users.serve(&self.api, &self.http, &drain);
        let wind_down = async {
            stop.cancelled().await;
            // While others take over, this node still serves users, and passes their requests on.
            self.stop_cluster.cancel();
            self.groups.hand_over().await;
            drain.cancel();
            Ok(())
        };
        // Serving ends by itself only if it fails.
        futures_util::try_join!(serve, wind_down).map(drop)
    }

    /// Keeps the cluster as it should be. Ends only if this node has no place in it any more.
    async fn look_after_cluster(&self) -> String {
        let groups = &self.groups;
        let keeper = Keeper {
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
        let comparer = Comparer {
            shards: groups.shards.iter().cloned().collect(),
            peers: groups.peers.clone(),
            data_dir: self.config.data_dir.clone(),
            alarms: groups.replica_alarms.clone(),
        };
        let compare = self.tasks.spawn(comparer.run(self.stop_cluster.clone()));
        let keep = Arc::new(keeper).run(self.stop_cluster.clone());
        let keep = self.tasks.spawn_on(keep, &self.raft);
        tokio::select! {
            why = reason(compare) => why,
            why = reason(keep) => why,
        }
    }

    fn start_tasks(&self) {
        let directory = &self.service.directory;
        let stop = || self.stop_groups.clone();
        self.tasks.spawn(directory.clone().sweep(stop()));
        self.tasks.spawn(directory.clone().reclaim(stop()));
        self.tasks.spawn(directory.clone().report(stop()));
        let vitals = self.groups.vitals.clone();
        let expire = directory.clone();
        let expire = expire.expire_accounts(move || vitals.clock_ok(), stop());
        self.tasks.spawn(expire);
        let (groups, api) = (self.groups.clone(), self.api.clone());
        let tell_lag = async move {
            loop {
                api.set_lag(&regions::lag(&groups));
                tokio::time::sleep(TELL_LAG).await;
            }
        };
        let stop_telling = self.stop_groups.clone();
        self.tasks
            .spawn(async move { stop_telling.run_until_cancelled(tell_lag).await });
    }
}

/// Why a task that runs until the node stops has ended before.
async fn reason(task: JoinHandle<Option<String>>) -> String {
    match task.await {
        Ok(None) => std::future::pending().await,
        Ok(Some(why)) => why,
        Err(error) => error.to_string(),
    }
}

fn http_settings(config: &Config, cluster_id: &str) -> HttpSettings {
    // With certificates, routers show theirs.
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
