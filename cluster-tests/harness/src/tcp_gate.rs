//! A TCP proxy in front of a server, which can cut it off.

use std::io;
use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::watch;
use tokio::task::JoinHandle;

/// Bytes that are relayed at once.
const CHUNK_BYTES: usize = 16 << 10;

/// A proxy on a port of its own. While it is closed, connections are closed at once.
#[derive(Debug)]
pub struct TcpGate {
    address: SocketAddr,
    state: Arc<GateState>,
    task: JoinHandle<()>,
}

#[derive(Debug)]
struct GateState {
    target: SocketAddr,
    is_open: watch::Sender<bool>,
    /// Bytes that clients may send until the gate closes by itself.
    allowance: AtomicU64,
    refused: AtomicU64,
}

impl TcpGate {
    /// Starts an open gate in front of this address.
    pub async fn start(target: SocketAddr) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.expect("a port");
        let address = listener.local_addr().expect("an address");
        let state = Arc::new(GateState {
            target,
            is_open: watch::Sender::new(true),
            allowance: AtomicU64::new(u64::MAX),
            refused: AtomicU64::new(0),
        });
        let task = tokio::spawn(accept(listener, state.clone()));
        Self {
            address,
            state,
            task,
        }
    }

    /// Returns the address of the gate.
    pub fn address(&self) -> SocketAddr {
        self.address
    }

    /// Lets the gate close once clients have sent so many bytes more.
    pub fn close_after(&self, bytes: u64) {
        self.state.allowance.store(bytes, Ordering::Relaxed);
    }

    /// Returns whether the gate is open.
    pub fn is_open(&self) -> bool {
        *self.state.is_open.borrow()
    }

    /// Opens the gate.
    pub fn open(&self) {
        self.close_after(u64::MAX);
        self.state.is_open.send_replace(true);
    }

    /// Returns the number of connections that found the gate closed.
    pub fn refused_count(&self) -> u64 {
        self.state.refused.load(Ordering::Relaxed)
    }
}

impl Drop for TcpGate {
    fn drop(&mut self) {
        self.task.abort();
        self.state.is_open.send_replace(false);
    }
}

async fn accept(listener: TcpListener, state: Arc<GateState>) {
    while let Ok((client, _)) = listener.accept().await {
        if !*state.is_open.borrow() {
            state.refused.fetch_add(1, Ordering::Relaxed);
            continue;
        }
        let state = state.clone();
        tokio::spawn(async move {
            tokio::select! {
                // However the connection ends, its client notices.
                _ = relay(client, &state) => {}
                () = wait_closed(state.is_open.subscribe()) => {}
            }
        });
    }
}

async fn wait_closed(mut is_open: watch::Receiver<bool>) {
    // Fails only if the gate is dropped.
    let _ = is_open.wait_for(|is_open| !is_open).await;
}

async fn relay(mut client: TcpStream, state: &GateState) -> io::Result<()> {
    let mut server = TcpStream::connect(state.target).await?;
    let (mut from_client, mut to_client) = client.split();
    let (mut from_server, mut to_server) = server.split();
    tokio::try_join!(
        copy(&mut from_client, &mut to_server, |bytes| state.spend(bytes)),
        copy(&mut from_server, &mut to_client, |_| true),
    )?;
    Ok(())
}

/// Copies until the end, or until `may_pass` refuses a number of bytes.
async fn copy(
    from: &mut (impl AsyncRead + Unpin),
    to: &mut (impl AsyncWrite + Unpin),
    may_pass: impl Fn(u64) -> bool,
) -> io::Result<()> {
    let mut chunk = vec![0; CHUNK_BYTES];
    loop {
        let length = from.read(&mut chunk).await?;
        if length == 0 {
            return to.shutdown().await;
        }
        if !may_pass(length as u64) {
            return Err(io::Error::other("the gate closes"));
        }
        to.write_all(&chunk[..length]).await?;
    }
}

impl GateState {
    /// Takes bytes from the allowance; closes the gate, and returns false, if there are too few.
    fn spend(&self, bytes: u64) -> bool {
        let take = |allowance: u64| match allowance {
            u64::MAX => Some(u64::MAX),
            allowance => allowance.checked_sub(bytes),
        };
        let order = Ordering::Relaxed;
        let is_left = self.allowance.fetch_update(order, order, take).is_ok();
        if !is_left {
            self.is_open.send_replace(false);
        }
        is_left
    }
}
