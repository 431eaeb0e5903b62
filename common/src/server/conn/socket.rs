//! Socket that records its activity, and lingers if bytes were left unread.

use std::io;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};

use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::net::TcpStream;

use crate::server::conn::linger::Lingerer;
use crate::server::conn::state::ConnectionState;

/// First bytes of an HTTP/2 connection; no method of HTTP/1 has this name.
const HTTP2_PREFACE: &[u8] = b"PRI ";

/// Client's socket, whose activity is recorded.
pub(crate) struct TrackedSocket {
    /// `Some` until it is dropped.
    stream: Option<TcpStream>,
    state: Arc<ConnectionState>,
    lingerer: Arc<Lingerer>,
    is_fresh: bool,
}

impl TrackedSocket {
    pub(crate) fn new(
        stream: TcpStream,
        state: Arc<ConnectionState>,
        lingerer: Arc<Lingerer>,
    ) -> Self {
        Self {
            stream: Some(stream),
            state,
            lingerer,
            is_fresh: true,
        }
    }

    fn stream(&mut self) -> io::Result<Pin<&mut TcpStream>> {
        self.stream
            .as_mut()
            .map(Pin::new)
            .ok_or_else(|| io::ErrorKind::NotConnected.into())
    }

    fn record_write(&self, result: &Poll<io::Result<usize>>) {
        match result {
            Poll::Ready(Ok(_)) => self.state.record_write(),
            Poll::Pending => self.state.record_write_blocked(),
            Poll::Ready(Err(_)) => {}
        }
    }
}

impl AsyncRead for TrackedSocket {
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        let before = buf.filled().len();
        let result = self.stream()?.poll_read(cx, buf);
        let new = &buf.filled()[before..];
        if !new.is_empty() {
            if std::mem::take(&mut self.is_fresh) && new.starts_with(HTTP2_PREFACE) {
                self.state.set_http2();
            }
            self.state.record_read();
        }
        result
    }
}

impl AsyncWrite for TrackedSocket {
    fn poll_write(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &[u8],
    ) -> Poll<io::Result<usize>> {
        let result = self.stream()?.poll_write(cx, buf);
        self.record_write(&result);
        result
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bufs: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        let result = self.stream()?.poll_write_vectored(cx, bufs);
        self.record_write(&result);
        result
    }

    fn is_write_vectored(&self) -> bool {
        true
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        self.stream()?.poll_flush(cx)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        self.stream()?.poll_shutdown(cx)
    }
}

impl Drop for TrackedSocket {
    fn drop(&mut self) {
        if self.state.should_linger()
            && let Some(stream) = self.stream.take()
        {
            self.lingerer.linger(stream);
        }
    }
}
