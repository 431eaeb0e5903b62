//! Closing a socket on which the client is still sending.
//!
//! A kernel that closes a socket with unread bytes resets the connection, and a reset can erase
//! the answer before the client has read it. So after a refusal the rest is read and thrown away
//! for a moment. How many sockets linger at once, how long and for how many bytes is bounded;
//! beyond that they are just closed.

use std::sync::Arc;
use std::time::Duration;

use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio::time::timeout;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

use crate::server::metrics::ConnectionMetrics;

const MAX_SOCKETS: usize = 256;
const MAX_TIME: Duration = Duration::from_secs(2);
const MAX_BYTES: usize = 4 << 20;

/// Closes sockets gently.
pub(crate) struct Lingerer {
    connections: Arc<ConnectionMetrics>,
    tasks: TaskTracker,
    stop: CancellationToken,
}

impl Lingerer {
    /// Its tasks are tracked by `tasks` and end at `stop`. How many there are is bounded over all
    /// that share `connections`.
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

    /// Closes a socket whose answer has been written.
    pub(crate) fn linger(&self, stream: TcpStream) {
        if !self.connections.lingers(MAX_SOCKETS) {
            return;
        }
        let place = Place(Arc::clone(&self.connections));
        let stop = self.stop.clone();
        // Drops may happen outside of the runtime, at its end.
        if let Ok(runtime) = tokio::runtime::Handle::try_current() {
            let task = async move {
                let _place = place;
                let _ = stop
                    .run_until_cancelled(timeout(MAX_TIME, swallow(stream)))
                    .await;
            };
            self.tasks.spawn_on(task, &runtime);
        }
    }
}

/// One of those that linger.
struct Place(Arc<ConnectionMetrics>);

impl Drop for Place {
    fn drop(&mut self) {
        self.0.lingered();
    }
}

async fn swallow(mut stream: TcpStream) {
    if stream.shutdown().await.is_err() {
        return;
    }
    let mut waste = vec![0; 16 << 10];
    let mut total = 0;
    while total < MAX_BYTES {
        match stream.read(&mut waste).await {
            Ok(0) | Err(_) => return,
            Ok(read) => total += read,
        }
    }
}
