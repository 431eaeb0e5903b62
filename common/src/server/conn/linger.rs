//! Lingering close of a socket on which the client is still sending.
//!
//! A kernel that closes a socket with unread bytes resets the connection, and a reset can erase
//! the response before the client has read it. So after a refusal the rest is read and discarded
//! for a moment. The number of sockets that linger at once, the time and the bytes are bounded;
//! beyond that, sockets are closed at once. A connection beyond the limits gets its response here,
//! too: at once, if no more may linger.

use std::sync::Arc;
use std::time::Duration;

use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio::time::timeout;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

use crate::server::conn::refusal;
use crate::server::metrics::ConnectionMetrics;

const MAX_LINGERING_SOCKETS: usize = 256;
const LINGER_TIMEOUT: Duration = Duration::from_secs(2);
const MAX_LINGER_BYTES: usize = 4 << 20;

/// Closes sockets after a linger.
pub(crate) struct Lingerer {
    connections: Arc<ConnectionMetrics>,
    tasks: TaskTracker,
    stop: CancellationToken,
}

impl Lingerer {
    /// Creates a lingerer whose tasks are tracked by `tasks` and end at `stop`. Their number is
    /// bounded over all that share `connections`.
    pub(crate) fn new(
        connections: Arc<ConnectionMetrics>,
        tasks: TaskTracker,
        stop: CancellationToken,
    ) -> Arc<Self> {
        Arc::new(Self {
            connections,
            tasks,
            stop,
        })
    }

    /// Closes a socket whose response has been written.
    pub(crate) fn linger(&self, stream: TcpStream) {
        if let Some(permit) = self.try_permit() {
            self.close_after(permit, discard_input(stream));
        }
    }

    /// Responds to a connection beyond the limits, and closes it.
    pub(crate) fn refuse(&self, mut stream: TcpStream) {
        let Some(permit) = self.try_permit() else {
            refusal::respond_at_once(&stream);
            return;
        };
        self.close_after(permit, async move {
            if refusal::respond(&mut stream).await.is_ok() {
                discard_input(stream).await;
            }
        });
    }

    fn try_permit(&self) -> Option<LingerPermit> {
        let has_started = self.connections.try_start_linger(MAX_LINGERING_SOCKETS);
        has_started.then(|| LingerPermit(Arc::clone(&self.connections)))
    }

    /// Closes a socket after this, which holds it.
    fn close_after(&self, permit: LingerPermit, end: impl Future<Output = ()> + Send + 'static) {
        let stop = self.stop.clone();
        // Sockets may be dropped outside of the runtime, at its end.
        if let Ok(runtime) = tokio::runtime::Handle::try_current() {
            let task = async move {
                let _permit = permit;
                let _ = stop.run_until_cancelled(timeout(LINGER_TIMEOUT, end)).await;
            };
            self.tasks.spawn_on(task, &runtime);
        }
    }
}

/// Permit of one lingering socket.
struct LingerPermit(Arc<ConnectionMetrics>);

impl Drop for LingerPermit {
    fn drop(&mut self) {
        self.0.end_linger();
    }
}

async fn discard_input(mut stream: TcpStream) {
    if stream.shutdown().await.is_err() {
        return;
    }
    let mut buffer = vec![0; 16 << 10];
    let mut total = 0;
    while total < MAX_LINGER_BYTES {
        match stream.read(&mut buffer).await {
            Ok(0) | Err(_) => return,
            Ok(read) => total += read,
        }
    }
}
