//! How the connections of a port are encrypted.
//!
//! A node's public port speaks plain HTTP with users, whose TLS ends at a router or another proxy in
//! front. What routers pass on to it goes encrypted, by the cluster's certificates, on the same port:
//! so one address is enough, and a stop drains all connections in the same order.
//!
//! Invariant: of an encrypted connection for routers nothing is read before the other end has shown
//! a certificate of the cluster's CA.

use std::future::poll_fn;
use std::sync::Arc;
use std::task::{Poll, ready};

use arc_swap::ArcSwap;
use cloudkv_proto::tls::Tls;
use tokio::io::ReadBuf;
use tokio::net::TcpStream;
use tokio_rustls::TlsAcceptor;
use tokio_rustls::rustls::ServerConfig;

use crate::server::conn::pulse::{Order, Pulse};

/// What every TLS connection begins with: a record of a handshake (RFC 8446, 5.1). No method of
/// HTTP does.
const HANDSHAKE: u8 = 22;

/// What connections are encrypted with; what is put there counts for new connections.
pub type TlsSettings = Arc<ArcSwap<ServerConfig>>;

/// Which connections are encrypted, and how.
#[derive(Clone, Debug)]
pub enum Encryption {
    /// None.
    Off,
    /// All.
    Always(TlsSettings),
    /// Those that begin with a handshake, by the cluster's certificates: those of routers.
    Routers(Arc<Tls>),
}

/// How a connection begins.
pub(super) enum Opening {
    /// As it is.
    Clear,
    /// With a handshake.
    Handshake(TlsAcceptor),
    /// Not at all: it ends before its first byte.
    Ended,
}

impl Encryption {
    /// Whether a port may say something before a handshake.
    pub(super) fn allows_clear(&self) -> bool {
        match self {
            Self::Off | Self::Routers(_) => true,
            Self::Always(_) => false,
        }
    }

    /// How a new connection begins. Waits for its first byte where that must tell, or for an order
    /// to end: a connection that is silent is as idle as any.
    pub(super) async fn opening(&self, stream: &TcpStream, pulse: &Pulse) -> Opening {
        match self {
            Self::Off => Opening::Clear,
            Self::Always(tls) => Opening::Handshake(TlsAcceptor::from(tls.load_full())),
            Self::Routers(tls) => match first_byte(stream, pulse).await {
                Some(HANDSHAKE) => Opening::Handshake(tls.http_acceptor()),
                Some(_) => Opening::Clear,
                None => Opening::Ended,
            },
        }
    }
}

/// The first byte that comes, which stays where it is.
async fn first_byte(stream: &TcpStream, pulse: &Pulse) -> Option<u8> {
    poll_fn(|cx| {
        pulse.register(cx.waker());
        if pulse.order() != Order::Serve {
            return Poll::Ready(None);
        }
        let mut byte = [0];
        let mut byte = ReadBuf::new(&mut byte);
        let peeked = ready!(stream.poll_peek(cx, &mut byte));
        Poll::Ready(peeked.ok().and_then(|_| byte.filled().first().copied()))
    })
    .await
}
