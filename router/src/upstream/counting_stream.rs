//! A connection to a node that counts the bytes it accepts.
//!
//! A node may respond and close the connection while it is still being written to. Then writing
//! fails, but the response can be read, and says more than the failure: so a write to a closed
//! connection isn't an error here, and reading shows whether there was a response.

use std::io::{self, IoSlice};
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::task::{Context, Poll};

use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};

/// Number of bytes that a connection has accepted.
#[derive(Clone, Debug, Default)]
pub(super) struct AcceptedBytes(Arc<AtomicU64>);

impl AcceptedBytes {
    /// Returns the number of bytes so far.
    pub(super) fn count(&self) -> u64 {
        self.0.load(Ordering::Acquire)
    }
}

/// A connection that counts accepted bytes, and can be read after the peer has closed it.
#[derive(Debug)]
pub(super) struct CountingStream<S> {
    stream: S,
    accepted: AcceptedBytes,
    is_closed: bool,
}

impl<S> CountingStream<S> {
    pub(super) fn new(stream: S, accepted: AcceptedBytes) -> Self {
        Self {
            stream,
            accepted,
            is_closed: false,
        }
    }

    /// Translates the result of writing `length` bytes.
    fn write_result(
        &mut self,
        result: Poll<io::Result<usize>>,
        length: usize,
    ) -> Poll<io::Result<usize>> {
        match result {
            Poll::Ready(Ok(count)) => {
                self.accepted.0.fetch_add(count as u64, Ordering::Release);
                Poll::Ready(Ok(count))
            }
            Poll::Ready(Err(error)) if is_closed_by_peer(&error) => {
                self.is_closed = true;
                Poll::Ready(Ok(length))
            }
            other => other,
        }
    }

    /// Translates the result of a flush or a shutdown.
    fn close_result(&mut self, result: Poll<io::Result<()>>) -> Poll<io::Result<()>> {
        match result {
            Poll::Ready(Err(error)) if is_closed_by_peer(&error) => {
                self.is_closed = true;
                Poll::Ready(Ok(()))
            }
            other => other,
        }
    }
}

/// Returns whether a write error only means that the peer has closed the connection.
fn is_closed_by_peer(error: &io::Error) -> bool {
    matches!(
        error.kind(),
        io::ErrorKind::BrokenPipe | io::ErrorKind::ConnectionReset
    )
}

impl<S: AsyncRead + Unpin> AsyncRead for CountingStream<S> {
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_read(cx, buf)
    }
}

impl<S: AsyncWrite + Unpin> AsyncWrite for CountingStream<S> {
    fn poll_write(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &[u8],
    ) -> Poll<io::Result<usize>> {
        if self.is_closed {
            return Poll::Ready(Ok(buf.len()));
        }
        let result = Pin::new(&mut self.stream).poll_write(cx, buf);
        self.write_result(result, buf.len())
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bufs: &[IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        let length = bufs.iter().map(|buf| buf.len()).sum();
        if self.is_closed {
            return Poll::Ready(Ok(length));
        }
        let result = Pin::new(&mut self.stream).poll_write_vectored(cx, bufs);
        self.write_result(result, length)
    }

    fn is_write_vectored(&self) -> bool {
        self.stream.is_write_vectored()
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        if self.is_closed {
            return Poll::Ready(Ok(()));
        }
        let result = Pin::new(&mut self.stream).poll_flush(cx);
        self.close_result(result)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        if self.is_closed {
            return Poll::Ready(Ok(()));
        }
        let result = Pin::new(&mut self.stream).poll_shutdown(cx);
        self.close_result(result)
    }
}

#[cfg(test)]
mod tests {
    use tokio::io::{AsyncReadExt, AsyncWriteExt};
    use tokio::net::{TcpListener, TcpStream};

    use super::*;

    #[tokio::test]
    async fn a_response_is_read_although_writing_fails() {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        let (client, accepted) = tokio::join!(TcpStream::connect(address), listener.accept());
        let accepted_bytes = AcceptedBytes::default();
        let mut stream = CountingStream::new(client.unwrap(), accepted_bytes.clone());
        let (mut server, _) = accepted.unwrap();
        stream.write_all(b"a request").await.unwrap();
        server.write_all(b"no").await.unwrap();
        // With bytes unread, closing resets the connection.
        server.readable().await.unwrap();
        drop(server);
        stream.stream.readable().await.unwrap();
        while !stream.is_closed {
            stream.write_all(&[0; 4096]).await.unwrap();
        }
        let mut response = [0; 2];
        stream.read_exact(&mut response).await.unwrap();
        assert_eq!(&response, b"no");
        assert!(accepted_bytes.count() >= 9);
        let before = accepted_bytes.count();
        stream.write_all(b"more").await.unwrap();
        stream.flush().await.unwrap();
        assert_eq!(accepted_bytes.count(), before);
    }
}
