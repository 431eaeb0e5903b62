//! Worker threads that serve users, each with a single-threaded runtime.
//!
//! A task stays on the thread on which it began, so a request, its connection and the connections
//! to nodes that it needs share one thread, and wake no other. Idle threads steal no tasks:
//! connections should be spread evenly when they are accepted.

use std::cell::Cell;
use std::io;
use std::net::TcpListener;
use std::sync::{Arc, mpsc};
use std::thread::{self, JoinHandle};

use futures_util::future::try_join_all;
use tokio::runtime::{Builder, Handle};
use tokio_util::sync::CancellationToken;
use tokio_util::task::AbortOnDropHandle;

use super::encryption::Encryption;
use super::handler::RequestHandler;
use super::serve::{Port, serve};
use super::settings::HttpSettings;

thread_local! {
    static WORKER_INDEX: Cell<usize> = const { Cell::new(0) };
}

/// Returns this thread's index among the [`Workers`]; 0 on all other threads.
pub fn current_worker() -> usize {
    WORKER_INDEX.get()
}

/// Worker threads. They end, and with them all their tasks, at [`Workers::stop`] or when this is
/// dropped.
#[derive(Debug)]
pub struct Workers {
    handles: Vec<Handle>,
    threads: Vec<JoinHandle<()>>,
    stop: CancellationToken,
}

impl Workers {
    /// Starts `count` threads, at least one.
    ///
    /// # Errors
    /// Fails if the system refuses a thread or what a runtime needs.
    pub fn start(count: usize) -> io::Result<Self> {
        let mut workers = Self {
            handles: Vec::new(),
            threads: Vec::new(),
            stop: CancellationToken::new(),
        };
        for index in 0..count.max(1) {
            let (ready, built) = mpsc::channel();
            let stop = workers.stop.clone();
            let work = move || {
                WORKER_INDEX.set(index);
                run_worker(&ready, stop);
            };
            let builder = thread::Builder::new().name(format!("http-{index}"));
            workers.threads.push(builder.spawn(work)?);
            let ended = |_| io::Error::other("start worker: its thread has ended");
            workers.handles.push(built.recv().map_err(ended)??);
        }
        Ok(workers)
    }

    /// Returns the threads' runtimes, by index.
    pub fn handles(&self) -> &[Handle] {
        &self.handles
    }

    /// Ends the threads, and waits until they have.
    pub fn stop(mut self) {
        self.stop.cancel();
        for thread in self.threads.drain(..) {
            // A task's panic doesn't reach the thread, and nothing else runs on it.
            let _ = thread.join();
        }
    }
}

impl Drop for Workers {
    fn drop(&mut self) {
        self.stop.cancel();
    }
}

/// Runs a worker's runtime. It is built here, since it must not be dropped on another runtime's
/// thread.
fn run_worker(ready: &mpsc::Sender<io::Result<Handle>>, stop: CancellationToken) {
    let runtime = match Builder::new_current_thread().enable_all().build() {
        Ok(runtime) => runtime,
        Err(error) => {
            // `start` waits for it.
            let _ = ready.send(Err(error));
            return;
        }
    };
    let _ = ready.send(Ok(runtime.handle().clone()));
    runtime.block_on(stop.cancelled_owned());
    // Nobody waits any more for reads that wait for the disk.
    runtime.shutdown_background();
}

/// Port as one worker thread serves it.
#[derive(Debug)]
pub struct WorkerPort<A> {
    /// Runtime of the thread.
    pub worker: Handle,
    /// Listener of the thread's own.
    pub listener: TcpListener,
    /// Encryption of its connections.
    pub encryption: Encryption,
    /// Handler of the requests.
    pub handler: Arc<A>,
}

/// Serves `ports`, each on its thread, until `shutdown`, and until all of them have drained. If
/// this is dropped, or one of them fails, none accepts connections any more.
///
/// # Errors
/// Fails if the system refuses to watch a listener, or serving panics.
pub async fn serve_on_workers<A: RequestHandler>(
    ports: impl IntoIterator<Item = WorkerPort<A>>,
    settings: &HttpSettings,
    shutdown: &CancellationToken,
) -> io::Result<()> {
    let mut served = Vec::new();
    for serving in ports {
        let _runtime = serving.worker.enter();
        let port = Port {
            listener: tokio::net::TcpListener::from_std(serving.listener)?,
            encryption: serving.encryption,
        };
        let serve = serve(port, serving.handler, settings.clone(), shutdown.clone());
        served.push(AbortOnDropHandle::new(serving.worker.spawn(serve)));
    }
    try_join_all(served).await.map_err(io::Error::other)?;
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::server::{ConnectionMetrics, RequestOrigin, listen};

    #[tokio::test]
    async fn tasks_stay_on_their_thread() {
        assert_eq!(current_worker(), 0);
        let workers = Workers::start(3).unwrap();
        for (number, handle) in workers.handles().iter().enumerate() {
            let here = async {
                let before = (current_worker(), thread::current().id());
                for _ in 0..10 {
                    tokio::task::yield_now().await;
                }
                let deeper = tokio::spawn(async { current_worker() }).await.unwrap();
                (before, deeper, thread::current().id())
            };
            let (before, deeper, after) = handle.spawn(here).await.unwrap();
            assert_eq!(before, (number, after));
            assert_eq!(deeper, number);
        }
        workers.stop();
    }

    /// Handler of empty responses.
    #[derive(Default)]
    struct EmptyHandler(Arc<ConnectionMetrics>);

    impl RequestHandler for EmptyHandler {
        type Body = axum::body::Body;

        async fn handle(
            &self,
            _: http::Request<crate::server::RequestBody>,
            _: RequestOrigin,
        ) -> http::Response<Self::Body> {
            http::Response::default()
        }

        fn overloaded(&self, _: http::HeaderValue, _: bool) -> http::Response<Self::Body> {
            http::Response::default()
        }

        fn connections(&self) -> &Arc<ConnectionMetrics> {
            &self.0
        }
    }

    /// After a failure no connection may be accepted that would get no response.
    #[tokio::test]
    async fn ports_are_closed_when_serving_ends() {
        let workers = Workers::start(2).unwrap();
        let any = std::net::SocketAddr::from(([127, 0, 0, 1], 0));
        let listeners = listen(any, 2).unwrap();
        let address = listeners[0].local_addr().unwrap();
        let handler = Arc::new(EmptyHandler::default());
        let ports = workers.handles().iter().zip(listeners);
        let ports = ports.map(|(worker, listener)| WorkerPort {
            worker: worker.clone(),
            listener,
            encryption: Encryption::Off,
            handler: handler.clone(),
        });
        let (settings, never) = (HttpSettings::default(), CancellationToken::new());
        {
            let mut serving = std::pin::pin!(serve_on_workers(ports, &settings, &never));
            let dialled = async {
                tokio::net::TcpStream::connect(address).await.unwrap();
                while handler.0.accepted_connections() == 0 {
                    tokio::task::yield_now().await;
                }
            };
            tokio::select! {
                served = &mut serving => panic!("{served:?}"),
                () = dialled => {}
            }
        }
        let refused = async {
            while tokio::net::TcpStream::connect(address).await.is_ok() {
                tokio::task::yield_now().await;
            }
        };
        let limit = std::time::Duration::from_secs(10);
        tokio::time::timeout(limit, refused).await.unwrap();
        workers.stop();
    }

    /// A drop must not block this thread, which belongs to a runtime.
    #[tokio::test]
    async fn dropped_threads_end_by_themselves() {
        let workers = Workers::start(2).unwrap();
        let pending = workers.handles()[1].spawn(std::future::pending::<()>());
        drop(workers);
        assert!(pending.await.unwrap_err().is_cancelled());
    }

    #[tokio::test]
    async fn tasks_end_with_the_threads() {
        let workers = Workers::start(0).unwrap();
        let [handle] = workers.handles() else {
            panic!("one at least");
        };
        let pending = handle.spawn(std::future::pending::<()>());
        workers.stop();
        assert!(pending.await.unwrap_err().is_cancelled());
    }
}
