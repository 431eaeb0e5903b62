//! Accepts connections, and routes them by their purpose: those for Raft to its own threads, those
//! for users' requests evenly to the worker threads.
//!
//! Handshakes run concurrently, so that a stalled one blocks no other; their number is bounded, and
//! when there are too many, the oldest is aborted: an honest client has finished long before.

use std::collections::VecDeque;
use std::convert::Infallible;
use std::io;
use std::net::SocketAddr;
use std::pin::pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use futures_util::future::select_all;
use futures_util::stream::{self, BoxStream, StreamExt};
use tokio::net::{TcpListener, TcpStream};
use tokio::runtime::Handle;
use tokio::sync::mpsc;
use tokio::task::{AbortHandle, JoinSet};
use tokio_rustls::TlsStream;
use tokio_util::task::AbortOnDropHandle;

use super::diagnosis;
use super::peer::{CertificateHolder, PeerIdentity};
use super::preamble::{self, ConnectionPurpose};
use super::reload::Tls;
use super::stream::PeerStream;

/// Maximum number of concurrent handshakes.
const MAX_HANDSHAKES: usize = 256;
/// Maximum time for a connection's first bytes and its handshake together.
const HANDSHAKE_TIMEOUT: Duration = Duration::from_secs(5);
/// Maximum number of ready connections in a queue.
const MAX_READY_CONNECTIONS: usize = 16;
/// Delay after a connection couldn't be accepted, as when there are too many open files.
const ACCEPT_BACKOFF: Duration = Duration::from_millis(100);

/// Stream of ready connections: none fails here.
pub type Connections = BoxStream<'static, Result<PeerStream, Infallible>>;

/// Accepted connections by purpose; with certificates, their other ends have shown one of the CA.
pub struct AcceptedConnections {
    /// gRPC for Raft.
    pub raft: Connections,
    /// Frames of users' requests, from routers, by thread.
    pub users: Vec<Connections>,
    /// gRPC for users' requests that other nodes forward, by thread.
    pub forwarded: Vec<Connections>,
    /// gRPC for everything else.
    pub others: Connections,
}

/// Queues of ready connections, by purpose.
struct ConnectionQueues {
    raft: ConnectionQueue,
    users: WorkerQueues,
    forwarded: WorkerQueues,
    others: ConnectionQueue,
}

/// Queue of ready connections, and the runtime that polls them.
#[derive(Clone)]
struct ConnectionQueue {
    ready: mpsc::Sender<PeerStream>,
    runtime: Handle,
}

/// Queues of the worker threads, used in turn.
struct WorkerQueues {
    queues: Vec<ConnectionQueue>,
    next: AtomicUsize,
}

/// Accepts connections: those for Raft are polled by `raft`, those for users' requests by `workers`
/// in turn, of which there must be at least one, and all others by the current runtime. The task
/// that accepts them runs on the current runtime, and ends when any of the streams is dropped.
pub fn accept(
    listener: TcpListener,
    tls: Option<Arc<Tls>>,
    raft: Handle,
    workers: &[Handle],
) -> AcceptedConnections {
    let (raft, for_raft) = ConnectionQueue::new(raft);
    let open_all = || -> (Vec<ConnectionQueue>, Vec<Connections>) {
        let workers = workers.iter().cloned();
        workers.map(ConnectionQueue::new).unzip()
    };
    let ((users, for_users), (forwarded, for_forwarded)) = (open_all(), open_all());
    let (others, for_others) = ConnectionQueue::new(Handle::current());
    let queues = ConnectionQueues {
        raft,
        users: WorkerQueues::new(users),
        forwarded: WorkerQueues::new(forwarded),
        others,
    };
    tokio::spawn(accept_all(listener, tls, Arc::new(queues)));
    AcceptedConnections {
        raft: for_raft,
        users: for_users,
        forwarded: for_forwarded,
        others: for_others,
    }
}

impl ConnectionQueue {
    fn new(runtime: Handle) -> (Self, Connections) {
        let (ready, receiver) = mpsc::channel(MAX_READY_CONNECTIONS);
        (Self { ready, runtime }, connections(receiver))
    }

    /// Moves a connection to the queue's runtime, which does the handshake.
    async fn hand_over(&self, tcp: TcpStream, tls: Option<Arc<Tls>>) -> Result<(), String> {
        let tcp = move_to_runtime(&self.runtime, tcp).map_err(|error| error.to_string())?;
        let prepare = prepare(tcp, tls, self.ready.clone());
        // The task is aborted with this one.
        let prepared = AbortOnDropHandle::new(self.runtime.spawn(prepare)).await;
        prepared.unwrap_or_else(|_| Err("the node is stopping".to_owned()))
    }
}

impl WorkerQueues {
    fn new(queues: Vec<ConnectionQueue>) -> Self {
        let next = AtomicUsize::new(0);
        Self { queues, next }
    }

    fn next_queue(&self) -> Option<&ConnectionQueue> {
        let next = self.next.fetch_add(1, Ordering::Relaxed);
        self.queues.get(next % self.queues.len().max(1))
    }

    /// Waits until one of the queues is closed.
    async fn closed(&self) {
        let closed = self
            .queues
            .iter()
            .map(|queue| Box::pin(queue.ready.closed()));
        // `select_all` panics without futures.
        if closed.len() > 0 {
            select_all(closed).await;
        }
    }
}

fn connections(receiver: mpsc::Receiver<PeerStream>) -> Connections {
    let next = |mut receiver: mpsc::Receiver<PeerStream>| async move {
        let next = receiver.recv().await?;
        Some((Ok(next), receiver))
    };
    stream::unfold(receiver, next).boxed()
}

async fn accept_all(listener: TcpListener, tls: Option<Arc<Tls>>, queues: Arc<ConnectionQueues>) {
    let mut handshakes = JoinSet::new();
    let mut oldest: VecDeque<AbortHandle> = VecDeque::new();
    let mut closed = pin!(queues.closed());
    loop {
        tokio::select! {
            () = &mut closed => return,
            Some(_) = handshakes.join_next(), if !handshakes.is_empty() => {}
            accepted = listener.accept() => match accepted {
                Ok((tcp, from)) => {
                    oldest.retain(|handle| !handle.is_finished());
                    if oldest.len() >= MAX_HANDSHAKES && let Some(first) = oldest.pop_front() {
                        first.abort();
                    }
                    let receive = receive(tcp, from, tls.clone(), queues.clone());
                    oldest.push_back(handshakes.spawn(receive));
                }
                Err(error) => {
                    tracing::warn!(
                        %error,
                        delay = ?ACCEPT_BACKOFF,
                        "accepting a connection on the rpc port failed, retrying"
                    );
                    tokio::time::sleep(ACCEPT_BACKOFF).await;
                }
            },
        }
    }
}

/// Brings an accepted connection to the queue of its purpose, or logs why that failed.
async fn receive(
    tcp: TcpStream,
    from: SocketAddr,
    tls: Option<Arc<Tls>>,
    queues: Arc<ConnectionQueues>,
) {
    // Without the option, a connection is only slower.
    let _ = tcp.set_nodelay(true);
    let routed = tokio::time::timeout(HANDSHAKE_TIMEOUT, queues.route(tcp, tls.clone())).await;
    let timed_out = |_| Err("it took too long to show its certificate".to_owned());
    match (routed.unwrap_or_else(timed_out), tls) {
        (Ok(()), _) => {}
        (Err(reason), Some(tls)) => tls.record_refused(&from, &reason),
        (Err(reason), None) => tracing::debug!(%from, reason, "connection refused"),
    }
}

impl ConnectionQueues {
    async fn route(&self, mut tcp: TcpStream, tls: Option<Arc<Tls>>) -> Result<(), String> {
        let purpose = preamble::read(&mut tcp).await;
        let queue = match purpose.map_err(|error| error.to_string())? {
            Some(ConnectionPurpose::Raft) => Some(&self.raft),
            Some(ConnectionPurpose::Users) => self.users.next_queue(),
            Some(ConnectionPurpose::Forwarded) => self.forwarded.next_queue(),
            None => Some(&self.others),
        };
        let queue = queue.ok_or_else(|| "there is no worker thread".to_owned())?;
        queue.hand_over(tcp, tls).await
    }

    /// Waits until one of the queues is closed.
    async fn closed(&self) {
        tokio::select! {
            () = self.raft.ready.closed() => {}
            () = self.users.closed() => {}
            () = self.forwarded.closed() => {}
            () = self.others.ready.closed() => {}
        }
    }
}

/// Registers a connection with another runtime.
fn move_to_runtime(runtime: &Handle, tcp: TcpStream) -> io::Result<TcpStream> {
    let tcp = tcp.into_std()?;
    let _guard = runtime.enter();
    TcpStream::from_std(tcp)
}

async fn prepare(
    tcp: TcpStream,
    tls: Option<Arc<Tls>>,
    ready: mpsc::Sender<PeerStream>,
) -> Result<(), String> {
    let stream = match tls {
        None => PeerStream::plain(tcp),
        Some(tls) => handshake(&tls, tcp).await?,
    };
    // Fails only if the stream of connections was dropped.
    let _ = ready.send(stream).await;
    Ok(())
}

async fn handshake(tls: &Tls, tcp: TcpStream) -> Result<PeerStream, String> {
    let accepted = tls.acceptor().accept(tcp).await;
    let stream = accepted.map_err(|error| diagnosis::refusal_reason(&error))?;
    let chain = stream.get_ref().1.peer_certificates().unwrap_or_default();
    let holder = CertificateHolder::from_chain(chain)
        .map_err(|reason| format!("its certificate {reason}"))?;
    Ok(PeerStream::encrypted(
        TlsStream::Server(stream),
        PeerIdentity::Certified(holder),
    ))
}
