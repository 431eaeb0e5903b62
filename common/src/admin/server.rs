//! Server of the admin port.

use std::sync::Arc;
use std::time::Duration;

use axum::Router;
use hyper::server::conn::http1;
use hyper_util::rt::{TokioIo, TokioTimer};
use hyper_util::server::graceful::GracefulShutdown;
use hyper_util::service::TowerToHyperService;
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::Semaphore;
use tokio_util::sync::CancellationToken;

/// Maximum number of open connections; more wait to be accepted.
const MAX_CONNECTIONS: usize = 64;

/// Maximum time to receive a request's headers, and between requests of a connection.
const HEADER_TIMEOUT: Duration = Duration::from_secs(10);

/// Maximum time for responses under way when the port closes.
const DRAIN_TIMEOUT: Duration = Duration::from_secs(2);

/// Delay after a connection couldn't be accepted: the usual reason is that the process has reached
/// its limit of open files, and an immediate retry would only burn CPU time.
const ACCEPT_BACKOFF: Duration = Duration::from_millis(100);

/// Serves the admin port until `shutdown`, then finishes the responses under way.
///
/// To report a drain, cancel `shutdown` only when the program has drained.
pub async fn serve(listener: TcpListener, router: Router, shutdown: CancellationToken) {
    let service = TowerToHyperService::new(router);
    let connections = GracefulShutdown::new();
    let permits = Arc::new(Semaphore::new(MAX_CONNECTIONS));
    while let Some(accepted) = shutdown
        .run_until_cancelled(accept(&listener, &permits))
        .await
    {
        let Some((stream, permit)) = accepted else {
            continue;
        };
        let connection = http1::Builder::new()
            .timer(TokioTimer::new())
            .header_read_timeout(HEADER_TIMEOUT)
            .serve_connection(TokioIo::new(stream), service.clone());
        let connection = connections.watch(connection);
        tokio::spawn(async move {
            if let Err(error) = connection.await {
                tracing::debug!(%error, "admin connection failed");
            }
            drop(permit);
        });
    }
    drop(listener);
    if tokio::time::timeout(DRAIN_TIMEOUT, connections.shutdown())
        .await
        .is_err()
    {
        tracing::warn!("drain timed out, admin connections cut");
    }
}

/// Accepts the next connection, with its permit; `None` if that failed.
///
/// Cancel safe: a connection is either returned or still waiting.
async fn accept(
    listener: &TcpListener,
    permits: &Arc<Semaphore>,
) -> Option<(TcpStream, tokio::sync::OwnedSemaphorePermit)> {
    let permit = Arc::clone(permits).acquire_owned().await.ok()?;
    match listener.accept().await {
        Ok((stream, _)) => Some((stream, permit)),
        Err(error) => {
            tracing::warn!(
                %error,
                delay = ?ACCEPT_BACKOFF,
                "accepting an admin connection failed, retrying"
            );
            tokio::time::sleep(ACCEPT_BACKOFF).await;
            None
        }
    }
}
