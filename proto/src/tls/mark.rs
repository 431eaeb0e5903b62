//! The mark at the beginning of a connection of which there are many, or that is busy.
//!
//! What a connection is for is decided when it comes in, before all else. Raft has threads of its own:
//! its messages must not wait behind users' requests, nor theirs change threads twice on their way
//! through its. Connections for users' requests are spread evenly over users' threads, whatever else is
//! called. And on a router's frames follow, without HTTP/2 around them. So who dials for one of these
//! says so first. Any other connection begins with TLS or HTTP/2 at
//! once, neither of which can be taken for a mark.

use std::io;

use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;

/// What a marked connection is for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Purpose {
    /// gRPC, on Raft's threads.
    Raft,
    /// gRPC, for users' requests that another node passes on.
    Keys,
    /// Frames of users' requests, by way of a router.
    Users,
}

impl Purpose {
    const ALL: [Self; 3] = [Self::Raft, Self::Keys, Self::Users];

    fn mark(self) -> [u8; 8] {
        match self {
            Self::Raft => *b"RAFT/1\r\n",
            Self::Keys => *b"KEYS/1\r\n",
            Self::Users => *b"USER/1\r\n",
        }
    }
}

/// Marks a connection that was just made.
pub(super) async fn write(tcp: &mut TcpStream, purpose: Purpose) -> io::Result<()> {
    tcp.write_all(&purpose.mark()).await
}

/// What a connection that came in is marked for. Takes nothing but the mark from it.
pub(super) async fn read(tcp: &mut TcpStream) -> io::Result<Option<Purpose>> {
    let mut first = [0];
    if tcp.peek(&mut first).await? == 0 {
        return Err(io::ErrorKind::UnexpectedEof.into());
    }
    let mut marks = Purpose::ALL.into_iter();
    if !marks.any(|purpose| purpose.mark()[0] == first[0]) {
        return Ok(None);
    }
    let mut mark = [0; 8];
    tcp.read_exact(&mut mark).await?;
    let mut marks = Purpose::ALL.into_iter();
    let purpose = marks.find(|purpose| purpose.mark() == mark);
    purpose.map(Some).ok_or_else(|| {
        io::Error::new(
            io::ErrorKind::InvalidData,
            "it begins with neither TLS nor HTTP/2",
        )
    })
}

#[cfg(test)]
mod tests {
    use tokio::net::TcpListener;

    use super::*;

    /// What is read of a connection that begins with `bytes`, and what is left of them.
    async fn begun_with(bytes: &[u8]) -> (io::Result<Option<Purpose>>, Vec<u8>) {
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
        assert_eq!(marked.unwrap(), Some(Purpose::Raft));
        assert_eq!(left, b"PRI * HTTP/2.0");
        let (marked, left) = begun_with(b"KEYS/1\r\nPRI * HTTP/2.0").await;
        assert_eq!(marked.unwrap(), Some(Purpose::Keys));
        assert_eq!(left, b"PRI * HTTP/2.0");
        let (marked, left) = begun_with(b"USER/1\r\n\0\0\0\0").await;
        assert_eq!(marked.unwrap(), Some(Purpose::Users));
        assert_eq!(left, b"\0\0\0\0");
        for begin in [&b"PRI * HTTP/2.0"[..], b"\x16\x03\x01", b"x"] {
            let (marked, left) = begun_with(begin).await;
            assert_eq!(marked.unwrap(), None);
            assert_eq!(left, begin);
        }
        for begin in [
            &b""[..],
            b"RAFT",
            b"RAFT/2\r\n",
            b"USER/1\n\n",
            b"RANDOM BYTES",
        ] {
            assert!(begun_with(begin).await.0.is_err(), "{begin:?}");
        }
    }
}
