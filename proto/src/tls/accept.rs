//! Takes connections. Handshakes run side by side, so that one that stands still holds up nobody;
//! how many there are is bounded, and when there are too many, the oldest is given up: whoever
//! means well is done long before.

use std::collections::VecDeque;
use std::io;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use futures_util::stream;
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::mpsc;
use tokio::task::{AbortHandle, JoinSet};
use tokio_rustls::TlsStream;

use super::peer::{Caller, Peer};
use super::reload::Tls;
use super::stream::Stream;

/// Handshakes at once.
const SHAKING: usize = 256;
/// Time for a handshake.
const SHAKEN_WITHIN: Duration = Duration::from_secs(5);
/// Connections that are ready and not taken yet.
const READY: usize = 16;
/// Pause after the system refused a connection, as it does when there are too many files.
const PAUSE: Duration = Duration::from_millis(100);

/// The connections that come in and, with certificates, have shown one of the CA. The task that
/// takes them ends with the stream.
pub fn accept(
    listener: TcpListener,
    tls: Option<Arc<Tls>>,
) -> impl futures_util::Stream<Item = io::Result<Stream>> + Send + 'static {
    let (ready, taken) = mpsc::channel(READY);
    tokio::spawn(take(listener, tls, ready));
    stream::unfold(taken, |mut taken| async move {
        let next = taken.recv().await?;
        Some((Ok(next), taken))
    })
}

async fn take(listener: TcpListener, tls: Option<Arc<Tls>>, ready: mpsc::Sender<Stream>) {
    let mut shaking = JoinSet::new();
    let mut oldest: VecDeque<AbortHandle> = VecDeque::new();
    loop {
        tokio::select! {
            () = ready.closed() => return,
            Some(_) = shaking.join_next(), if !shaking.is_empty() => {}
            accepted = listener.accept() => match accepted {
                Ok((tcp, from)) => {
                    oldest.retain(|handle| !handle.is_finished());
                    if oldest.len() >= SHAKING && let Some(first) = oldest.pop_front() {
                        first.abort();
                    }
                    let welcome = welcome(tcp, from, tls.clone(), ready.clone());
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

async fn welcome(
    tcp: TcpStream,
    from: SocketAddr,
    tls: Option<Arc<Tls>>,
    ready: mpsc::Sender<Stream>,
) {
    // A connection that fails to take the option only waits longer.
    let _ = tcp.set_nodelay(true);
    let stream = match tls {
        None => Stream::plain(tcp),
        Some(tls) => match shake_hands(&tls, tcp).await {
            Ok(stream) => stream,
            Err(why) => return tls.refused(&from, &why),
        },
    };
    // Fails only if nobody takes connections any more.
    let _ = ready.send(stream).await;
}

async fn shake_hands(tls: &Tls, tcp: TcpStream) -> Result<Stream, String> {
    let shaken = tokio::time::timeout(SHAKEN_WITHIN, tls.acceptor().accept(tcp)).await;
    let stream = shaken
        .map_err(|_| "it took too long to show its certificate".to_owned())?
        .map_err(|error| error.to_string())?;
    let chain = stream.get_ref().1.peer_certificates().unwrap_or_default();
    let other = Peer::of(chain).map_err(|reason| format!("its certificate {reason}"))?;
    Ok(Stream::encrypted(
        TlsStream::Server(stream),
        Caller::Certified(other),
    ))
}
