//! Serves the operator's port.

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

/// Connections held at once; more wait to be accepted.
const CONNECTIONS: usize = 64;

/// Time for a request's headers, and between requests of a connection.
const HEADER_TIMEOUT: Duration = Duration::from_secs(10);

/// Time for answers under way when the port closes.
const DRAIN_TIMEOUT: Duration = Duration::from_secs(2);

/// Pause after a connection couldn't be accepted: the usual reason is that the process has as many
/// open files as it may, and trying at once again would only burn its processor.
const ACCEPT_PAUSE: Duration = Duration::from_millis(100);

/// Serves the operator's port until `shutdown`, then finishes the answers under way.
///
/// To tell of a drain, cancel `shutdown` only when the program has drained.
pub async fn serve(listener: TcpListener, router: Router, shutdown: CancellationToken) {
    let service = TowerToHyperService::new(router);
    let connections = GracefulShutdown::new();
    let room = Arc::new(Semaphore::new(CONNECTIONS));
    while let Some(accepted) = shutdown.run_until_cancelled(accept(&listener, &room)).await {
        let Some((stream, place)) = accepted else {
            continue;
        };
        let connection = http1::Builder::new()
            .timer(TokioTimer::new())
            .header_read_timeout(HEADER_TIMEOUT)
            .serve_connection(TokioIo::new(stream), service.clone());
        let connection = connections.watch(connection);
        tokio::spawn(async move {
            if let Err(error) = connection.await {
                tracing::debug!(%error, "operator's connection");
            }
            drop(place);
        });
    }
    drop(listener);
    if tokio::time::timeout(DRAIN_TIMEOUT, connections.shutdown())
        .await
        .is_err()
    {
        tracing::warn!("operator's connections were cut off");
    }
}

/// The next connection and its place among those held; `None` if there was none to accept.
///
/// Cancel safe: a connection is either returned or still waiting.
async fn accept(
    listener: &TcpListener,
    room: &Arc<Semaphore>,
) -> Option<(TcpStream, tokio::sync::OwnedSemaphorePermit)> {
    let place = Arc::clone(room).acquire_owned().await.ok()?;
    match listener.accept().await {
        Ok((stream, _)) => Some((stream, place)),
        Err(error) => {
            tracing::warn!(%error, "accept operator's connection");
            tokio::time::sleep(ACCEPT_PAUSE).await;
            None
        }
    }
}
