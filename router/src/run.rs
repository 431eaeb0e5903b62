//! Runs a router: bind, follow, serve, drain, stop.
//!
//! Users are served on dedicated threads, each with its own listener, connections to nodes and
//! runtime, so that a request never changes threads. The system spreads connections over the
//! listeners (`SO_REUSEPORT`).

use std::collections::HashMap;
use std::io;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::{Duration, Instant};

use arc_swap::ArcSwapOption;
use cloudkv_common::admin;
use cloudkv_common::fd_limit::{FdLimitError, FileUse, connection_limit, raise_fd_limit};
use cloudkv_common::process::SystemError;
use cloudkv_common::server::{
    BindError, Encryption, HttpSettings, MemoryBudget, PortBinder, WorkerPort, Workers,
    serve_on_workers,
};
use cloudkv_common::transport::tls::{Dialer, Tls, TlsError, TlsFiles, TlsRole};
use http::HeaderValue;
use tokio::net::TcpListener;
use tokio_util::sync::CancellationToken;

use crate::config::Config;
use crate::proxy::{EventStreams, Proxy, ProxySettings, RetryBudget, SharedState};
use crate::status::{RouterStatus, router};
use crate::tls::{CertificateError, CertificateFiles, ReloadingCertificate};
use crate::topology::{Follower, FollowerSettings};
use crate::upstream::ConnectSettings;

/// Interval of maintenance of retry budgets and pools.
const MAINTENANCE_INTERVAL: Duration = Duration::from_millis(100);
/// Number of maintenance runs between two cleanups of the pools.
const POOL_CLEANUP_RUNS: u32 = 50;

/// Files that may be open: each connection of a user, or event stream on one, may need one to a
/// node, and each thread has some to all nodes.
const FILE_USE: FileUse = FileUse {
    per_connection: 2,
    own: 512,
};

/// Reason for which a router ends without a requested stop.
#[derive(Debug, thiserror::Error)]
pub enum RunError {
    /// The limit of open files is too low.
    #[error(transparent)]
    Files(#[from] FdLimitError),
    /// The router's certificate for users can't be used.
    #[error(transparent)]
    Tls(#[from] CertificateError),
    /// The router's certificate for nodes can't be used.
    #[error(transparent)]
    NodeTls(#[from] TlsError),
    /// Ports can't be bound.
    #[error(transparent)]
    Bind(#[from] BindError),
    /// Another call to the system failed.
    #[error(transparent)]
    System(#[from] SystemError),
}

/// Runs a router until `stop` is cancelled, or until it fails.
pub async fn run(config: &Config, stop: CancellationToken) -> Result<(), RunError> {
    let connections = connection_limit(raise_fd_limit(), config.max_connections, FILE_USE)?;
    let certificate = open_certificate(config)?;
    let dialer = build_dialer(config)?;
    let ports = Ports::bind(config, certificate.as_ref())?;
    log_start(config, &ports, &dialer, connections);
    // The rest of the connections to nodes is for requests that end.
    let max_event_streams = connections - connections / 10;
    let shared = SharedState {
        view: Arc::new(ArcSwapOption::empty()),
        settings: Arc::new(proxy_settings(config, connections)),
        metrics: Arc::default(),
        connections: Arc::default(),
        event_streams: EventStreams::new(max_event_streams, stop.clone()),
    };
    let retry_budgets: Vec<Arc<RetryBudget>> = (0..config.workers())
        .map(|_| Arc::new(RetryBudget::new(config.retry_percent)))
        .collect();

    let stop_all = CancellationToken::new();
    if let Some(tls) = dialer.tls() {
        tokio::spawn(tls.watch(stop_all.clone()));
    }
    let follower = Follower::new(follower_settings(config, dialer), shared.view.clone());
    let follower = tokio::spawn(follower.run(stop_all.clone()));
    let admin_router = router(
        RouterStatus {
            shared: shared.clone(),
            stop: stop.clone(),
        },
        config.admin_token.as_ref(),
    );
    let admin_task = tokio::spawn(admin::serve(ports.admin, admin_router, stop_all.clone()));
    if let Some(certificate) = certificate {
        tokio::spawn(certificate.watch(stop_all.clone()));
    }
    tokio::spawn(run_maintenance(
        shared.clone(),
        retry_budgets.clone(),
        stop_all.clone(),
    ));

    let settings = http_settings(config, connections);
    let served = serve_users(ports.users, shared, &retry_budgets, &settings, &stop).await;
    stop_all.cancel();
    let _ = follower.await;
    let _ = admin_task.await;
    served?;
    tracing::info!("stopped");
    Ok(())
}

/// Logs the start: version, seeds, certificates and addresses.
fn log_start(config: &Config, ports: &Ports, dialer: &Dialer, max_connections: usize) {
    tracing::info!(
        version = env!("CARGO_PKG_VERSION"),
        pid = std::process::id(),
        region = %config.region,
        domain = config.domain.as_str(),
        seeds = config.seeds.join(", "),
        "starting"
    );
    match dialer.tls().map(|tls| tls.days_left()) {
        Some(days_left) => tracing::info!(days_left, "certificate for nodes loaded"),
        None => tracing::info!("no certificate for nodes: connections to nodes are not encrypted"),
    }
    let https = config.https.filter(|_| config.tls_cert.is_some());
    tracing::info!(
        http = %ports.http,
        https = https.map_or("none".to_owned(), |address| address.to_string()),
        admin = %config.admin,
        threads = config.workers(),
        max_connections,
        "listening"
    );
}

/// Serves users, on one thread per retry budget, until all connections are drained.
async fn serve_users(
    users: Vec<Vec<WorkerListener>>,
    shared: SharedState,
    retry_budgets: &[Arc<RetryBudget>],
    settings: &HttpSettings,
    stop: &CancellationToken,
) -> Result<(), RunError> {
    let workers = Workers::start(retry_budgets.len());
    let workers = workers.map_err(SystemError::while_doing("start threads"))?;
    let mut ports = Vec::new();
    let threads = workers.handles().iter().zip(retry_budgets).zip(users);
    for (number, ((worker, retry_budget), listeners)) in threads.enumerate() {
        let proxy = Arc::new(Proxy::new(number, shared.clone(), retry_budget.clone()));
        ports.extend(listeners.into_iter().map(|listener| WorkerPort {
            worker: worker.clone(),
            listener: listener.listener,
            encryption: listener.encryption,
            handler: proxy.clone(),
        }));
    }
    let served = serve_on_workers(ports, settings, stop).await;
    workers.stop();
    served.map_err(SystemError::while_doing("serve users"))?;
    Ok(())
}

/// Refills retry budgets, and closes unused connections.
async fn run_maintenance(
    shared: SharedState,
    retry_budgets: Vec<Arc<RetryBudget>>,
    stop: CancellationToken,
) {
    let mut runs = 0_u32;
    let sleep = || tokio::time::sleep(MAINTENANCE_INTERVAL);
    while stop.run_until_cancelled(sleep()).await.is_some() {
        retry_budgets.iter().for_each(|budget| budget.refill());
        runs = runs.wrapping_add(1);
        if runs.is_multiple_of(POOL_CLEANUP_RUNS)
            && let Some(view) = shared.view.load_full()
        {
            let nodes = view.regions.iter().flat_map(|region| &region.nodes);
            nodes.for_each(|node| node.pools.close_expired(Instant::now()));
        }
    }
}

fn open_certificate(config: &Config) -> Result<Option<ReloadingCertificate>, CertificateError> {
    let files = config.tls_cert.clone().zip(config.tls_key.clone());
    files
        .map(|(certificate, key)| ReloadingCertificate::open(CertificateFiles { certificate, key }))
        .transpose()
}

/// Builds the dialer to nodes, with certificates if there are any.
fn build_dialer(config: &Config) -> Result<Dialer, TlsError> {
    let files = TlsFiles::from_settings(
        config.rpc_cert.clone(),
        config.rpc_key.clone(),
        config.rpc_ca.clone(),
    );
    let tls = files.map(|files| Tls::open(files, TlsRole::Router));
    Ok(Dialer::new(HashMap::new(), tls.transpose()?))
}

fn proxy_settings(config: &Config, connections: usize) -> ProxySettings {
    ProxySettings {
        domain: config.domain.clone(),
        trusted_proxies: config.trusted_proxies.clone(),
        request_timeout: config.request_timeout,
        attempt_timeout: config.retry_after,
        body_deadline: HttpSettings::default().body_deadline,
        retry_buffer_bytes: config.retry_buffer_kib.bytes(),
        retry_memory: Arc::new(MemoryBudget::new(config.retry_memory_mib.bytes())),
        max_node_connections: connections,
        // A region's name consists of characters that are valid in a header.
        home_region: HeaderValue::from_str(config.region.as_str())
            .unwrap_or_else(|_| HeaderValue::from_static("unknown")),
    }
}

fn follower_settings(config: &Config, dialer: Dialer) -> FollowerSettings {
    let workers = config.workers();
    FollowerSettings {
        seeds: config.seeds.clone(),
        home_region: config.region.to_string(),
        connect: ConnectSettings { workers, dialer },
        check_interval: config.check_interval,
    }
}

fn http_settings(config: &Config, connections: usize) -> HttpSettings {
    HttpSettings {
        max_connections: connections,
        max_address_connections: config.address_connections,
        max_address_requests: config.address_requests,
        trusted_proxies: config.trusted_proxies.clone().into(),
        header_timeout: config.header_timeout,
        idle_timeout: config.idle_timeout,
        write_timeout: config.write_timeout,
        response_memory: Arc::new(MemoryBudget::new(config.answer_memory_mib.bytes())),
        max_connection_response_bytes: config.connection_answers_kib.bytes(),
        drain_timeout: config.drain_timeout,
        ..HttpSettings::default()
    }
}

/// Listener of one thread.
struct WorkerListener {
    listener: std::net::TcpListener,
    encryption: Encryption,
}

/// The bound ports.
struct Ports {
    http: SocketAddr,
    /// Listeners for users, by thread.
    users: Vec<Vec<WorkerListener>>,
    admin: TcpListener,
}

impl Ports {
    fn bind(config: &Config, certificate: Option<&ReloadingCertificate>) -> Result<Self, RunError> {
        let mut binding = PortBinder::default();
        let admin = binding.listen("admin", config.admin, 1);
        let http = binding.listen("http", config.http, config.workers());
        let encrypted = config.https.zip(certificate).map(|(address, certificate)| {
            let https = binding.listen("https", address, config.workers());
            (https, certificate)
        });
        binding.finish()?;
        let address = http.first().map(std::net::TcpListener::local_addr);
        let mut users: Vec<Vec<WorkerListener>> = http
            .into_iter()
            .map(|listener| {
                vec![WorkerListener {
                    listener,
                    encryption: Encryption::Off,
                }]
            })
            .collect();
        if let Some((https, certificate)) = encrypted {
            for (thread, listener) in users.iter_mut().zip(https) {
                thread.push(WorkerListener {
                    listener,
                    encryption: Encryption::Always(certificate.settings()),
                });
            }
        }
        let system = SystemError::while_doing("listen on the admin port");
        let admin = admin.into_iter().next();
        let admin = admin.ok_or_else(|| system(io::ErrorKind::InvalidInput.into()))?;
        Ok(Self {
            http: address.and_then(Result::ok).unwrap_or(config.http),
            users,
            admin: TcpListener::from_std(admin).map_err(system)?,
        })
    }
}
