//! A TCP proxy that records all traffic.

use std::net::SocketAddr;
use std::pin::pin;
use std::sync::{Arc, Mutex};

use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::watch;
use tokio::task::JoinHandle;

/// Forwards connections to a target and records both directions. Stops on drop.
#[derive(Debug)]
pub struct TrafficRecorder {
    address: SocketAddr,
    target: Arc<Mutex<Option<SocketAddr>>>,
    recording: Recording,
    cut: CutSignal,
    accept_task: JoinHandle<()>,
}

/// True while the next bytes to the target are to end their connection instead.
type CutSignal = Arc<watch::Sender<bool>>;

/// Recorded bytes of each connection: requests, replies.
type Recording = Arc<Mutex<Vec<[Vec<u8>; 2]>>>;

impl TrafficRecorder {
    /// Listens on the loopback interface; nothing is forwarded before [`Self::set_target`].
    pub async fn start() -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.expect("bind a port");
        let address = listener.local_addr().expect("the address of a port");
        let (to, tape) = (
            Arc::<Mutex<Option<SocketAddr>>>::default(),
            Recording::default(),
        );
        let cut = CutSignal::new(watch::Sender::new(false));
        let shared = (tape.clone(), cut.clone());
        let accepting = tokio::spawn(accept(listener, to.clone(), shared));
        Self {
            address,
            target: to,
            recording: tape,
            cut,
            accept_task: accepting,
        }
    }

    /// Returns the address that it listens on.
    pub fn address(&self) -> SocketAddr {
        self.address
    }

    /// Sets the target of new connections.
    pub fn set_target(&self, to: SocketAddr) {
        *self.target.lock().expect("no holder panics") = Some(to);
    }

    /// Makes the next bytes to the target end their connection, before the target sees them.
    pub fn cut_next(&self) {
        self.cut.send_replace(true);
    }

    /// Waits until that has happened.
    pub async fn wait_cut(&self) {
        let mut cut = self.cut.subscribe();
        cut.wait_for(|cut| !*cut).await.expect("the sender is here");
    }

    /// Returns the traffic so far: for each connection that carried any, to the target and back.
    pub fn traffic(&self) -> Vec<[Vec<u8>; 2]> {
        let tape = self.recording.lock().expect("no holder panics");
        let mut traffic = tape.clone();
        traffic.retain(|sides| sides.iter().any(|side| !side.is_empty()));
        traffic
    }

    /// Returns all bytes sent to the target so far, as text.
    pub fn requests_text(&self) -> String {
        let traffic = self.traffic();
        let requests = traffic.iter().map(|[to, _]| String::from_utf8_lossy(to));
        requests.collect()
    }
}

impl Drop for TrafficRecorder {
    fn drop(&mut self) {
        self.accept_task.abort();
    }
}

async fn accept(
    listener: TcpListener,
    to: Arc<Mutex<Option<SocketAddr>>>,
    (tape, cut): (Recording, CutSignal),
) {
    while let Ok((client, _)) = listener.accept().await {
        let to = *to.lock().expect("no holder panics");
        if let Some(to) = to {
            tokio::spawn(forward(client, to, (tape.clone(), cut.clone())));
        }
    }
}

async fn forward(client: TcpStream, to: SocketAddr, (tape, cut): (Recording, CutSignal)) {
    let Ok(target) = TcpStream::connect(to).await else {
        return;
    };
    let number = {
        let mut tape = tape.lock().expect("no holder panics");
        tape.push(Default::default());
        tape.len() - 1
    };
    let (client, target) = (client.into_split(), target.into_split());
    let requests = copy(client.0, target.1, (&tape, number, 0), Some(&cut));
    let replies = copy(target.0, client.1, (&tape, number, 1), None);
    let (mut requests, mut replies) = (pin!(requests), pin!(replies));
    tokio::select! {
        is_cut = &mut requests => if !is_cut {
            replies.await;
        },
        _ = &mut replies => {
            requests.await;
        }
    }
}

/// Forwards one direction; returns true if the connection was cut.
async fn copy(
    mut from: tokio::net::tcp::OwnedReadHalf,
    mut to: tokio::net::tcp::OwnedWriteHalf,
    (tape, number, side): (&Recording, usize, usize),
    cut: Option<&CutSignal>,
) -> bool {
    let mut buffer = vec![0; 64 << 10];
    while let Ok(count @ 1..) = from.read(&mut buffer).await {
        let take_request = |cut: &mut bool| std::mem::take(cut);
        if cut.is_some_and(|cut| cut.send_if_modified(take_request)) {
            return true;
        }
        let bytes = &buffer[..count];
        tape.lock().expect("no holder panics")[number][side].extend_from_slice(bytes);
        if to.write_all(bytes).await.is_err() {
            return false;
        }
    }
    // Fails only if the other side has disconnected.
    let _ = to.shutdown().await;
    false
}
