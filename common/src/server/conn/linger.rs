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
use tokio::sync::Semaphore;
use tokio::time::timeout;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

const MAX_SOCKETS: usize = 256;
const MAX_TIME: Duration = Duration::from_secs(2);
const MAX_BYTES: usize = 4 << 20;

/// Closes sockets gently.
pub(crate) struct Lingerer {
    room: Arc<Semaphore>,
    tasks: TaskTracker,
    stop: CancellationToken,
}

impl Lingerer {
    /// Its tasks are tracked by `tasks` and end at `stop`.
    pub(crate) fn new(tasks: TaskTracker, stop: CancellationToken) -> Arc<Self> {
        Arc::new(Self {
            room: Arc::new(Semaphore::new(MAX_SOCKETS)),
            tasks,
            stop,
        })
    }

    /// Closes a socket whose answer has been written.
    pub(crate) fn linger(&self, stream: TcpStream) {
        let Ok(place) = Arc::clone(&self.room).try_acquire_owned() else {
            return;
        };
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
