//! Takes connections, and sorts them by what they are for: those for Raft on its own threads.
//!
//! Handshakes run side by side, so that one that stands still holds up nobody; how many there are is
//! bounded, and when there are too many, the oldest is given up: whoever means well is done long
//! before.

use std::collections::VecDeque;
use std::io;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

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
    /// Frames of users' requests, by way of routers.
    pub users: Connections,
    /// gRPC for all else.
    pub others: Connections,
}

/// Where connections go when they are ready.
#[derive(Clone)]
struct Doors {
    raft: mpsc::Sender<Stream>,
    users: mpsc::Sender<Stream>,
    others: mpsc::Sender<Stream>,
    runtime: Handle,
}

/// Takes connections: those for Raft are ready on `raft`, all others on the current runtime. The task
/// that takes them ends with any of the three.
pub fn accept(listener: TcpListener, tls: Option<Arc<Tls>>, raft: Handle) -> Accepted {
    let (to_raft, for_raft) = mpsc::channel(READY);
    let (to_users, for_users) = mpsc::channel(READY);
    let (to_others, for_others) = mpsc::channel(READY);
    let doors = Doors {
        raft: to_raft,
        users: to_users,
        others: to_others,
        runtime: raft,
    };
    tokio::spawn(take(listener, tls, doors));
    Accepted {
        raft: connections(for_raft),
        users: connections(for_users),
        others: connections(for_others),
    }
}

fn connections(taken: mpsc::Receiver<Stream>) -> Connections {
    let next = |mut taken: mpsc::Receiver<Stream>| async move {
        let next = taken.recv().await?;
        Some((Ok(next), taken))
    };
    stream::unfold(taken, next).boxed()
}

async fn take(listener: TcpListener, tls: Option<Arc<Tls>>, doors: Doors) {
    let mut shaking = JoinSet::new();
    let mut oldest: VecDeque<AbortHandle> = VecDeque::new();
    loop {
        tokio::select! {
            () = doors.others.closed() => return,
            () = doors.users.closed() => return,
            () = doors.raft.closed() => return,
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
async fn welcome(tcp: TcpStream, from: SocketAddr, tls: Option<Arc<Tls>>, doors: Doors) {
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
    async fn sort(self, mut tcp: TcpStream, tls: Option<Arc<Tls>>) -> Result<(), String> {
        let marked = mark::read(&mut tcp).await;
        match marked.map_err(|error| error.to_string())? {
            None => return make_ready(tcp, tls, self.others).await,
            Some(Purpose::Users) => return make_ready(tcp, tls, self.users).await,
            Some(Purpose::Raft) => {}
        }
        let tcp = move_to(&self.runtime, tcp).map_err(|error| error.to_string())?;
        // Ends with this task.
        let mut there = JoinSet::new();
        there.spawn_on(make_ready(tcp, tls, self.raft), &self.runtime);
        match there.join_next().await {
            Some(Ok(ready)) => ready,
            Some(Err(_)) | None => Err("the node is stopping".to_owned()),
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
