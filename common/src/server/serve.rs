//! A port: accepting connections within bounds, and stopping without failing requests.
//!
//! ```text
//!  serve ──shutdown──► lame duck: still accepting, answers say "Connection: close"
//!                          │ lame_duck
//!                          ▼
//!                      drain: no new connections, idle ones end, running requests finish
//!                          │ all ended, or drain_timeout
//!                          ▼
//!                      cut: what is left is dropped
//! ```
//!
//! The lame duck is what makes a planned restart lose no request: a client that reuses a
//! connection just as its idle end is closed can't know whether its request arrived; one that was
//! told to close has no reason to.

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

/// What a client gets when there are too many connections.
const BUSY: &[u8] = b"HTTP/1.1 503 Service Unavailable\r\n\
    content-type: application/json; charset=utf-8\r\ncontent-length: 81\r\n\
    access-control-allow-origin: *\r\nretry-after: 1\r\nconnection: close\r\n\r\n\
    {\"error\":\"unavailable\",\"message\":\"this port has too many connections: try again\"}";

/// First and longest pause after the system could not give a connection (out of descriptors).
const FIRST_PAUSE: Duration = Duration::from_millis(5);
const LONGEST_PAUSE: Duration = Duration::from_secs(1);

/// Serves a port until `shutdown`, then drains within the settings'
/// times. All tasks that it started have ended when it returns.
pub async fn serve<A: Answer>(
    port: Port,
    answers: Arc<A>,
    settings: HttpSettings,
    shutdown: CancellationToken,
) {
    let Port {
        listener,
        encryption,
    } = port;
    let server = Server::new(answers, settings, encryption);
    let patience = Patience::of(&server.settings);
    server.tasks.spawn(sweep(
        Arc::clone(&server.registry),
        patience,
        server.stop.clone(),
    ));
    shutdown.run_until_cancelled(server.accept(&listener)).await;
    server.closing.store(true, Ordering::Relaxed);
    server
        .registry
        .command(Order::Drain, |pulse| pulse.is_http2());
    let _ = timeout(server.settings.lame_duck, server.accept(&listener)).await;
    drop(listener);
    server.drain().await;
}

/// A bound port.
#[derive(Debug)]
pub struct Port {
    /// Where connections come in.
    pub listener: TcpListener,
    /// How they are encrypted.
    pub encryption: Encryption,
}

/// Looks after all connections until `stop`.
async fn sweep(registry: Arc<Registry>, patience: Patience, stop: CancellationToken) {
    let mut ticks = tokio::time::interval(patience.interval());
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
    /// Every task of the server.
    tasks: TaskTracker,
    /// Ends the tasks that aren't connections.
    stop: CancellationToken,
    closing: Arc<AtomicBool>,
}

impl<A: Answer> Server<A> {
    fn new(answers: Arc<A>, settings: HttpSettings, encryption: Encryption) -> Self {
        let tasks = TaskTracker::new();
        let stop = CancellationToken::new();
        Self {
            builder: Arc::new(drive::builder(&settings, tasks.clone())),
            registry: Registry::new(Patience::of(&settings), Arc::clone(answers.connections())),
            lingerer: Lingerer::new(
                Arc::clone(answers.connections()),
                tasks.clone(),
                stop.clone(),
            ),
            answers,
            encryption,
            settings: Arc::new(settings),
            tasks,
            stop,
            closing: Arc::default(),
        }
    }

    /// Accepts connections for ever. Cancel safety: none is lost between being accepted and being
    /// served.
    async fn accept(&self, listener: &TcpListener) {
        let mut pause = FIRST_PAUSE;
        loop {
            match listener.accept().await {
                Ok((stream, peer)) => {
                    pause = FIRST_PAUSE;
                    self.admit(stream, peer);
                }
                Err(error) if is_of_one_connection(&error) => {}
                Err(error) => {
                    tracing::warn!(%error, "accept a connection");
                    sleep(pause).await;
                    pause = (pause * 2).min(LONGEST_PAUSE);
                }
            }
        }
    }

    fn admit(&self, stream: TcpStream, peer: SocketAddr) {
        let entered = self.registry.enter();
        let Some(caller) = self.place(peer, &entered) else {
            self.answers.connections().refused();
            // Over TLS it would be no answer.
            if self.encryption.allows_clear() && stream.try_write(BUSY).is_ok() {
                self.lingerer.linger(stream);
            }
            return;
        };
        self.answers.connections().accepted();
        if let Err(error) = stream.set_nodelay(true) {
            tracing::debug!(%error, "set TCP_NODELAY");
        }
        let arrival = Arrival {
            stream,
            peer,
            entered,
            caller,
            settings: Arc::clone(&self.settings),
            encryption: self.encryption.clone(),
            lingerer: Arc::clone(&self.lingerer),
            builder: Arc::clone(&self.builder),
            answers: Arc::clone(&self.answers),
            closing: Arc::clone(&self.closing),
        };
        let (patience, stop) = (self.settings.header_timeout, self.stop.clone());
        self.tasks.spawn(arrival.run(patience, stop));
    }

    /// A place for a new connection, which is among the open ones already. Where there is none, one that
    /// is idle loses its own: of the same address, if that has as many as it may; of any, if all
    /// together are. `None` if none is idle.
    fn place(&self, peer: SocketAddr, entered: &Entered) -> Option<Caller> {
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
        let most = settings.connections_of(&address);
        if address.is_full(most) {
            let place = address.admit(entered.number, &entered.pulse, most)?;
            connections.evicted();
            return Some(Caller::address(address, place));
        }
        if is_full {
            evict_any()?;
        }
        let place = address.admit(entered.number, &entered.pulse, most)?;
        Some(Caller::address(address, place))
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
                "cut connections that still run"
            );
            self.registry.command(Order::Cut, |_| true);
            // Handlers in the middle of a poll end it first.
            if timeout(LONGEST_PAUSE, self.tasks.wait()).await.is_err() {
                tracing::error!(tasks = self.tasks.len(), "tasks outlive their connections");
            }
        }
    }
}

/// A connection that has come in.
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
    /// Serves it to its end; a handshake may take as long as `patience`, and ends with `stop`.
    async fn run(self, patience: Duration, stop: CancellationToken) {
        let opening = self.encryption.opening(&self.stream, &self.entered.pulse);
        match opening.await {
            Opening::Clear => {
                let (stream, builder, session, _entered) = self.begin(false);
                drive::drive(&builder, stream, session).await;
            }
            // Boxed, since it is larger, and most connections are in the clear.
            Opening::Handshake(tls) => Box::pin(self.encrypted(tls, patience, stop)).await,
            Opening::Ended => {}
        }
    }

    async fn encrypted(self, tls: TlsAcceptor, patience: Duration, stop: CancellationToken) {
        let of_routers = matches!(self.encryption, Encryption::Routers(_));
        let (stream, builder, session, _entered) = self.begin(true);
        let handshake = timeout(patience, tls.accept(stream));
        let handshake = stop.run_until_cancelled(session.pulse.until_ordered(handshake));
        match handshake.await {
            Some(Some(Ok(Ok(stream)))) => {
                if stream.get_ref().1.alpn_protocol() == Some(b"h2") {
                    session.pulse.speaks_http2();
                }
                if of_routers {
                    session.caller.set_router();
                }
                drive::drive(&builder, stream, session).await;
            }
            Some(Some(Ok(Err(error)))) => tracing::debug!(%error, "agree on encryption"),
            Some(Some(Err(_)) | None) | None => {}
        }
    }

    fn begin(self, encrypted: bool) -> (Watched, Arc<Builder<Streams>>, Arc<Session<A>>, Entered) {
        let pulse = Arc::clone(&self.entered.pulse);
        let stream = Watched::new(self.stream, Arc::clone(&pulse), self.lingerer);
        // A router's share isn't bounded: it asks for many.
        let router = encrypted && matches!(self.encryption, Encryption::Routers(_));
        let address = self.caller.is_address() && !router;
        let account = Account::new(
            Arc::clone(&pulse),
            Arc::clone(&self.settings.answer_memory),
            address.then(|| self.peer.ip()),
            self.settings.connection_answers,
        );
        let session = Session {
            answers: self.answers,
            settings: self.settings,
            connection: self.entered.number,
            peer: self.peer,
            encrypted,
            pulse,
            unread: Arc::default(),
            closing: self.closing,
            account: Arc::new(account),
            caller: self.caller,
        };
        (stream, self.builder, Arc::new(session), self.entered)
    }
}

/// Whether an error of accepting concerns the one connection only.
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
