//! Accepts connections, and routes them by their purpose: those for Raft to its own threads, those
//! for users' requests evenly to the worker threads.
//!
//! Handshakes run concurrently, so that a stalled one blocks no other; their number is bounded, and
//! when there are too many, the oldest is aborted: an honest client has finished long before.

use std::collections::VecDeque;
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

use super::mark::{self, Purpose};
use super::peer::{Caller, Peer};
use super::reload::Tls;
use super::stream::Stream;

/// Maximum number of concurrent handshakes.
const SHAKING: usize = 256;
/// Maximum time for a connection's first bytes and its handshake together.
const SHAKEN_WITHIN: Duration = Duration::from_secs(5);
/// Maximum number of ready connections in a queue.
const READY: usize = 16;
/// Delay after a connection couldn't be accepted, as when there are too many open files.
const PAUSE: Duration = Duration::from_millis(100);

/// Stream of ready connections.
pub type Connections = BoxStream<'static, io::Result<Stream>>;

/// Accepted connections by purpose; with certificates, their other ends have shown one of the CA.
pub struct Accepted {
    /// gRPC for Raft.
    pub raft: Connections,
    /// Frames of users' requests, from routers, by thread.
    pub users: Vec<Connections>,
    /// gRPC for users' requests that other nodes forward, by thread.
    pub keys: Vec<Connections>,
    /// gRPC for everything else.
    pub others: Connections,
}

/// Queues of ready connections, by purpose.
struct Doors {
    raft: Door,
    users: Row,
    keys: Row,
    others: Door,
}

/// Queue of ready connections, and the runtime that polls them.
#[derive(Clone)]
struct Door {
    ready: mpsc::Sender<Stream>,
    runtime: Handle,
}

/// Queues of the worker threads, used in turn.
struct Row {
    doors: Vec<Door>,
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
) -> Accepted {
    let (raft, for_raft) = Door::open(raft);
    let open_all = || -> (Vec<Door>, Vec<Connections>) {
        let workers = workers.iter().cloned();
        workers.map(Door::open).unzip()
    };
    let ((users, for_users), (forwarded, for_forwarded)) = (open_all(), open_all());
    let (others, for_others) = Door::open(Handle::current());
    let queues = Doors {
        raft,
        users: Row::of(users),
        keys: Row::of(forwarded),
        others,
    };
    tokio::spawn(take(listener, tls, Arc::new(queues)));
    Accepted {
        raft: for_raft,
        users: for_users,
        keys: for_forwarded,
        others: for_others,
    }
}

impl Door {
    fn open(runtime: Handle) -> (Self, Connections) {
        let (ready, receiver) = mpsc::channel(READY);
        (Self { ready, runtime }, connections(receiver))
    }

    /// Moves a connection to the queue's runtime, which does the handshake.
    async fn pass(&self, tcp: TcpStream, tls: Option<Arc<Tls>>) -> Result<(), String> {
        let tcp = move_to(&self.runtime, tcp).map_err(|error| error.to_string())?;
        // The task is aborted with this one.
        let mut tasks = JoinSet::new();
        tasks.spawn_on(make_ready(tcp, tls, self.ready.clone()), &self.runtime);
        match tasks.join_next().await {
            Some(Ok(ready)) => ready,
            Some(Err(_)) | None => Err("the node is stopping".to_owned()),
        }
    }
}

impl Row {
    fn of(queues: Vec<Door>) -> Self {
        let next = AtomicUsize::new(0);
        Self {
            doors: queues,
            next,
        }
    }

    fn turn(&self) -> Option<&Door> {
        let next = self.next.fetch_add(1, Ordering::Relaxed);
        self.doors.get(next % self.doors.len().max(1))
    }

    /// Waits until one of the queues is closed.
    async fn closed(&self) {
        let closed = self
            .doors
            .iter()
            .map(|queue| Box::pin(queue.ready.closed()));
        // `select_all` panics without futures.
        if closed.len() > 0 {
            select_all(closed).await;
        }
    }
}

fn connections(receiver: mpsc::Receiver<Stream>) -> Connections {
    let next = |mut receiver: mpsc::Receiver<Stream>| async move {
        let next = receiver.recv().await?;
        Some((Ok(next), receiver))
    };
    stream::unfold(receiver, next).boxed()
}

async fn take(listener: TcpListener, tls: Option<Arc<Tls>>, queues: Arc<Doors>) {
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
                    if oldest.len() >= SHAKING && let Some(first) = oldest.pop_front() {
                        first.abort();
                    }
                    let receive = welcome(tcp, from, tls.clone(), queues.clone());
                    oldest.push_back(handshakes.spawn(receive));
                }
                Err(error) => {
                    tracing::warn!(
                        %error,
                        delay = ?PAUSE,
                        "accepting a connection on the rpc port failed, retrying"
                    );
                    tokio::time::sleep(PAUSE).await;
                }
            },
        }
    }
}

/// Brings an accepted connection to the queue of its purpose, or logs why that failed.
async fn welcome(tcp: TcpStream, from: SocketAddr, tls: Option<Arc<Tls>>, queues: Arc<Doors>) {
    // Without the option, a connection is only slower.
    let _ = tcp.set_nodelay(true);
    let routed = tokio::time::timeout(SHAKEN_WITHIN, queues.sort(tcp, tls.clone())).await;
    let timed_out = |_| Err("it took too long to show its certificate".to_owned());
    match (routed.unwrap_or_else(timed_out), tls) {
        (Ok(()), _) => {}
        (Err(reason), Some(tls)) => tls.refused(&from, &reason),
        (Err(reason), None) => tracing::debug!(%from, reason, "connection refused"),
    }
}

impl Doors {
    async fn sort(&self, mut tcp: TcpStream, tls: Option<Arc<Tls>>) -> Result<(), String> {
        let purpose = mark::read(&mut tcp).await;
        let queue = match purpose.map_err(|error| error.to_string())? {
            Some(Purpose::Raft) => Some(&self.raft),
            Some(Purpose::Users) => self.users.turn(),
            Some(Purpose::Keys) => self.keys.turn(),
            None => Some(&self.others),
        };
        let queue = queue.ok_or_else(|| "there is no worker thread".to_owned())?;
        queue.pass(tcp, tls).await
    }

    /// Waits until one of the queues is closed.
    async fn closed(&self) {
        tokio::select! {
            () = self.raft.ready.closed() => {}
            () = self.users.closed() => {}
            () = self.keys.closed() => {}
            () = self.others.ready.closed() => {}
        }
    }
}

/// Registers a connection with another runtime.
fn move_to(runtime: &Handle, tcp: TcpStream) -> io::Result<TcpStream> {
    let tcp = tcp.into_std()?;
    let _guard = runtime.enter();
    TcpStream::from_std(tcp)
}

async fn make_ready(
    tcp: TcpStream,
    tls: Option<Arc<Tls>>,
    ready: mpsc::Sender<Stream>,
) -> Result<(), String> {
    let stream = match tls {
        None => Stream::plain(tcp),
        Some(tls) => shake_hands(&tls, tcp).await?,
    };
    // Fails only if the stream of connections was dropped.
    let _ = ready.send(stream).await;
    Ok(())
}

async fn shake_hands(tls: &Tls, tcp: TcpStream) -> Result<Stream, String> {
    let accepted = tls.acceptor().accept(tcp).await;
    let stream = accepted.map_err(|error| error.to_string())?;
    let chain = stream.get_ref().1.peer_certificates().unwrap_or_default();
    let holder = Peer::of(chain).map_err(|reason| format!("its certificate {reason}"))?;
    Ok(Stream::encrypted(
        TlsStream::Server(stream),
        Caller::Certified(holder),
    ))
}
