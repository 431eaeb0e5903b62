//! A link between clients and their server that can stall and break, so that clients read slowly,
//! or lose their connections.
//!
//! It is a TCP proxy with small buffers: while it stalls, it reads nothing, and the server soon has
//! nowhere to write to. It has the same address while servers behind it come and go.

use std::io;
use std::net::{Ipv4Addr, SocketAddr};

use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::tcp::{OwnedReadHalf, OwnedWriteHalf};
use tokio::net::{TcpListener, TcpSocket, TcpStream};
use tokio::sync::watch;
use tokio::task::JoinSet;

/// Bytes that are read at once.
const CHUNK_BYTES: usize = 4096;

/// Size of the kernel's buffers of each connection, which it doubles.
const SOCKET_BUFFER_BYTES: u32 = 8 * 1024;

/// Maximum number of connections that wait to be accepted.
const BACKLOG: u32 = 64;

#[derive(Clone, Copy, Debug, Default)]
struct LinkState {
    is_stalled: bool,
    /// Number of times that all connections were reset.
    resets: u64,
}

/// A link to one server. Its connections end when it is dropped.
#[derive(Debug)]
pub(super) struct ClientLink {
    address: SocketAddr,
    state: watch::Sender<LinkState>,
    /// The only task: it accepts connections, and owns theirs.
    _tasks: JoinSet<()>,
}

impl ClientLink {
    /// Starts a link to this server, which needn't listen yet.
    pub(super) fn start(server: SocketAddr) -> io::Result<Self> {
        let socket = TcpSocket::new_v4()?;
        // Accepted connections have the sizes of their listener.
        socket.set_send_buffer_size(SOCKET_BUFFER_BYTES)?;
        socket.bind((Ipv4Addr::LOCALHOST, 0).into())?;
        let listener = socket.listen(BACKLOG)?;
        let address = listener.local_addr()?;
        let (state, changes) = watch::channel(LinkState::default());
        let mut tasks = JoinSet::new();
        tasks.spawn(accept_all(listener, server, changes));
        Ok(Self {
            address,
            state,
            _tasks: tasks,
        })
    }

    /// Returns the address for clients.
    pub(super) fn address(&self) -> SocketAddr {
        self.address
    }

    /// Stalls all connections, or lets them go on.
    pub(super) fn set_stalled(&self, is_stalled: bool) {
        self.state
            .send_modify(|state| state.is_stalled = is_stalled);
    }

    /// Breaks all connections.
    pub(super) fn reset_connections(&self) {
        self.state.send_modify(|state| state.resets += 1);
    }
}

async fn accept_all(
    listener: TcpListener,
    server: SocketAddr,
    changes: watch::Receiver<LinkState>,
) {
    let mut connections = JoinSet::new();
    loop {
        tokio::select! {
            accepted = listener.accept() => {
                let Ok((client, _)) = accepted else {
                    continue;
                };
                connections.spawn(relay(client, server, changes.clone()));
            }
            Some(_) = connections.join_next() => {}
        }
    }
}

/// Relays one connection until both ends have closed it, or until it breaks.
async fn relay(client: TcpStream, server: SocketAddr, changes: watch::Receiver<LinkState>) {
    let resets = changes.borrow().resets;
    let mut broken = changes.clone();
    let both = async {
        let server = connect(server).await?;
        client.set_nodelay(true)?;
        let (from_client, to_client) = client.into_split();
        let (from_server, to_server) = server.into_split();
        tokio::try_join!(
            copy(from_client, to_server, changes.clone()),
            copy(from_server, to_client, changes.clone())
        )
    };
    tokio::select! {
        // A client sees the end of its connection, however it came.
        _ = both => {}
        // An error means that the link was dropped.
        _ = broken.wait_for(|state| state.resets != resets) => {}
    }
}

async fn connect(server: SocketAddr) -> io::Result<TcpStream> {
    let socket = TcpSocket::new_v4()?;
    socket.set_recv_buffer_size(SOCKET_BUFFER_BYTES)?;
    let stream = socket.connect(server).await?;
    stream.set_nodelay(true)?;
    Ok(stream)
}

async fn copy(
    mut from: OwnedReadHalf,
    mut to: OwnedWriteHalf,
    mut changes: watch::Receiver<LinkState>,
) -> io::Result<()> {
    let mut buffer = vec![0; CHUNK_BYTES];
    loop {
        let length = from.read(&mut buffer).await?;
        if changes.wait_for(|state| !state.is_stalled).await.is_err() {
            return Err(io::Error::other("the link was dropped"));
        }
        if length == 0 {
            return to.shutdown().await;
        }
        to.write_all(&buffer[..length]).await?;
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use tokio::time::timeout;

    use super::*;

    /// Longer than anything here may take.
    const TIMEOUT: Duration = Duration::from_secs(30);

    /// Returns a link, its server's listener, and a connection through it.
    async fn connect_through() -> (ClientLink, TcpStream, TcpStream) {
        let server = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let link = ClientLink::start(server.local_addr().unwrap()).unwrap();
        let client = TcpStream::connect(link.address()).await.unwrap();
        let (accepted, _) = timeout(TIMEOUT, server.accept()).await.unwrap().unwrap();
        (link, client, accepted)
    }

    async fn receive(stream: &mut TcpStream, length: usize) -> Vec<u8> {
        let mut received = vec![0; length];
        let read = timeout(TIMEOUT, stream.read_exact(&mut received));
        read.await.unwrap().unwrap();
        received
    }

    #[tokio::test]
    async fn bytes_pass_both_ways_and_a_stall_only_holds_them_back() {
        let (link, mut client, mut server) = connect_through().await;
        client.write_all(b"ping").await.unwrap();
        assert_eq!(receive(&mut server, 4).await, b"ping");
        link.set_stalled(true);
        server.write_all(b"pong").await.unwrap();
        client.write_all(b"more").await.unwrap();
        link.set_stalled(false);
        assert_eq!(receive(&mut client, 4).await, b"pong");
        assert_eq!(receive(&mut server, 4).await, b"more");
    }

    #[tokio::test]
    async fn a_reset_ends_the_connections_at_both_ends() {
        let (link, mut client, mut server) = connect_through().await;
        link.reset_connections();
        for stream in [&mut client, &mut server] {
            let end = timeout(TIMEOUT, stream.read(&mut [0; 1])).await.unwrap();
            assert!(matches!(end, Ok(0) | Err(_)), "{end:?}");
        }
        // New ones work.
        assert!(TcpStream::connect(link.address()).await.is_ok());
    }

    #[tokio::test]
    async fn a_server_that_does_not_listen_ends_the_connection() {
        let server = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = server.local_addr().unwrap();
        drop(server);
        let link = ClientLink::start(address).unwrap();
        let mut client = TcpStream::connect(link.address()).await.unwrap();
        let end = timeout(TIMEOUT, client.read(&mut [0; 1])).await.unwrap();
        assert!(matches!(end, Ok(0) | Err(_)), "{end:?}");
    }
}
