//! Encryption of a port's connections.
//!
//! A node's public port speaks plain HTTP with users, whose TLS ends at a router or another proxy
//! in front. Requests that routers forward are encrypted, by the cluster's certificates, on the
//! same port: so one address is enough, and a shutdown drains all connections in the same order.
//!
//! Invariant: no request is read from a router's encrypted connection before the other end has
//! shown a certificate of the cluster's CA.

use std::future::poll_fn;
use std::sync::Arc;
use std::task::{Poll, ready};

use arc_swap::ArcSwap;
use tokio::io::ReadBuf;
use tokio::net::TcpStream;
use tokio_rustls::TlsAcceptor;
use tokio_rustls::rustls::ServerConfig;

use crate::server::conn::state::{ConnectionState, Directive};
use crate::transport::tls::Tls;

/// First byte of every TLS connection: the record type of a handshake (RFC 8446, 5.1). No method of
/// HTTP begins with it.
const TLS_HANDSHAKE_RECORD: u8 = 22;

/// TLS configuration that can be replaced; a new one applies to new connections.
pub type SharedTlsConfig = Arc<ArcSwap<ServerConfig>>;

/// Encryption of a port's connections.
#[derive(Clone, Debug)]
pub enum Encryption {
    /// No connection is encrypted.
    Off,
    /// All connections are encrypted.
    Always(SharedTlsConfig),
    /// Connections that begin with a handshake, those of routers, are encrypted by the cluster's
    /// certificates.
    Routers(Arc<Tls>),
}

/// Beginning of a connection.
pub(super) enum ConnectionStart {
    /// Plain HTTP.
    Plaintext,
    /// TLS handshake that follows.
    TlsHandshake(TlsAcceptor),
    /// End before the first byte.
    Closed,
}

impl Encryption {
    /// Returns whether the port may send a response without a handshake.
    pub(super) fn allows_plaintext(&self) -> bool {
        match self {
            Self::Off | Self::Routers(_) => true,
            Self::Always(_) => false,
        }
    }

    /// Determines how a new connection begins. Waits for its first byte where that decides, or for
    /// a directive to end: a silent connection is as idle as any.
    pub(super) async fn detect_start(
        &self,
        stream: &TcpStream,
        state: &ConnectionState,
    ) -> ConnectionStart {
        match self {
            Self::Off => ConnectionStart::Plaintext,
            Self::Always(tls) => ConnectionStart::TlsHandshake(TlsAcceptor::from(tls.load_full())),
            Self::Routers(tls) => match peek_first_byte(stream, state).await {
                Some(TLS_HANDSHAKE_RECORD) => ConnectionStart::TlsHandshake(tls.http_acceptor()),
                Some(_) => ConnectionStart::Plaintext,
                None => ConnectionStart::Closed,
            },
        }
    }
}

/// Returns the first byte, which stays in the socket's buffer. `None` if the connection is to end.
async fn peek_first_byte(stream: &TcpStream, state: &ConnectionState) -> Option<u8> {
    poll_fn(|cx| {
        state.register_waker(cx.waker());
        if state.directive() != Directive::Serve {
            return Poll::Ready(None);
        }
        let mut byte = [0];
        let mut byte = ReadBuf::new(&mut byte);
        let peeked = ready!(stream.poll_peek(cx, &mut byte));
        Poll::Ready(peeked.ok().and_then(|_| byte.filled().first().copied()))
    })
    .await
}
