//! HTTP/1 over a bare socket, for what a well-behaved client doesn't send: odd paths, repeated
//! headers, half a request, several at once.

use std::io;
use std::net::{Ipv4Addr, SocketAddr};
use std::time::{Duration, Instant};

use bytes::Bytes;
use http::{HeaderName, HeaderValue, Version};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpSocket, TcpStream};
use tokio::time::timeout;

use super::answer::Answer;

/// Longer than any answer may take, of those that are asked for here.
const PATIENCE: Duration = Duration::from_secs(30);

/// A request whose every byte is the test's own.
#[derive(Clone, Debug)]
pub struct RawRequest {
    head: Vec<u8>,
    body: Vec<u8>,
    is_head: bool,
}

impl RawRequest {
    /// A request for `target`, as it is, with a `Host` header.
    pub fn new(method: &str, target: &str) -> Self {
        Self::with_line(&format!("{method} {target} HTTP/1.1")).header("Host", "localhost")
    }

    /// A request with this first line and no header yet.
    pub fn with_line(line: &str) -> Self {
        let is_head = line.starts_with("HEAD ");
        Self {
            head: format!("{line}\r\n").into_bytes(),
            body: vec![],
            is_head,
        }
    }

    /// Adds a header.
    pub fn header(mut self, name: &str, value: &str) -> Self {
        self.head
            .extend_from_slice(format!("{name}: {value}\r\n").as_bytes());
        self
    }

    /// Adds a body, and its `Content-Length`.
    pub fn body(mut self, body: &[u8]) -> Self {
        self = self.header("Content-Length", &body.len().to_string());
        self.body.extend_from_slice(body);
        self
    }

    /// Adds a body in these chunks, which end where the body does.
    pub fn chunked(self, chunks: &[&[u8]]) -> Self {
        let mut request = self.header("Transfer-Encoding", "chunked");
        for data in chunks {
            request.body.extend_from_slice(&chunk(data));
        }
        request.body.extend_from_slice(&chunk(b""));
        request
    }

    /// Adds bytes after the headers without saying how many.
    pub fn trailing(mut self, bytes: &[u8]) -> Self {
        self.body.extend_from_slice(bytes);
        self
    }

    /// The request as it goes over the wire.
    pub fn bytes(&self) -> Vec<u8> {
        [self.head.as_slice(), b"\r\n", &self.body].concat()
    }

    /// Sends it over a connection of its own and reads the answer.
    ///
    /// # Panics
    /// When no whole answer comes.
    pub async fn send(&self, address: SocketAddr) -> Answer {
        match self.try_send(address).await {
            Ending::Answer(answer) => answer,
            other => panic!(
                "no answer to {:?}: {other:?}",
                String::from_utf8_lossy(&self.head)
            ),
        }
    }

    /// Sends it over a connection of its own and reads what comes.
    pub async fn try_send(&self, address: SocketAddr) -> Ending {
        let mut connection = Connection::open(address).await;
        connection.send(self).await
    }
}

/// One chunk of a chunked body; an empty one ends it.
pub fn chunk(data: &[u8]) -> Vec<u8> {
    [format!("{:x}\r\n", data.len()).as_bytes(), data, b"\r\n"].concat()
}

/// What came over a connection in place of, or as, an answer.
#[derive(Clone, Debug)]
pub enum Ending {
    /// A whole answer.
    Answer(Answer),
    /// The connection was closed, or reset, before the first byte of an answer.
    Closed,
    /// The connection ended in the middle of an answer, or what came isn't HTTP.
    Broken(String),
}

impl Ending {
    /// Asserts that the server refused: with one of these statuses, or by closing.
    #[track_caller]
    pub fn refused(&self, statuses: &[u16]) {
        match self {
            Self::Answer(answer) => assert!(statuses.contains(&answer.status), "{answer:?}"),
            Self::Closed => {}
            Self::Broken(what) => panic!("neither an answer nor a close: {what}"),
        }
    }
}

/// A connection that carries whatever the test writes.
#[derive(Debug)]
pub struct Connection {
    stream: TcpStream,
    /// What was read, and belongs to no answer yet.
    read: Vec<u8>,
}

impl Connection {
    /// Connects.
    ///
    /// # Panics
    /// When nobody listens.
    pub async fn open(address: SocketAddr) -> Self {
        Self::try_open(address).await.expect("connect to the node")
    }

    /// Connects, where it may fail.
    ///
    /// # Errors
    /// When nobody listens.
    pub async fn try_open(address: SocketAddr) -> io::Result<Self> {
        let stream = TcpStream::connect(address).await?;
        stream.set_nodelay(true)?;
        Ok(Self {
            stream,
            read: vec![],
        })
    }

    /// Connects from an address of this machine: each of 127.0.0.0/8 is another client.
    ///
    /// # Panics
    /// When nobody listens.
    pub async fn open_from(from: Ipv4Addr, address: SocketAddr) -> Self {
        let stream = connect_from(from, address).await.expect("connect");
        Self {
            stream,
            read: vec![],
        }
    }

    /// Writes bytes. A server that has closed is no error here: the answer tells.
    pub async fn write(&mut self, bytes: &[u8]) {
        let _ = self.stream.write_all(bytes).await;
    }

    /// Closes the half that writes.
    pub async fn finish(&mut self) {
        let _ = self.stream.shutdown().await;
    }

    /// Sends a request and reads its answer.
    pub async fn send(&mut self, request: &RawRequest) -> Ending {
        self.write(&request.bytes()).await;
        self.receive(request.is_head).await
    }

    /// Reads an answer; interim ones (1xx) are skipped.
    pub async fn receive(&mut self, to_head: bool) -> Ending {
        loop {
            match self.receive_any(to_head).await {
                Ending::Answer(answer) if answer.status < 200 => {}
                ending => return ending,
            }
        }
    }

    /// Reads an answer if it begins within this time; interim ones (1xx) are skipped.
    pub async fn receive_within(&mut self, time: Duration) -> Option<Ending> {
        if self.read.is_empty() {
            let read = timeout(time, self.stream.read_buf(&mut self.read)).await;
            if !read.ok()?.is_ok_and(|count| count > 0) {
                return Some(Ending::Closed);
            }
        }
        Some(self.receive(false).await)
    }

    /// Reads an answer, interim ones included.
    pub async fn receive_any(&mut self, to_head: bool) -> Ending {
        let started = Instant::now();
        let mut open = true;
        loop {
            match parse(&self.read, to_head, open) {
                Parsed::Whole(mut answer, length) => {
                    self.read.drain(..length);
                    answer.took = started.elapsed();
                    return Ending::Answer(answer);
                }
                Parsed::Partial if open => open = self.fill().await,
                Parsed::Partial if self.read.is_empty() => return Ending::Closed,
                Parsed::Partial => return self.broken("it ends in the middle"),
                Parsed::Invalid(why) => return self.broken(&why),
            }
        }
    }

    /// Whether the server closes within this time, without another byte.
    pub async fn closes_within(&mut self, time: Duration) -> bool {
        self.read.is_empty()
            && timeout(time, self.fill()).await == Ok(false)
            && self.read.is_empty()
    }

    /// Reads more; false at the end of the stream, which a reset is, too.
    async fn fill(&mut self) -> bool {
        let read = timeout(PATIENCE, self.stream.read_buf(&mut self.read)).await;
        let read = read.unwrap_or_else(|_| panic!("no byte came for {PATIENCE:?}"));
        read.is_ok_and(|count| count > 0)
    }

    fn broken(&self, why: &str) -> Ending {
        Ending::Broken(format!("{why}: {:?}", String::from_utf8_lossy(&self.read)))
    }
}

/// Connects from an address of this machine.
pub(super) async fn connect_from(from: Ipv4Addr, address: SocketAddr) -> io::Result<TcpStream> {
    let socket = TcpSocket::new_v4()?;
    socket.bind((from, 0).into())?;
    let stream = socket.connect(address).await?;
    stream.set_nodelay(true)?;
    Ok(stream)
}

enum Parsed {
    /// An answer and the number of bytes that it took.
    Whole(Answer, usize),
    Partial,
    Invalid(String),
}

fn parse(bytes: &[u8], to_head: bool, open: bool) -> Parsed {
    let mut slots = [httparse::EMPTY_HEADER; 64];
    let mut head = httparse::Response::new(&mut slots);
    let body_starts = match head.parse(bytes) {
        Ok(httparse::Status::Complete(length)) => length,
        Ok(httparse::Status::Partial) => return Parsed::Partial,
        Err(error) => return Parsed::Invalid(error.to_string()),
    };
    let answer = Answer {
        status: head.code.unwrap_or_default(),
        version: if head.version == Some(0) {
            Version::HTTP_10
        } else {
            Version::HTTP_11
        },
        headers: head.headers.iter().map(own_header).collect(),
        body: Bytes::new(),
        took: Duration::ZERO,
    };
    match body(&answer, &bytes[body_starts..], to_head, open) {
        Body::Whole(body, length) => Parsed::Whole(Answer { body, ..answer }, body_starts + length),
        Body::Partial => Parsed::Partial,
        Body::Invalid => Parsed::Invalid("its chunks are broken".into()),
    }
}

fn own_header(header: &httparse::Header<'_>) -> (HeaderName, HeaderValue) {
    let name = HeaderName::from_bytes(header.name.as_bytes()).expect("httparse checked the name");
    (
        name,
        HeaderValue::from_bytes(header.value).expect("httparse checked the value"),
    )
}

enum Body {
    /// The body and the number of bytes that it took.
    Whole(Bytes, usize),
    Partial,
    Invalid,
}

fn body(answer: &Answer, bytes: &[u8], to_head: bool, open: bool) -> Body {
    if to_head || answer.status < 200 || matches!(answer.status, 204 | 304) {
        return Body::Whole(Bytes::new(), 0);
    }
    if answer.find_header("transfer-encoding") == Some("chunked") {
        return dechunk(bytes);
    }
    let Some(length) = answer.find_header("content-length") else {
        // It goes on until the server closes.
        let all = Body::Whole(Bytes::copy_from_slice(bytes), bytes.len());
        return if open { Body::Partial } else { all };
    };
    match length.parse() {
        Ok(length) if bytes.len() < length => Body::Partial,
        Ok(length) => Body::Whole(Bytes::copy_from_slice(&bytes[..length]), length),
        Err(_) => Body::Invalid,
    }
}

fn dechunk(bytes: &[u8]) -> Body {
    let (mut body, mut at) = (vec![], 0);
    loop {
        let (line, size) = match httparse::parse_chunk_size(&bytes[at..]) {
            Ok(httparse::Status::Complete(found)) => found,
            Ok(httparse::Status::Partial) => return Body::Partial,
            Err(_) => return Body::Invalid,
        };
        let Ok(size) = usize::try_from(size) else {
            return Body::Invalid;
        };
        let starts = at + line;
        let Some(data) = bytes.get(starts..starts + size + 2) else {
            return Body::Partial;
        };
        at = starts + size + 2;
        match data.split_at(size) {
            ([], b"\r\n") => return Body::Whole(body.into(), at),
            (data, b"\r\n") => body.extend_from_slice(data),
            _ => return Body::Invalid,
        }
    }
}
