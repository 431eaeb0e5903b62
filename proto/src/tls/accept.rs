//! Takes connections, and sorts them by what they are for: those for Raft on its own threads, those
//! for users spread evenly over users' threads.
//!
//! Handshakes run side by side, so that one that stands still holds up nobody; how many there are is
//! bounded, and when there are too many, the oldest is given up: whoever means well is done long
//! before.

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

/// Handshakes at once.
const SHAKING: usize = 256;
/// Time for a connection's first bytes and its handshake together.
const SHAKEN_WITHIN: Duration = Duration::from_secs(5);
/// Connections that are ready and not taken yet.
const READY: usize = 16;
/// Pause after the system refused a connection, as it does when there are too many files.
const PAUSE: Duration = Duration::from_millis(100);

/// Connections that are ready.
pub type Connections = BoxStream<'static, io::Result<Stream>>;

/// The connections that come in and, with certificates, have shown one of the CA.
pub struct Accepted {
    /// gRPC for Raft.
    pub raft: Connections,
    /// Frames of users' requests, by way of routers, by thread.
    pub users: Vec<Connections>,
    /// gRPC for users' requests that other nodes pass on, by thread.
    pub keys: Vec<Connections>,
    /// gRPC for all else.
    pub others: Connections,
}

/// Where connections go when they are ready.
struct Doors {
    raft: Door,
    users: Row,
    keys: Row,
    others: Door,
}

/// Where connections are taken, and the runtime that wakes for what comes on them.
#[derive(Clone)]
struct Door {
    ready: mpsc::Sender<Stream>,
    runtime: Handle,
}

/// Doors that take turns.
struct Row {
    doors: Vec<Door>,
    next: AtomicUsize,
}

/// Takes connections: those for Raft are ready on `raft`, those for users' requests on `workers` in turn, of
/// which there must be one at least, and all others here. The task that takes them runs here, and ends with
/// any of them.
pub fn accept(
    listener: TcpListener,
    tls: Option<Arc<Tls>>,
    raft: Handle,
    workers: &[Handle],
) -> Accepted {
    let (raft, for_raft) = Door::open(raft);
    let open = || -> (Vec<Door>, Vec<Connections>) {
        let workers = workers.iter().cloned();
        workers.map(Door::open).unzip()
    };
    let ((users, for_users), (keys, for_keys)) = (open(), open());
    let (others, for_others) = Door::open(Handle::current());
    let doors = Doors {
        raft,
        users: Row::of(users),
        keys: Row::of(keys),
        others,
    };
    tokio::spawn(take(listener, tls, Arc::new(doors)));
    Accepted {
        raft: for_raft,
        users: for_users,
        keys: for_keys,
        others: for_others,
    }
}

impl Door {
    fn open(runtime: Handle) -> (Self, Connections) {
        let (ready, taken) = mpsc::channel(READY);
        (Self { ready, runtime }, connections(taken))
    }

    /// Has a connection made ready on the runtime that it is for.
    async fn pass(&self, tcp: TcpStream, tls: Option<Arc<Tls>>) -> Result<(), String> {
        let tcp = move_to(&self.runtime, tcp).map_err(|error| error.to_string())?;
        // Ends with this task.
        let mut there = JoinSet::new();
        there.spawn_on(make_ready(tcp, tls, self.ready.clone()), &self.runtime);
        match there.join_next().await {
            Some(Ok(ready)) => ready,
            Some(Err(_)) | None => Err("the node is stopping".to_owned()),
        }
    }
}

impl Row {
    fn of(doors: Vec<Door>) -> Self {
        let next = AtomicUsize::new(0);
        Self { doors, next }
    }

    fn turn(&self) -> Option<&Door> {
        let next = self.next.fetch_add(1, Ordering::Relaxed);
        self.doors.get(next % self.doors.len().max(1))
    }

    /// Ends when one of them takes no more.
    async fn closed(&self) {
        let closed = self.doors.iter().map(|door| Box::pin(door.ready.closed()));
        // There is no end of nothing to wait for.
        if closed.len() > 0 {
            select_all(closed).await;
        }
    }
}

fn connections(taken: mpsc::Receiver<Stream>) -> Connections {
    let next = |mut taken: mpsc::Receiver<Stream>| async move {
        let next = taken.recv().await?;
        Some((Ok(next), taken))
    };
    stream::unfold(taken, next).boxed()
}

async fn take(listener: TcpListener, tls: Option<Arc<Tls>>, doors: Arc<Doors>) {
    let mut shaking = JoinSet::new();
    let mut oldest: VecDeque<AbortHandle> = VecDeque::new();
    let mut closed = pin!(doors.closed());
    loop {
        tokio::select! {
            () = &mut closed => return,
            Some(_) = shaking.join_next(), if !shaking.is_empty() => {}
            accepted = listener.accept() => match accepted {
                Ok((tcp, from)) => {
                    oldest.retain(|handle| !handle.is_finished());
                    if oldest.len() >= SHAKING && let Some(first) = oldest.pop_front() {
                        first.abort();
                    }
                    let welcome = welcome(tcp, from, tls.clone(), doors.clone());
                    oldest.push_back(shaking.spawn(welcome));
                }
                Err(error) => {
                    tracing::warn!(%error, "take a connection of another node");
                    tokio::time::sleep(PAUSE).await;
                }
            },
        }
    }
}

/// Has a connection made ready for the threads that it is for.
async fn welcome(tcp: TcpStream, from: SocketAddr, tls: Option<Arc<Tls>>, doors: Arc<Doors>) {
    // A connection that fails to take the option only waits longer.
    let _ = tcp.set_nodelay(true);
    let shaken = tokio::time::timeout(SHAKEN_WITHIN, doors.sort(tcp, tls.clone())).await;
    let late = |_| Err("it took too long to show its certificate".to_owned());
    match (shaken.unwrap_or_else(late), tls) {
        (Ok(()), _) => {}
        (Err(why), Some(tls)) => tls.refused(&from, &why),
        (Err(why), None) => tracing::debug!(%from, why, "refused a connection"),
    }
}

impl Doors {
    async fn sort(&self, mut tcp: TcpStream, tls: Option<Arc<Tls>>) -> Result<(), String> {
        let marked = mark::read(&mut tcp).await;
        let door = match marked.map_err(|error| error.to_string())? {
            Some(Purpose::Raft) => Some(&self.raft),
            Some(Purpose::Users) => self.users.turn(),
            Some(Purpose::Keys) => self.keys.turn(),
            None => Some(&self.others),
        };
        let door = door.ok_or_else(|| "nobody takes connections".to_owned())?;
        door.pass(tcp, tls).await
    }

    /// Ends when one of them takes no more.
    async fn closed(&self) {
        tokio::select! {
            () = self.raft.ready.closed() => {}
            () = self.users.closed() => {}
            () = self.keys.closed() => {}
            () = self.others.ready.closed() => {}
        }
    }
}

/// Has a runtime wake for what comes on a connection.
fn move_to(runtime: &Handle, tcp: TcpStream) -> io::Result<TcpStream> {
    let tcp = tcp.into_std()?;
    let _there = runtime.enter();
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
    // Fails only if nobody takes connections any more.
    let _ = ready.send(stream).await;
    Ok(())
}

async fn shake_hands(tls: &Tls, tcp: TcpStream) -> Result<Stream, String> {
    let shaken = tls.acceptor().accept(tcp).await;
    let stream = shaken.map_err(|error| error.to_string())?;
    let chain = stream.get_ref().1.peer_certificates().unwrap_or_default();
    let other = Peer::of(chain).map_err(|reason| format!("its certificate {reason}"))?;
    Ok(Stream::encrypted(
        TlsStream::Server(stream),
        Caller::Certified(other),
    ))
}
