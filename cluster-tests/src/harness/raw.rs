//! HTTP/1 over a bare socket, for requests that a well-behaved client doesn't send: invalid paths,
//! repeated headers, partial requests, pipelined ones.

use std::io;
use std::net::{Ipv4Addr, SocketAddr};
use std::time::{Duration, Instant};

use bytes::Bytes;
use http::{HeaderName, HeaderValue, Version};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpSocket, TcpStream};
use tokio::time::timeout;

use super::answer::Answer;

/// Longer than the server may take to send any byte.
const PATIENCE: Duration = Duration::from_secs(30);

/// A request whose every byte the test decides.
#[derive(Clone, Debug)]
pub struct RawRequest {
    head: Vec<u8>,
    body: Vec<u8>,
    is_head: bool,
}

impl RawRequest {
    /// Creates a request for `target`, as it is, with a `Host` header.
    pub fn new(method: &str, target: &str) -> Self {
        Self::with_line(&format!("{method} {target} HTTP/1.1")).header("Host", "localhost")
    }

    /// Creates a request with this first line and no header yet.
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

    /// Adds a chunked body with these chunks, and the final one.
    pub fn chunked(self, chunks: &[&[u8]]) -> Self {
        let mut request = self.header("Transfer-Encoding", "chunked");
        for data in chunks {
            request.body.extend_from_slice(&chunk(data));
        }
        request.body.extend_from_slice(&chunk(b""));
        request
    }

    /// Adds bytes after the headers without a `Content-Length`.
    pub fn trailing(mut self, bytes: &[u8]) -> Self {
        self.body.extend_from_slice(bytes);
        self
    }

    /// Returns the request's bytes.
    pub fn bytes(&self) -> Vec<u8> {
        [self.head.as_slice(), b"\r\n", &self.body].concat()
    }

    /// Sends the request over a new connection and reads the response.
    ///
    /// # Panics
    /// Panics if no complete response arrives.
    pub async fn send(&self, address: SocketAddr) -> Answer {
        match self.try_send(address).await {
            Ending::Answer(response) => response,
            other => panic!(
                "no response to {:?}: {other:?}",
                String::from_utf8_lossy(&self.head)
            ),
        }
    }

    /// Sends the request over a new connection and reads what arrives.
    pub async fn try_send(&self, address: SocketAddr) -> Ending {
        let mut connection = Connection::open(address).await;
        connection.send(self).await
    }
}

/// Encodes one chunk of a chunked body; an empty one ends it.
pub fn chunk(data: &[u8]) -> Vec<u8> {
    [format!("{:x}\r\n", data.len()).as_bytes(), data, b"\r\n"].concat()
}

/// Outcome of reading a response from a connection.
#[derive(Clone, Debug)]
pub enum Ending {
    /// A complete response.
    Answer(Answer),
    /// The connection was closed, or reset, before the first byte of a response.
    Closed,
    /// The connection ended in the middle of a response, or the bytes aren't HTTP.
    Broken(String),
}

impl Ending {
    /// Asserts that the server refused: with one of these statuses, or by closing.
    #[track_caller]
    pub fn refused(&self, statuses: &[u16]) {
        match self {
            Self::Answer(response) => assert!(statuses.contains(&response.status), "{response:?}"),
            Self::Closed => {}
            Self::Broken(reason) => panic!("neither a response nor a close: {reason}"),
        }
    }
}

/// A TCP connection that carries any bytes that the test writes.
#[derive(Debug)]
pub struct Connection {
    stream: TcpStream,
    /// Bytes that were read and not yet parsed.
    read: Vec<u8>,
}

impl Connection {
    /// Connects.
    ///
    /// # Panics
    /// Panics if nobody listens.
    pub async fn open(address: SocketAddr) -> Self {
        Self::try_open(address).await.expect("connect to the node")
    }

    /// Connects, where that may fail.
    ///
    /// # Errors
    /// Returns an error if nobody listens.
    pub async fn try_open(address: SocketAddr) -> io::Result<Self> {
        let stream = TcpStream::connect(address).await?;
        stream.set_nodelay(true)?;
        Ok(Self {
            stream,
            read: vec![],
        })
    }

    /// Connects from an address of this machine: each of 127.0.0.0/8 counts as another client.
    ///
    /// # Panics
    /// Panics if nobody listens.
    pub async fn open_from(local: Ipv4Addr, address: SocketAddr) -> Self {
        let stream = connect_from(local, address).await.expect("connect");
        Self {
            stream,
            read: vec![],
        }
    }

    /// Writes bytes. A server that has closed is no error here: reading reports it.
    pub async fn write(&mut self, bytes: &[u8]) {
        let _ = self.stream.write_all(bytes).await;
    }

    /// Shuts down the sending half.
    pub async fn finish(&mut self) {
        let _ = self.stream.shutdown().await;
    }

    /// Sends a request and reads its response.
    pub async fn send(&mut self, request: &RawRequest) -> Ending {
        self.write(&request.bytes()).await;
        self.receive(request.is_head).await
    }

    /// Reads a response; interim ones (1xx) are skipped.
    pub async fn receive(&mut self, is_head: bool) -> Ending {
        loop {
            match self.receive_any(is_head).await {
                Ending::Answer(response) if response.status < 200 => {}
                outcome => return outcome,
            }
        }
    }

    /// Reads a response if it begins within this time; interim ones (1xx) are skipped.
    pub async fn receive_within(&mut self, limit: Duration) -> Option<Ending> {
        if self.read.is_empty() {
            let read = timeout(limit, self.stream.read_buf(&mut self.read)).await;
            if !read.ok()?.is_ok_and(|count| count > 0) {
                return Some(Ending::Closed);
            }
        }
        Some(self.receive(false).await)
    }

    /// Reads a response, interim ones included.
    pub async fn receive_any(&mut self, is_head: bool) -> Ending {
        let started = Instant::now();
        let mut is_open = true;
        loop {
            match parse(&self.read, is_head, is_open) {
                Parsed::Whole(mut response, length) => {
                    self.read.drain(..length);
                    response.took = started.elapsed();
                    return Ending::Answer(response);
                }
                Parsed::Partial if is_open => is_open = self.fill().await,
                Parsed::Partial if self.read.is_empty() => return Ending::Closed,
                Parsed::Partial => return self.broken("truncated response"),
                Parsed::Invalid(reason) => return self.broken(&reason),
            }
        }
    }

    /// Returns whether the server closes within this time, without another byte.
    pub async fn closes_within(&mut self, limit: Duration) -> bool {
        self.read.is_empty()
            && timeout(limit, self.fill()).await == Ok(false)
            && self.read.is_empty()
    }

    /// Reads more; returns false at the end of the stream, which includes a reset.
    async fn fill(&mut self) -> bool {
        let read = timeout(PATIENCE, self.stream.read_buf(&mut self.read)).await;
        let read = read.unwrap_or_else(|_| panic!("no byte came for {PATIENCE:?}"));
        read.is_ok_and(|count| count > 0)
    }

    fn broken(&self, reason: &str) -> Ending {
        Ending::Broken(format!("{reason}: {:?}", String::from_utf8_lossy(&self.read)))
    }
}

/// Connects from an address of this machine.
pub(super) async fn connect_from(local: Ipv4Addr, address: SocketAddr) -> io::Result<TcpStream> {
    let socket = TcpSocket::new_v4()?;
    socket.bind((local, 0).into())?;
    let stream = socket.connect(address).await?;
    stream.set_nodelay(true)?;
    Ok(stream)
}

enum Parsed {
    /// The response and its length in bytes.
    Whole(Answer, usize),
    Partial,
    Invalid(String),
}

fn parse(bytes: &[u8], is_head: bool, is_open: bool) -> Parsed {
    let mut slots = [httparse::EMPTY_HEADER; 64];
    let mut head = httparse::Response::new(&mut slots);
    let body_starts = match head.parse(bytes) {
        Ok(httparse::Status::Complete(length)) => length,
        Ok(httparse::Status::Partial) => return Parsed::Partial,
        Err(error) => return Parsed::Invalid(error.to_string()),
    };
    let response = Answer {
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
    match body(&response, &bytes[body_starts..], is_head, is_open) {
        Body::Whole(body, length) => Parsed::Whole(Answer { body, ..response }, body_starts + length),
        Body::Partial => Parsed::Partial,
        Body::Invalid => Parsed::Invalid("invalid chunks".into()),
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
    /// The body and its encoded length in bytes.
    Whole(Bytes, usize),
    Partial,
    Invalid,
}

fn body(response: &Answer, bytes: &[u8], is_head: bool, is_open: bool) -> Body {
    if is_head || response.status < 200 || matches!(response.status, 204 | 304) {
        return Body::Whole(Bytes::new(), 0);
    }
    if response.find_header("transfer-encoding") == Some("chunked") {
        return dechunk(bytes);
    }
    let Some(length) = response.find_header("content-length") else {
        // The body ends where the connection does.
        let all = Body::Whole(Bytes::copy_from_slice(bytes), bytes.len());
        return if is_open { Body::Partial } else { all };
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
            Ok(httparse::Status::Complete(parsed)) => parsed,
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
