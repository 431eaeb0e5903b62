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

use super::response::HttpResponse;

/// Longer than the server may take to send any byte.
const READ_TIMEOUT: Duration = Duration::from_secs(30);

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
        Self::with_request_line(&format!("{method} {target} HTTP/1.1")).header("Host", "localhost")
    }

    /// Creates a request with this first line and no header yet.
    pub fn with_request_line(line: &str) -> Self {
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
    pub fn parse_body(mut self, body: &[u8]) -> Self {
        self = self.header("Content-Length", &body.len().to_string());
        self.body.extend_from_slice(body);
        self
    }

    /// Adds a chunked body with these chunks, and the final one.
    pub fn chunked(self, chunks: &[&[u8]]) -> Self {
        let mut request = self.header("Transfer-Encoding", "chunked");
        for data in chunks {
            request.body.extend_from_slice(&encode_chunk(data));
        }
        request.body.extend_from_slice(&encode_chunk(b""));
        request
    }

    /// Adds bytes after the headers without a `Content-Length`.
    pub fn raw_body(mut self, bytes: &[u8]) -> Self {
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
    pub async fn send(&self, address: SocketAddr) -> HttpResponse {
        match self.try_send(address).await {
            RawOutcome::Response(response) => response,
            other => panic!(
                "no response to {:?}: {other:?}",
                String::from_utf8_lossy(&self.head)
            ),
        }
    }

    /// Sends the request over a new connection and reads what arrives.
    pub async fn try_send(&self, address: SocketAddr) -> RawOutcome {
        let mut connection = RawConnection::open(address).await;
        connection.send(self).await
    }
}

/// Encodes one chunk of a chunked body; an empty one ends it.
pub fn encode_chunk(data: &[u8]) -> Vec<u8> {
    [format!("{:x}\r\n", data.len()).as_bytes(), data, b"\r\n"].concat()
}

/// Outcome of reading a response from a connection.
#[derive(Clone, Debug)]
pub enum RawOutcome {
    /// A complete response.
    Response(HttpResponse),
    /// The connection was closed, or reset, before the first byte of a response.
    Closed,
    /// The connection ended in the middle of a response, or the bytes aren't HTTP.
    Broken(String),
}

impl RawOutcome {
    /// Asserts that the server refused: with one of these statuses, or by closing.
    #[track_caller]
    pub fn assert_refused(&self, statuses: &[u16]) {
        match self {
            Self::Response(response) => {
                assert!(statuses.contains(&response.status), "{response:?}")
            }
            Self::Closed => {}
            Self::Broken(reason) => panic!("neither a response nor a close: {reason}"),
        }
    }
}

/// A TCP connection that carries any bytes that the test writes.
#[derive(Debug)]
pub struct RawConnection {
    stream: TcpStream,
    /// Bytes that were read and not yet parsed.
    buffer: Vec<u8>,
}

impl RawConnection {
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
            buffer: vec![],
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
            buffer: vec![],
        }
    }

    /// Writes bytes. A server that has closed is no error here: reading reports it.
    pub async fn write(&mut self, bytes: &[u8]) {
        let _ = self.stream.write_all(bytes).await;
    }

    /// Shuts down the sending half.
    pub async fn shutdown_write(&mut self) {
        let _ = self.stream.shutdown().await;
    }

    /// Sends a request and reads its response.
    pub async fn send(&mut self, request: &RawRequest) -> RawOutcome {
        self.write(&request.bytes()).await;
        self.receive(request.is_head).await
    }

    /// Reads a response; interim ones (1xx) are skipped.
    pub async fn receive(&mut self, is_head: bool) -> RawOutcome {
        loop {
            match self.receive_with_interim(is_head).await {
                RawOutcome::Response(response) if response.status < 200 => {}
                outcome => return outcome,
            }
        }
    }

    /// Reads a response if it begins within this time; interim ones (1xx) are skipped.
    pub async fn receive_within(&mut self, limit: Duration) -> Option<RawOutcome> {
        if self.buffer.is_empty() {
            let read = timeout(limit, self.stream.read_buf(&mut self.buffer)).await;
            if !read.ok()?.is_ok_and(|count| count > 0) {
                return Some(RawOutcome::Closed);
            }
        }
        Some(self.receive(false).await)
    }

    /// Reads a response, interim ones included.
    pub async fn receive_with_interim(&mut self, is_head: bool) -> RawOutcome {
        let started = Instant::now();
        let mut is_open = true;
        loop {
            match parse_response(&self.buffer, is_head, is_open) {
                ParsedResponse::Complete(mut response, length) => {
                    self.buffer.drain(..length);
                    response.elapsed = started.elapsed();
                    return RawOutcome::Response(response);
                }
                ParsedResponse::Partial if is_open => is_open = self.read_more().await,
                ParsedResponse::Partial if self.buffer.is_empty() => return RawOutcome::Closed,
                ParsedResponse::Partial => return self.broken("truncated response"),
                ParsedResponse::Invalid(reason) => return self.broken(&reason),
            }
        }
    }

    /// Returns whether the server closes within this time, without another byte.
    pub async fn is_closed_within(&mut self, limit: Duration) -> bool {
        self.buffer.is_empty()
            && timeout(limit, self.read_more()).await == Ok(false)
            && self.buffer.is_empty()
    }

    /// Reads more; returns false at the end of the stream, which includes a reset.
    async fn read_more(&mut self) -> bool {
        let read = timeout(READ_TIMEOUT, self.stream.read_buf(&mut self.buffer)).await;
        let read = read.unwrap_or_else(|_| panic!("no byte came for {READ_TIMEOUT:?}"));
        read.is_ok_and(|count| count > 0)
    }

    fn broken(&self, reason: &str) -> RawOutcome {
        RawOutcome::Broken(format!(
            "{reason}: {:?}",
            String::from_utf8_lossy(&self.buffer)
        ))
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

enum ParsedResponse {
    /// The response and its length in bytes.
    Complete(HttpResponse, usize),
    Partial,
    Invalid(String),
}

fn parse_response(bytes: &[u8], is_head: bool, is_open: bool) -> ParsedResponse {
    let mut slots = [httparse::EMPTY_HEADER; 64];
    let mut head = httparse::Response::new(&mut slots);
    let body_starts = match head.parse(bytes) {
        Ok(httparse::Status::Complete(length)) => length,
        Ok(httparse::Status::Partial) => return ParsedResponse::Partial,
        Err(error) => return ParsedResponse::Invalid(error.to_string()),
    };
    let response = HttpResponse {
        status: head.code.unwrap_or_default(),
        version: if head.version == Some(0) {
            Version::HTTP_10
        } else {
            Version::HTTP_11
        },
        headers: head.headers.iter().map(own_header).collect(),
        body: Bytes::new(),
        elapsed: Duration::ZERO,
    };
    match parse_body(&response, &bytes[body_starts..], is_head, is_open) {
        ParsedBody::Complete(body, length) => {
            ParsedResponse::Complete(HttpResponse { body, ..response }, body_starts + length)
        }
        ParsedBody::Partial => ParsedResponse::Partial,
        ParsedBody::Invalid => ParsedResponse::Invalid("invalid chunks".into()),
    }
}

fn own_header(header: &httparse::Header<'_>) -> (HeaderName, HeaderValue) {
    let name = HeaderName::from_bytes(header.name.as_bytes()).expect("httparse checked the name");
    (
        name,
        HeaderValue::from_bytes(header.value).expect("httparse checked the value"),
    )
}

enum ParsedBody {
    /// The body and its encoded length in bytes.
    Complete(Bytes, usize),
    Partial,
    Invalid,
}

fn parse_body(response: &HttpResponse, bytes: &[u8], is_head: bool, is_open: bool) -> ParsedBody {
    if is_head || response.status < 200 || matches!(response.status, 204 | 304) {
        return ParsedBody::Complete(Bytes::new(), 0);
    }
    if response.find_header("transfer-encoding") == Some("chunked") {
        return decode_chunks(bytes);
    }
    let Some(length) = response.find_header("content-length") else {
        // The body ends where the connection does.
        let all = ParsedBody::Complete(Bytes::copy_from_slice(bytes), bytes.len());
        return if is_open { ParsedBody::Partial } else { all };
    };
    match length.parse() {
        Ok(length) if bytes.len() < length => ParsedBody::Partial,
        Ok(length) => ParsedBody::Complete(Bytes::copy_from_slice(&bytes[..length]), length),
        Err(_) => ParsedBody::Invalid,
    }
}

fn decode_chunks(bytes: &[u8]) -> ParsedBody {
    let (mut body, mut at) = (vec![], 0);
    loop {
        let (line, size) = match httparse::parse_chunk_size(&bytes[at..]) {
            Ok(httparse::Status::Complete(parsed)) => parsed,
            Ok(httparse::Status::Partial) => return ParsedBody::Partial,
            Err(_) => return ParsedBody::Invalid,
        };
        let Ok(size) = usize::try_from(size) else {
            return ParsedBody::Invalid;
        };
        let starts = at + line;
        let Some(data) = bytes.get(starts..starts + size + 2) else {
            return ParsedBody::Partial;
        };
        at = starts + size + 2;
        match data.split_at(size) {
            ([], b"\r\n") => return ParsedBody::Complete(body.into(), at),
            (data, b"\r\n") => body.extend_from_slice(data),
            _ => return ParsedBody::Invalid,
        }
    }
}
