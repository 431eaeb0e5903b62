//! Connection between two programs of the cluster, encrypted or not.

use std::io::{self, IoSlice};
use std::pin::Pin;
use std::task::{Context, Poll};

use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::net::TcpStream;
use tokio_rustls::TlsStream;
use tonic::transport::server::Connected;

use super::peer::PeerIdentity;

/// Connection to a node, or from a node or router.
#[derive(Debug)]
pub struct PeerStream {
    io: Io,
    peer: PeerIdentity,
}

#[derive(Debug)]
enum Io {
    Plain(TcpStream),
    Encrypted(Box<TlsStream<TcpStream>>),
}

impl PeerStream {
    pub(super) fn plain(tcp: TcpStream) -> Self {
        Self {
            io: Io::Plain(tcp),
            peer: PeerIdentity::Local,
        }
    }

    pub(super) fn encrypted(tls: TlsStream<TcpStream>, peer: PeerIdentity) -> Self {
        Self {
            io: Io::Encrypted(Box::new(tls)),
            peer,
        }
    }
}

impl Connected for PeerStream {
    type ConnectInfo = PeerIdentity;

    fn connect_info(&self) -> PeerIdentity {
        self.peer.clone()
    }
}

/// Forwards a call to the connection, encrypted or not.
macro_rules! on_io {
    ($stream:expr, $io:ident => $call:expr) => {
        match &mut $stream.get_mut().io {
            Io::Plain(tcp) => {
                let $io = Pin::new(tcp);
                $call
            }
            Io::Encrypted(tls) => {
                let $io = Pin::new(tls);
                $call
            }
        }
    };
}

impl AsyncRead for PeerStream {
    fn poll_read(
        self: Pin<&mut Self>,
        context: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        on_io!(self, io => io.poll_read(context, buffer))
    }
}

impl AsyncWrite for PeerStream {
    fn poll_write(
        self: Pin<&mut Self>,
        context: &mut Context<'_>,
        bytes: &[u8],
    ) -> Poll<io::Result<usize>> {
        on_io!(self, io => io.poll_write(context, bytes))
    }

    fn poll_write_vectored(
        self: Pin<&mut Self>,
        context: &mut Context<'_>,
        slices: &[IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        on_io!(self, io => io.poll_write_vectored(context, slices))
    }

    fn is_write_vectored(&self) -> bool {
        match &self.io {
            Io::Plain(tcp) => tcp.is_write_vectored(),
            Io::Encrypted(tls) => tls.is_write_vectored(),
        }
    }

    fn poll_flush(self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        on_io!(self, io => io.poll_flush(context))
    }

    fn poll_shutdown(self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        on_io!(self, io => io.poll_shutdown(context))
    }
}
