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
use rustix::net::sockopt::set_tcp_user_timeout;
use tokio::net::{TcpListener, TcpStream};
use tokio::time::{MissedTickBehavior, sleep, timeout};
use tokio_rustls::TlsAcceptor;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

use crate::server::conn::body::UnreadBody;
use crate::server::conn::drive;
use crate::server::conn::h2_streams::StreamExecutor;
use crate::server::conn::linger::Lingerer;
use crate::server::conn::liveness::ConnectionTimeouts;
use crate::server::conn::registry::{ConnectionRegistry, RegistryEntry};
use crate::server::conn::response_budget::ResponseBudget;
use crate::server::conn::session::{ConnectionOwner, HttpSession};
use crate::server::conn::socket::TrackedSocket;
use crate::server::conn::state::Directive;
use crate::server::encryption::{ConnectionStart, Encryption};
use crate::server::handler::RequestHandler;
use crate::server::settings::HttpSettings;

/// Time for which sent bytes may stay unacknowledged before a client counts as lost, in
/// milliseconds. Bytes of a quiet event stream fit into a socket's buffer for hours: no other timeout
/// notices that nobody takes them.
const LOST_CLIENT_TIMEOUT_MS: u32 = 120_000;

/// Minimum and maximum delay after a connection couldn't be accepted (out of file descriptors).
const MIN_ACCEPT_BACKOFF: Duration = Duration::from_millis(5);
const MAX_ACCEPT_BACKOFF: Duration = Duration::from_secs(1);

/// Serves a port until `shutdown`, then drains within the settings' times. All tasks that it
/// started have ended when it returns.
pub async fn serve<A: RequestHandler>(
    port: Port,
    handler: Arc<A>,
    settings: HttpSettings,
    shutdown: CancellationToken,
) {
    let Port {
        listener,
        encryption,
    } = port;
    let server = HttpServer::new(handler, settings, encryption);
    let timeouts = ConnectionTimeouts::from_settings(&server.settings);
    server.tasks.spawn(sweep(
        Arc::clone(&server.registry),
        timeouts,
        server.stop.clone(),
    ));
    shutdown.run_until_cancelled(server.accept(&listener)).await;
    server.is_closing.store(true, Ordering::Relaxed);
    server
        .registry
        .issue_where(Directive::Drain, |state| state.is_http2());
    let lame_duck = server.settings.lame_duck;
    if server.settings.accepts_in_lame_duck {
        let _ = timeout(lame_duck, server.accept(&listener)).await;
        drop(listener);
    } else {
        drop(listener);
        if server.registry.len() > 0 {
            sleep(lame_duck).await;
        }
    }
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
async fn sweep(
    registry: Arc<ConnectionRegistry>,
    timeouts: ConnectionTimeouts,
    stop: CancellationToken,
) {
    let mut ticks = tokio::time::interval(timeouts.sweep_interval());
    ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
    while stop.run_until_cancelled(ticks.tick()).await.is_some() {
        registry.sweep(Instant::now());
    }
}

struct HttpServer<A> {
    handler: Arc<A>,
    encryption: Encryption,
    settings: Arc<HttpSettings>,
    builder: Arc<Builder<StreamExecutor>>,
    registry: Arc<ConnectionRegistry>,
    lingerer: Arc<Lingerer>,
    /// Tracker of every task of the server.
    tasks: TaskTracker,
    /// Ends the tasks that aren't connections.
    stop: CancellationToken,
    is_closing: Arc<AtomicBool>,
}

impl<A: RequestHandler> HttpServer<A> {
    fn new(handler: Arc<A>, settings: HttpSettings, encryption: Encryption) -> Self {
        let tasks = TaskTracker::new();
        let stop = CancellationToken::new();
        Self {
            builder: Arc::new(drive::http_builder(&settings, tasks.clone())),
            registry: ConnectionRegistry::new(
                ConnectionTimeouts::from_settings(&settings),
                Arc::clone(handler.connections()),
            ),
            lingerer: Lingerer::new(
                Arc::clone(handler.connections()),
                tasks.clone(),
                stop.clone(),
            ),
            handler,
            encryption,
            settings: Arc::new(settings),
            tasks,
            stop,
            is_closing: Arc::default(),
        }
    }

    /// Accepts connections without end. Cancel safe: none is lost between being accepted and being
    /// served.
    async fn accept(&self, listener: &TcpListener) {
        let mut backoff = MIN_ACCEPT_BACKOFF;
        loop {
            match listener.accept().await {
                Ok((stream, peer)) => {
                    backoff = MIN_ACCEPT_BACKOFF;
                    self.admit(stream, peer);
                }
                Err(error) if is_connection_error(&error) => {}
                Err(error) => {
                    let delay = backoff;
                    tracing::warn!(%error, ?delay, "accepting a connection failed, retrying");
                    sleep(backoff).await;
                    backoff = (backoff * 2).min(MAX_ACCEPT_BACKOFF);
                }
            }
        }
    }

    fn admit(&self, stream: TcpStream, peer: SocketAddr) {
        let entry = self.registry.register();
        let Some(owner) = self.assign_owner(peer, &entry) else {
            self.handler.connections().record_refused();
            // Over TLS the response wouldn't be a valid one.
            if self.encryption.allows_plaintext() {
                self.lingerer.refuse(stream);
            }
            return;
        };
        self.handler.connections().record_accepted();
        set_socket_options(&stream);
        let incoming = IncomingConnection {
            stream,
            peer,
            entry,
            owner,
            settings: Arc::clone(&self.settings),
            encryption: self.encryption.clone(),
            lingerer: Arc::clone(&self.lingerer),
            builder: Arc::clone(&self.builder),
            handler: Arc::clone(&self.handler),
            is_closing: Arc::clone(&self.is_closing),
        };
        let (timeout, stop) = (self.settings.header_timeout, self.stop.clone());
        self.tasks.spawn(incoming.run(timeout, stop));
    }

    /// Assigns a new connection, which is registered already, to its owner. At a limit, an idle
    /// connection is evicted: one of the same address at that address's limit, the longest idle one
    /// of all at the port's. `None` if none is idle.
    fn assign_owner(&self, peer: SocketAddr, entry: &RegistryEntry) -> Option<ConnectionOwner> {
        let (settings, connections) = (&self.settings, self.handler.connections());
        let is_full = connections.open_connections() > settings.max_connections as u64;
        let evict_any = || {
            let evicted = connections.addresses.evict_longest_idle();
            evicted.then(|| connections.record_evicted())
        };
        if settings
            .trusted_proxies
            .iter()
            .any(|it| it.contains(&peer.ip().to_canonical()))
        {
            if is_full {
                evict_any()?;
            }
            return Some(ConnectionOwner::for_proxy());
        }
        let address = connections.addresses.get_or_insert(peer.ip());
        let max = settings.connection_limit_of(&address);
        if address.is_full(max) {
            let slot = address.admit(entry.number, &entry.state, max)?;
            connections.record_evicted();
            return Some(ConnectionOwner::for_address(address, slot));
        }
        if is_full {
            evict_any()?;
        }
        let slot = address.admit(entry.number, &entry.state, max)?;
        Some(ConnectionOwner::for_address(address, slot))
    }

    async fn drain(self) {
        self.registry.issue_where(Directive::Drain, |_| true);
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
            self.registry.issue_where(Directive::Cut, |_| true);
            // Handlers that are being polled finish that poll first.
            if timeout(MAX_ACCEPT_BACKOFF, self.tasks.wait())
                .await
                .is_err()
            {
                tracing::error!(
                    tasks = self.tasks.len(),
                    "tasks still run after their connections were cut"
                );
            }
        }
    }
}

fn set_socket_options(stream: &TcpStream) {
    if let Err(error) = stream.set_nodelay(true) {
        tracing::debug!(%error, "setting TCP_NODELAY failed");
    }
    if let Err(error) = set_tcp_user_timeout(stream, LOST_CLIENT_TIMEOUT_MS) {
        tracing::debug!(%error, "setting TCP_USER_TIMEOUT failed");
    }
}

/// Connection that was accepted.
struct IncomingConnection<A> {
    stream: TcpStream,
    peer: SocketAddr,
    entry: RegistryEntry,
    owner: ConnectionOwner,
    settings: Arc<HttpSettings>,
    encryption: Encryption,
    lingerer: Arc<Lingerer>,
    builder: Arc<Builder<StreamExecutor>>,
    handler: Arc<A>,
    is_closing: Arc<AtomicBool>,
}

impl<A: RequestHandler> IncomingConnection<A> {
    /// Serves the connection to its end; a handshake may take as long as `timeout`, and ends with
    /// `stop`.
    async fn run(self, timeout: Duration, stop: CancellationToken) {
        let start = self
            .encryption
            .detect_start(&self.stream, &self.entry.state);
        match start.await {
            ConnectionStart::Plaintext => {
                let (stream, builder, session, _entry) = self.into_session(false);
                drive::drive(&builder, stream, session).await;
            }
            // Boxed, since it is larger, and most connections are plaintext.
            ConnectionStart::TlsHandshake(tls) => Box::pin(self.run_tls(tls, timeout, stop)).await,
            ConnectionStart::Closed => {}
        }
    }

    async fn run_tls(self, tls: TlsAcceptor, limit: Duration, stop: CancellationToken) {
        let is_router = matches!(self.encryption, Encryption::Routers(_));
        let (stream, builder, session, _entry) = self.into_session(true);
        let handshake = timeout(limit, tls.accept(stream));
        let handshake = stop.run_until_cancelled(session.state.run_until_directive(handshake));
        match handshake.await {
            Some(Some(Ok(Ok(stream)))) => {
                if stream.get_ref().1.alpn_protocol() == Some(b"h2") {
                    session.state.set_http2();
                }
                if is_router {
                    session.owner.set_router();
                }
                drive::drive(&builder, stream, session).await;
            }
            Some(Some(Ok(Err(error)))) => tracing::debug!(%error, "TLS handshake failed"),
            Some(Some(Err(_)) | None) | None => {}
        }
    }

    fn into_session(
        self,
        encrypted: bool,
    ) -> (
        TrackedSocket,
        Arc<Builder<StreamExecutor>>,
        Arc<HttpSession<A>>,
        RegistryEntry,
    ) {
        let state = Arc::clone(&self.entry.state);
        let stream = TrackedSocket::new(self.stream, Arc::clone(&state), self.lingerer);
        // A router's share isn't bounded: it forwards the requests of many clients.
        let is_router = encrypted && matches!(self.encryption, Encryption::Routers(_));
        let is_limited = self.owner.is_address() && !is_router;
        let budget = ResponseBudget::new(
            Arc::clone(&state),
            Arc::clone(&self.settings.response_memory),
            is_limited.then(|| self.peer.ip()),
            self.settings.max_connection_response_bytes,
        );
        let session = HttpSession {
            handler: self.handler,
            settings: self.settings,
            connection: self.entry.number,
            peer: self.peer,
            is_encrypted: encrypted,
            unread: Arc::new(UnreadBody::new(Arc::clone(&state))),
            state,
            is_closing: self.is_closing,
            response_budget: Arc::new(budget),
            owner: self.owner,
        };
        (stream, self.builder, Arc::new(session), self.entry)
    }
}

/// Returns whether an error of accepting concerns only the one connection.
fn is_connection_error(error: &io::Error) -> bool {
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
