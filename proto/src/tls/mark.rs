//! The mark at the beginning of a connection for Raft.
//!
//! Which threads serve a connection is decided when it comes in, before a word of gRPC is read, and
//! Raft has threads of its own: its messages must not wait behind users' requests, nor theirs change
//! threads twice on their way through its. So who dials for Raft says so first. Any other connection
//! begins with TLS or HTTP/2 at once, neither of which can be taken for the mark.

use std::io;

use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;

const MARK: [u8; 8] = *b"RAFT/1\r\n";

/// Marks a connection that was just made.
pub(super) async fn write(tcp: &mut TcpStream) -> io::Result<()> {
    tcp.write_all(&MARK).await
}

/// Whether a connection that came in is marked. Takes nothing but the mark from it.
pub(super) async fn read(tcp: &mut TcpStream) -> io::Result<bool> {
    let mut first = [0];
    if tcp.peek(&mut first).await? == 0 {
        return Err(io::ErrorKind::UnexpectedEof.into());
    }
    if first[0] != MARK[0] {
        return Ok(false);
    }
    let mut mark = [0; MARK.len()];
    tcp.read_exact(&mut mark).await?;
    if mark == MARK {
        Ok(true)
    } else {
        Err(io::Error::new(
            io::ErrorKind::InvalidData,
            "it begins with neither TLS nor HTTP/2",
        ))
    }
}

#[cfg(test)]
mod tests {
    use tokio::net::TcpListener;

    use super::*;

    /// What is read of a connection that begins with `bytes`, and what is left of them.
    async fn begun_with(bytes: &[u8]) -> (io::Result<bool>, Vec<u8>) {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        let mut dialled = TcpStream::connect(address).await.unwrap();
        dialled.write_all(bytes).await.unwrap();
        drop(dialled);
        let (mut tcp, _) = listener.accept().await.unwrap();
        let marked = read(&mut tcp).await;
        let mut left = Vec::new();
        tcp.read_to_end(&mut left).await.unwrap();
        (marked, left)
    }

    #[tokio::test]
    async fn only_the_mark_is_taken() {
        let (marked, left) = begun_with(b"RAFT/1\r\nPRI * HTTP/2.0").await;
        assert!(marked.unwrap());
        assert_eq!(left, b"PRI * HTTP/2.0");
        for begin in [&b"PRI * HTTP/2.0"[..], b"\x16\x03\x01", b"x"] {
            let (marked, left) = begun_with(begin).await;
            assert!(!marked.unwrap());
            assert_eq!(left, begin);
        }
        for begin in [&b""[..], b"RAFT", b"RAFT/2\r\n", b"RANDOM BYTES"] {
            assert!(begun_with(begin).await.0.is_err(), "{begin:?}");
        }
    }
}
