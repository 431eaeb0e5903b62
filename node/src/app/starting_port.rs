//! The public port while a start takes long: requests are answered 503.
//!
//! The port is bound before anything else, so that an address in use is told at once. Without
//! answers, clients would wait as long as the start takes, which may be until another node admits
//! this one.

use std::io;
use std::net::TcpListener;
use std::sync::Arc;
use std::time::Duration;

use cloudkv_common::process::SystemError;
use cloudkv_common::server::{Encryption, MemoryBudget, WorkerPort, serve_on_workers};
use tokio::runtime::Handle;
use tokio::task::{JoinError, JoinHandle};
use tokio::time::sleep;
use tokio_util::sync::{CancellationToken, DropGuard};
use tokio_util::task::TaskTracker;

use super::errors::RunError;
use super::start_report::StartReport;
use crate::api::{HttpSettings, StartingApi};
use crate::config::Config;

/// Time during which connections wait for the node to serve, instead of being refused: an ordinary
/// start is shorter, and costs its users a delay only.
const SHORT_START: Duration = Duration::from_secs(1);
/// Maximum number of connections, which have at most a response each.
const MAX_CONNECTIONS: usize = 256;
/// Maximum time for each step of a connection.
const CONNECTION_TIMEOUT: Duration = Duration::from_secs(5);
/// Time for requests that are on their way when the node serves: they are answered, too.
const LAME_DUCK: Duration = Duration::from_millis(50);
/// Maximum time for connections to end when the node serves.
const DRAIN_TIMEOUT: Duration = Duration::from_millis(200);
/// Maximum size of pending responses, in bytes.
const RESPONSE_MEMORY_BYTES: usize = 1 << 20;

/// The public port of a node that starts. It is served until this is closed or dropped.
pub(super) struct StartingPort {
    report: StartReport,
    stop: DropGuard,
    served: JoinHandle<()>,
}

impl StartingPort {
    /// Serves clones of the listeners, one on each worker.
    pub(super) fn open(
        listeners: &[TcpListener],
        workers: &[Handle],
        (region, encryption): (&str, Encryption),
        config: &Config,
        report: &StartReport,
        tasks: &TaskTracker,
    ) -> Result<Self, RunError> {
        let failed = SystemError::while_doing;
        let api = StartingApi::new(region).map_err(io::Error::other);
        let api = Arc::new(api.map_err(failed("name the region"))?);
        let clones = listeners.iter().map(TcpListener::try_clone);
        let clones: io::Result<Vec<TcpListener>> = clones.collect();
        let clones = clones.map_err(failed("listen"))?.into_iter();
        let ports = clones.zip(workers).map(|(listener, worker)| WorkerPort {
            worker: worker.clone(),
            listener,
            encryption: encryption.clone(),
            handler: api.clone(),
        });
        let ports: Vec<WorkerPort<StartingApi>> = ports.collect();
        let (settings, stop) = (port_settings(config), CancellationToken::new());
        let shutdown = stop.clone();
        let served = tasks.spawn(async move {
            let is_long = shutdown.run_until_cancelled(sleep(SHORT_START)).await;
            if is_long.is_none() {
                return;
            }
            match serve_on_workers(ports, &settings, &shutdown).await {
                // The threads end with the node: the start has failed, which is told elsewhere.
                Err(error) if is_cancelled(&error) => {}
                Err(error) => tracing::warn!(%error, "answering users during the start failed"),
                Ok(()) => {}
            }
        });
        Ok(Self {
            report: report.clone(),
            stop: stop.drop_guard(),
            served,
        })
    }

    /// Sets the step that the node waits for from now on.
    pub(super) fn set_waiting_for(&self, step: String) {
        self.report.set_waiting_for(step);
    }

    /// Ends the connections, and leaves new ones to the listeners themselves.
    pub(super) async fn close(self) {
        drop(self.stop);
        if let Err(error) = self.served.await
            && !error.is_cancelled()
        {
            tracing::warn!(%error, "answering users during the start failed");
        }
    }
}

/// Returns whether a task was cancelled, as it is when its runtime ends.
fn is_cancelled(error: &io::Error) -> bool {
    let cause = error
        .get_ref()
        .and_then(|it| it.downcast_ref::<JoinError>());
    cause.is_some_and(JoinError::is_cancelled)
}

/// Bounds of the port.
fn port_settings(config: &Config) -> HttpSettings {
    HttpSettings {
        max_connections: config.max_connections.min(MAX_CONNECTIONS),
        header_timeout: CONNECTION_TIMEOUT,
        idle_timeout: CONNECTION_TIMEOUT,
        write_timeout: CONNECTION_TIMEOUT,
        response_memory: Arc::new(MemoryBudget::new(RESPONSE_MEMORY_BYTES)),
        lame_duck: LAME_DUCK,
        accepts_in_lame_duck: false,
        trusted_proxies: config.trusted_proxies.clone().into(),
        drain_timeout: DRAIN_TIMEOUT,
        ..HttpSettings::default()
    }
}
