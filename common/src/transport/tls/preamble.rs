//! Preamble of a connection with a purpose of its own.
//!
//! The purpose of a connection is determined when it is accepted, before anything else. Raft has
//! threads of its own: its messages must not wait behind users' requests, and these must not change
//! threads twice on their way through Raft's. Connections for users' requests are spread evenly
//! over the worker threads, whatever other connections there are. And on a router's connection
//! frames follow, without HTTP/2. So the dialing end of these begins with a preamble. Any other
//! connection begins with TLS or HTTP/2 at once, neither of which can be mistaken for a preamble.

use std::io;

use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;

/// Purpose of a connection with a preamble.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum ConnectionPurpose {
    /// gRPC on Raft's threads.
    Raft,
    /// gRPC for users' requests that another node forwards.
    Forwarded,
    /// Frames of users' requests, from a router.
    Users,
}

impl ConnectionPurpose {
    const ALL: [Self; 3] = [Self::Raft, Self::Forwarded, Self::Users];

    fn preamble(self) -> [u8; 8] {
        match self {
            Self::Raft => *b"RAFT/1\r\n",
            Self::Forwarded => *b"KEYS/1\r\n",
            Self::Users => *b"USER/1\r\n",
        }
    }
}

/// Writes the preamble to a connection that was just established.
pub(super) async fn write(tcp: &mut TcpStream, purpose: ConnectionPurpose) -> io::Result<()> {
    tcp.write_all(&purpose.preamble()).await
}

/// Reads the purpose of an accepted connection; `None` without a preamble. Consumes nothing else.
pub(super) async fn read(tcp: &mut TcpStream) -> io::Result<Option<ConnectionPurpose>> {
    let mut first = [0];
    if tcp.peek(&mut first).await? == 0 {
        return Err(io::ErrorKind::UnexpectedEof.into());
    }
    let mut purposes = ConnectionPurpose::ALL.into_iter();
    if !purposes.any(|purpose| purpose.preamble()[0] == first[0]) {
        return Ok(None);
    }
    let mut preamble = [0; 8];
    tcp.read_exact(&mut preamble).await?;
    let mut purposes = ConnectionPurpose::ALL.into_iter();
    let purpose = purposes.find(|purpose| purpose.preamble() == preamble);
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

    /// Returns what is read of a connection that begins with `bytes`, and the rest of these.
    async fn read_beginning(bytes: &[u8]) -> (io::Result<Option<ConnectionPurpose>>, Vec<u8>) {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        let mut client = TcpStream::connect(address).await.unwrap();
        client.write_all(bytes).await.unwrap();
        drop(client);
        let (mut tcp, _) = listener.accept().await.unwrap();
        let purpose = read(&mut tcp).await;
        let mut rest = Vec::new();
        tcp.read_to_end(&mut rest).await.unwrap();
        (purpose, rest)
    }

    #[tokio::test]
    async fn only_the_preamble_is_consumed() {
        let (purpose, rest) = read_beginning(b"RAFT/1\r\nPRI * HTTP/2.0").await;
        assert_eq!(purpose.unwrap(), Some(ConnectionPurpose::Raft));
        assert_eq!(rest, b"PRI * HTTP/2.0");
        let (purpose, rest) = read_beginning(b"KEYS/1\r\nPRI * HTTP/2.0").await;
        assert_eq!(purpose.unwrap(), Some(ConnectionPurpose::Forwarded));
        assert_eq!(rest, b"PRI * HTTP/2.0");
        let (purpose, rest) = read_beginning(b"USER/1\r\n\0\0\0\0").await;
        assert_eq!(purpose.unwrap(), Some(ConnectionPurpose::Users));
        assert_eq!(rest, b"\0\0\0\0");
        for begin in [&b"PRI * HTTP/2.0"[..], b"\x16\x03\x01", b"x"] {
            let (purpose, rest) = read_beginning(begin).await;
            assert_eq!(purpose.unwrap(), None);
            assert_eq!(rest, begin);
        }
        for begin in [
            &b""[..],
            b"RAFT",
            b"RAFT/2\r\n",
            b"USER/1\n\n",
            b"RANDOM BYTES",
        ] {
            assert!(read_beginning(begin).await.0.is_err(), "{begin:?}");
        }
    }
}
