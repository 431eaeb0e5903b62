//! HTTP/2 over a bare socket, for what a well-behaved client doesn't do: windows that stay shut, requests
//! that never end, answers that nobody reads.

use std::collections::VecDeque;
use std::net::{Ipv4Addr, SocketAddr};
use std::time::Duration;

use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio::time::timeout;

use super::raw::connect_from;

/// Longer than any frame may take, of those that are waited for here.
const PATIENCE: Duration = Duration::from_secs(30);

const DATA: u8 = 0;
const HEADERS: u8 = 1;
const RST_STREAM: u8 = 3;
const SETTINGS: u8 = 4;
const PING: u8 = 6;
const GOAWAY: u8 = 7;
const WINDOW_UPDATE: u8 = 8;

const ACK: u8 = 1;
const END_STREAM: u8 = 1;
const END_HEADERS: u8 = 4;

const INITIAL_WINDOW_SIZE: u16 = 4;

/// What a server did.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Event {
    /// The head of an answer; whether it ends the stream, and the status if it is one of HPACK's
    /// static table.
    Head(u32, bool, Option<u16>),
    /// Bytes of an answer; whether they end the stream.
    Data(u32, usize, bool),
    /// A stream was reset.
    Reset(u32),
    /// No more streams are taken.
    GoAway,
    /// The connection was closed.
    Closed,
}

/// A connection that speaks HTTP/2 as the test likes. It acknowledges settings and pings.
#[derive(Debug)]
pub struct H2Connection {
    stream: TcpStream,
    read: Vec<u8>,
    events: VecDeque<Event>,
    next: u32,
}

impl H2Connection {
    /// Connects from an address of this machine; each stream may be answered `window` bytes at first.
    ///
    /// # Panics
    /// When nobody listens.
    pub async fn open(from: Ipv4Addr, address: SocketAddr, window: u32) -> Self {
        let stream = connect_from(from, address).await.expect("connect");
        let mut connection = Self {
            stream,
            read: vec![],
            events: VecDeque::new(),
            next: 1,
        };
        connection.write(b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n").await;
        let setting = [
            &INITIAL_WINDOW_SIZE.to_be_bytes()[..],
            &window.to_be_bytes(),
        ]
        .concat();
        connection.frame(SETTINGS, 0, 0, &setting).await;
        connection
    }

    /// Asks for a path, and tells the number of the stream.
    pub async fn get(&mut self, path: &str, headers: &[(&str, &str)]) -> u32 {
        self.request("GET", path, headers, true).await
    }

    /// Begins a request whose body is still to come, and tells the number of the stream.
    pub async fn begin(&mut self, method: &str, path: &str, headers: &[(&str, &str)]) -> u32 {
        self.request(method, path, headers, false).await
    }

    async fn request(
        &mut self,
        method: &str,
        path: &str,
        headers: &[(&str, &str)],
        ends: bool,
    ) -> u32 {
        let pseudo = [
            (":method", method),
            (":scheme", "http"),
            (":path", path),
            (":authority", "localhost"),
        ];
        let mut block = vec![];
        for (name, value) in pseudo.iter().chain(headers) {
            // A literal that isn't indexed, with a new name (RFC 7541, 6.2.2).
            block.push(0);
            string(&mut block, name);
            string(&mut block, value);
        }
        let stream = self.next;
        self.next += 2;
        let flags = END_HEADERS | if ends { END_STREAM } else { 0 };
        self.frame(HEADERS, flags, stream, &block).await;
        stream
    }

    /// Sends bytes of a request's body.
    pub async fn data(&mut self, stream: u32, bytes: &[u8], ends: bool) {
        let flags = if ends { END_STREAM } else { 0 };
        self.frame(DATA, flags, stream, bytes).await;
    }

    /// Lets so many more bytes of a stream's answer come; of all, for stream 0.
    pub async fn open_window(&mut self, stream: u32, bytes: u32) {
        self.frame(WINDOW_UPDATE, 0, stream, &bytes.to_be_bytes())
            .await;
    }

    /// Asks whether the server is there.
    pub async fn ping(&mut self) {
        self.frame(PING, 0, 0, &[7; 8]).await;
    }

    async fn frame(&mut self, kind: u8, flags: u8, stream: u32, payload: &[u8]) {
        let length = u32::try_from(payload.len()).expect("a short frame");
        let mut frame = length.to_be_bytes()[1..].to_vec();
        frame.extend([kind, flags]);
        frame.extend(stream.to_be_bytes());
        frame.extend(payload);
        self.write(&frame).await;
    }

    /// A server that has closed is no error here: what is read tells.
    async fn write(&mut self, bytes: &[u8]) {
        let _ = self.stream.write_all(bytes).await;
    }

    /// What the server does next.
    ///
    /// # Panics
    /// When it does nothing for too long.
    pub async fn next(&mut self) -> Event {
        let next = timeout(PATIENCE, self.next_event()).await;
        next.unwrap_or_else(|_| panic!("nothing came for {PATIENCE:?}"))
    }

    /// What the server does next, if it does it within this time.
    pub async fn next_within(&mut self, time: Duration) -> Option<Event> {
        timeout(time, self.next_event()).await.ok()
    }

    /// The status of a stream's answer, if it has one of HPACK's static table; 0 for any other.
    pub async fn status_of(&mut self, stream: u32) -> u16 {
        loop {
            match self.next().await {
                Event::Head(of, _, status) if of == stream => return status.unwrap_or(0),
                Event::Closed => panic!("closed without an answer on stream {stream}"),
                _ => {}
            }
        }
    }

    async fn next_event(&mut self) -> Event {
        loop {
            if let Some(event) = self.events.pop_front() {
                return event;
            }
            while let Some((kind, flags, stream, payload)) = self.take_frame() {
                self.understand(kind, flags, stream, &payload).await;
            }
            if self.events.is_empty() {
                match self.stream.read_buf(&mut self.read).await {
                    Ok(1..) => {}
                    Ok(0) | Err(_) => return Event::Closed,
                }
            }
        }
    }

    fn take_frame(&mut self) -> Option<(u8, u8, u32, Vec<u8>)> {
        let head = self.read.first_chunk::<9>()?;
        let length = u32::from_be_bytes([0, head[0], head[1], head[2]]) as usize;
        let (kind, flags) = (head[3], head[4]);
        let stream = u32::from_be_bytes([head[5], head[6], head[7], head[8]]);
        if self.read.len() < 9 + length {
            return None;
        }
        let payload = self.read[9..9 + length].to_vec();
        self.read.drain(..9 + length);
        Some((kind, flags, stream, payload))
    }

    async fn understand(&mut self, kind: u8, flags: u8, stream: u32, payload: &[u8]) {
        let ends = flags & END_STREAM != 0;
        let event = match kind {
            SETTINGS if flags & ACK == 0 => return self.frame(SETTINGS, ACK, 0, &[]).await,
            PING if flags & ACK == 0 => return self.frame(PING, ACK, 0, payload).await,
            HEADERS => Event::Head(stream, ends, status(payload)),
            DATA => Event::Data(stream, payload.len(), ends),
            RST_STREAM => Event::Reset(stream),
            GOAWAY => Event::GoAway,
            _ => return,
        };
        self.events.push_back(event);
    }
}

/// The status in a block of headers, whose first byte is an index (RFC 7541, appendix A), or a literal
/// with the name's index.
fn status(block: &[u8]) -> Option<u16> {
    // The size of the table may change before.
    let block = &block[block.iter().take_while(|byte| *byte & 0xe0 == 0x20).count()..];
    match block.first()? {
        0x88 => Some(200),
        0x89 => Some(204),
        0x8a => Some(206),
        0x8b => Some(304),
        0x8c => Some(400),
        0x8d => Some(404),
        0x8e => Some(500),
        _ => None,
    }
}

/// A string without Huffman's code (RFC 7541, 5.2).
fn string(block: &mut Vec<u8>, text: &str) {
    let mut length = text.len();
    if length < 127 {
        block.push(length as u8);
    } else {
        block.push(127);
        length -= 127;
        while length >= 128 {
            block.push((length % 128) as u8 | 128);
            length /= 128;
        }
        block.push(length as u8);
    }
    block.extend(text.as_bytes());
}
