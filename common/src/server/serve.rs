//! Serving of a port: connections within bounds, and a graceful shutdown that fails no request.
//!
//! ```text
//!  serve ──shutdown──► lame duck: still accepting, responses have "Connection: close"
//!                          │ lame_duck
//!                          ▼
//!                      drain: no new connections, idle ones end, requests under way finish
//!                          │ all ended, or drain_timeout
//!                          ▼
//!                      cut: remaining connections are dropped
//! ```
//!
//! Due to the lame duck period a planned restart fails no request: a client that reuses an idle
//! connection just as the server closes it can't know whether its request arrived; a client that
//! was asked to close the connection doesn't reuse it.

use std::io;
use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use hyper_util::server::conn::auto::Builder;
use tokio::net::{TcpListener, TcpStream};
use tokio::time::{MissedTickBehavior, sleep, timeout};
use tokio_rustls::TlsAcceptor;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

use crate::server::answer::Answer;
use crate::server::conn::drive;
use crate::server::conn::held::Account;
use crate::server::conn::linger::Lingerer;
use crate::server::conn::liveness::Patience;
use crate::server::conn::pulse::Order;
use crate::server::conn::registry::{Entered, Registry};
use crate::server::conn::session::{Caller, Session};
use crate::server::conn::stream::Watched;
use crate::server::conn::streams::Streams;
use crate::server::encryption::{Encryption, Opening};
use crate::server::settings::HttpSettings;

/// Response to a client when there are too many connections.
const BUSY: &[u8] = b"HTTP/1.1 503 Service Unavailable\r\n\
    content-type: application/json; charset=utf-8\r\ncontent-length: 81\r\n\
    access-control-allow-origin: *\r\nretry-after: 1\r\nconnection: close\r\n\r\n\
    {\"error\":\"unavailable\",\"message\":\"this port has too many connections: try again\"}";

/// Minimum and maximum delay after a connection couldn't be accepted (out of file descriptors).
const FIRST_PAUSE: Duration = Duration::from_millis(5);
const LONGEST_PAUSE: Duration = Duration::from_secs(1);

/// Serves a port until `shutdown`, then drains within the settings' times. All tasks that it
/// started have ended when it returns.
pub async fn serve<A: Answer>(
    port: Port,
    handler: Arc<A>,
    settings: HttpSettings,
    shutdown: CancellationToken,
) {
    let Port {
        listener,
        encryption,
    } = port;
    let server = Server::new(handler, settings, encryption);
    let timeouts = Patience::of(&server.settings);
    server.tasks.spawn(sweep(
        Arc::clone(&server.registry),
        timeouts,
        server.stop.clone(),
    ));
    shutdown.run_until_cancelled(server.accept(&listener)).await;
    server.closing.store(true, Ordering::Relaxed);
    server
        .registry
        .command(Order::Drain, |state| state.is_http2());
    let _ = timeout(server.settings.lame_duck, server.accept(&listener)).await;
    drop(listener);
    server.drain().await;
}

/// Port that is bound.
#[derive(Debug)]
pub struct Port {
    /// Listener of the port.
    pub listener: TcpListener,
    /// Encryption of its connections.
    pub encryption: Encryption,
}

/// Sweeps over all connections until `stop`.
async fn sweep(registry: Arc<Registry>, timeouts: Patience, stop: CancellationToken) {
    let mut ticks = tokio::time::interval(timeouts.interval());
    ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
    while stop.run_until_cancelled(ticks.tick()).await.is_some() {
        registry.sweep(Instant::now());
    }
}

struct Server<A> {
    answers: Arc<A>,
    encryption: Encryption,
    settings: Arc<HttpSettings>,
    builder: Arc<Builder<Streams>>,
    registry: Arc<Registry>,
    lingerer: Arc<Lingerer>,
    /// Tracker of every task of the server.
    tasks: TaskTracker,
    /// Ends the tasks that aren't connections.
    stop: CancellationToken,
    closing: Arc<AtomicBool>,
}

impl<A: Answer> Server<A> {
    fn new(handler: Arc<A>, settings: HttpSettings, encryption: Encryption) -> Self {
        let tasks = TaskTracker::new();
        let stop = CancellationToken::new();
        Self {
            builder: Arc::new(drive::builder(&settings, tasks.clone())),
            registry: Registry::new(Patience::of(&settings), Arc::clone(handler.connections())),
            lingerer: Lingerer::new(
                Arc::clone(handler.connections()),
                tasks.clone(),
                stop.clone(),
            ),
            answers: handler,
            encryption,
            settings: Arc::new(settings),
            tasks,
            stop,
            closing: Arc::default(),
        }
    }

    /// Accepts connections without end. Cancel safe: none is lost between being accepted and being
    /// served.
    async fn accept(&self, listener: &TcpListener) {
        let mut backoff = FIRST_PAUSE;
        loop {
            match listener.accept().await {
                Ok((stream, peer)) => {
                    backoff = FIRST_PAUSE;
                    self.admit(stream, peer);
                }
                Err(error) if is_of_one_connection(&error) => {}
                Err(error) => {
                    let delay = backoff;
                    tracing::warn!(%error, ?delay, "accepting a connection failed, retrying");
                    sleep(backoff).await;
                    backoff = (backoff * 2).min(LONGEST_PAUSE);
                }
            }
        }
    }

    fn admit(&self, stream: TcpStream, peer: SocketAddr) {
        let entry = self.registry.enter();
        let Some(owner) = self.place(peer, &entry) else {
            self.answers.connections().refused();
            // Over TLS it would be no valid response.
            if self.encryption.allows_clear() && stream.try_write(BUSY).is_ok() {
                self.lingerer.linger(stream);
            }
            return;
        };
        self.answers.connections().accepted();
        if let Err(error) = stream.set_nodelay(true) {
            tracing::debug!(%error, "setting TCP_NODELAY failed");
        }
        let incoming = Arrival {
            stream,
            peer,
            entered: entry,
            caller: owner,
            settings: Arc::clone(&self.settings),
            encryption: self.encryption.clone(),
            lingerer: Arc::clone(&self.lingerer),
            builder: Arc::clone(&self.builder),
            answers: Arc::clone(&self.answers),
            closing: Arc::clone(&self.closing),
        };
        let (timeout, stop) = (self.settings.header_timeout, self.stop.clone());
        self.tasks.spawn(incoming.run(timeout, stop));
    }

    /// Assigns a new connection, which is registered already, to its owner. At a limit, an idle
    /// connection is evicted: one of the same address at that address's limit, the longest idle one
    /// of all at the port's. `None` if none is idle.
    fn place(&self, peer: SocketAddr, entry: &Entered) -> Option<Caller> {
        let (settings, connections) = (&self.settings, self.answers.connections());
        let is_full = connections.open_connections() > settings.max_connections as u64;
        let evict_any = || {
            let evicted = connections.addresses.evict_longest_idle();
            evicted.then(|| connections.evicted())
        };
        if settings.trusted.iter().any(|it| it.contains(peer.ip())) {
            if is_full {
                evict_any()?;
            }
            return Some(Caller::proxy());
        }
        let address = connections.addresses.of(peer.ip());
        let max = settings.connections_of(&address);
        if address.is_full(max) {
            let slot = address.admit(entry.number, &entry.pulse, max)?;
            connections.evicted();
            return Some(Caller::address(address, slot));
        }
        if is_full {
            evict_any()?;
        }
        let slot = address.admit(entry.number, &entry.pulse, max)?;
        Some(Caller::address(address, slot))
    }

    async fn drain(self) {
        self.registry.command(Order::Drain, |_| true);
        self.stop.cancel();
        self.tasks.close();
        if timeout(self.settings.drain_timeout, self.tasks.wait())
            .await
            .is_err()
        {
            tracing::warn!(
                connections = self.registry.len(),
                "drain timed out, cutting connections"
            );
            self.registry.command(Order::Cut, |_| true);
            // Handlers that are being polled finish that poll first.
            if timeout(LONGEST_PAUSE, self.tasks.wait()).await.is_err() {
                tracing::error!(
                    tasks = self.tasks.len(),
                    "tasks still run after their connections were cut"
                );
            }
        }
    }
}

/// Connection that was accepted.
struct Arrival<A> {
    stream: TcpStream,
    peer: SocketAddr,
    entered: Entered,
    caller: Caller,
    settings: Arc<HttpSettings>,
    encryption: Encryption,
    lingerer: Arc<Lingerer>,
    builder: Arc<Builder<Streams>>,
    answers: Arc<A>,
    closing: Arc<AtomicBool>,
}

impl<A: Answer> Arrival<A> {
    /// Serves the connection to its end; a handshake may take as long as `timeout`, and ends with
    /// `stop`.
    async fn run(self, timeout: Duration, stop: CancellationToken) {
        let start = self.encryption.opening(&self.stream, &self.entered.pulse);
        match start.await {
            Opening::Clear => {
                let (stream, builder, session, _entry) = self.begin(false);
                drive::drive(&builder, stream, session).await;
            }
            // Boxed, since it is larger, and most connections are plaintext.
            Opening::Handshake(tls) => Box::pin(self.encrypted(tls, timeout, stop)).await,
            Opening::Ended => {}
        }
    }

    async fn encrypted(self, tls: TlsAcceptor, limit: Duration, stop: CancellationToken) {
        let is_router = matches!(self.encryption, Encryption::Routers(_));
        let (stream, builder, session, _entry) = self.begin(true);
        let handshake = timeout(limit, tls.accept(stream));
        let handshake = stop.run_until_cancelled(session.pulse.until_ordered(handshake));
        match handshake.await {
            Some(Some(Ok(Ok(stream)))) => {
                if stream.get_ref().1.alpn_protocol() == Some(b"h2") {
                    session.pulse.speaks_http2();
                }
                if is_router {
                    session.caller.set_router();
                }
                drive::drive(&builder, stream, session).await;
            }
            Some(Some(Ok(Err(error)))) => tracing::debug!(%error, "TLS handshake failed"),
            Some(Some(Err(_)) | None) | None => {}
        }
    }

    fn begin(self, encrypted: bool) -> (Watched, Arc<Builder<Streams>>, Arc<Session<A>>, Entered) {
        let state = Arc::clone(&self.entered.pulse);
        let stream = Watched::new(self.stream, Arc::clone(&state), self.lingerer);
        // A router's share isn't bounded: it forwards the requests of many clients.
        let is_router = encrypted && matches!(self.encryption, Encryption::Routers(_));
        let is_limited = self.caller.is_address() && !is_router;
        let budget = Account::new(
            Arc::clone(&state),
            Arc::clone(&self.settings.answer_memory),
            is_limited.then(|| self.peer.ip()),
            self.settings.connection_answers,
        );
        let session = Session {
            answers: self.answers,
            settings: self.settings,
            connection: self.entered.number,
            peer: self.peer,
            encrypted,
            pulse: state,
            unread: Arc::default(),
            closing: self.closing,
            account: Arc::new(budget),
            caller: self.caller,
        };
        (stream, self.builder, Arc::new(session), self.entered)
    }
}

/// Returns whether an error of accepting concerns only the one connection.
fn is_of_one_connection(error: &io::Error) -> bool {
    matches!(
        error.kind(),
        io::ErrorKind::ConnectionAborted
            | io::ErrorKind::ConnectionRefused
            | io::ErrorKind::ConnectionReset
            | io::ErrorKind::Interrupted
    )
}

#[cfg(test)]
#[path = "serve_tests.rs"]
mod tests;
