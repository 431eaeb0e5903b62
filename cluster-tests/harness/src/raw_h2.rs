//! HTTP/2 over a bare socket, for what a well-behaved client doesn't do: windows that stay closed,
//! requests that never end, responses that nobody reads.

use std::collections::VecDeque;
use std::net::{Ipv4Addr, SocketAddr};
use std::time::Duration;

use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio::time::timeout;

use super::raw_http1::connect_from;

/// Longer than the server may take to send any frame.
const FRAME_TIMEOUT: Duration = Duration::from_secs(30);

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

/// An action of the server.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum H2Event {
    /// Stream, whether the headers end it, and the status if HPACK's static table has it.
    Headers(u32, bool, Option<u16>),
    /// Stream, number of bytes of the response's body, and whether they end the stream.
    Data(u32, usize, bool),
    /// The stream was reset.
    Reset(u32),
    /// The server accepts no more streams.
    GoAway,
    /// The connection was closed.
    Closed,
}

/// An HTTP/2 connection under the test's control. It acknowledges settings and pings.
#[derive(Debug)]
pub struct H2Connection {
    stream: TcpStream,
    buffer: Vec<u8>,
    events: VecDeque<H2Event>,
    next_stream_id: u32,
}

impl H2Connection {
    /// Connects from an address of this machine; `window` is the initial window of each stream, in
    /// bytes.
    ///
    /// # Panics
    /// Panics if nobody listens.
    pub async fn open(local: Ipv4Addr, address: SocketAddr, window: u32) -> Self {
        let stream = connect_from(local, address).await.expect("connect");
        let mut connection = Self {
            stream,
            buffer: vec![],
            events: VecDeque::new(),
            next_stream_id: 1,
        };
        connection.write(b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n").await;
        let setting = [
            &INITIAL_WINDOW_SIZE.to_be_bytes()[..],
            &window.to_be_bytes(),
        ]
        .concat();
        connection.send_frame(SETTINGS, 0, 0, &setting).await;
        connection
    }

    /// Sends a GET request and returns its stream ID.
    pub async fn get(&mut self, path: &str, headers: &[(&str, &str)]) -> u32 {
        self.request("GET", path, headers, true).await
    }

    /// Sends the headers of a request with a body and returns its stream ID.
    pub async fn start_request(
        &mut self,
        method: &str,
        path: &str,
        headers: &[(&str, &str)],
    ) -> u32 {
        self.request(method, path, headers, false).await
    }

    async fn request(
        &mut self,
        method: &str,
        path: &str,
        headers: &[(&str, &str)],
        end_stream: bool,
    ) -> u32 {
        let pseudo = [
            (":method", method),
            (":scheme", "http"),
            (":path", path),
            (":authority", "localhost"),
        ];
        let mut block = vec![];
        for (name, value) in pseudo.iter().chain(headers) {
            // Literal header field without indexing, with a new name (RFC 7541, 6.2.2).
            block.push(0);
            push_string(&mut block, name);
            push_string(&mut block, value);
        }
        let stream = self.next_stream_id;
        self.next_stream_id += 2;
        let flags = END_HEADERS | if end_stream { END_STREAM } else { 0 };
        self.send_frame(HEADERS, flags, stream, &block).await;
        stream
    }

    /// Sends bytes of a request's body.
    pub async fn send_data(&mut self, stream: u32, bytes: &[u8], end_stream: bool) {
        let flags = if end_stream { END_STREAM } else { 0 };
        self.send_frame(DATA, flags, stream, bytes).await;
    }

    /// Enlarges the window of a stream, or of the connection for stream 0.
    pub async fn send_window_update(&mut self, stream: u32, bytes: u32) {
        self.send_frame(WINDOW_UPDATE, 0, stream, &bytes.to_be_bytes())
            .await;
    }

    /// Sends a PING frame.
    pub async fn ping(&mut self) {
        self.send_frame(PING, 0, 0, &[7; 8]).await;
    }

    async fn send_frame(&mut self, kind: u8, flags: u8, stream: u32, payload: &[u8]) {
        let length = u32::try_from(payload.len()).expect("a short frame");
        let mut frame = length.to_be_bytes()[1..].to_vec();
        frame.extend([kind, flags]);
        frame.extend(stream.to_be_bytes());
        frame.extend(payload);
        self.write(&frame).await;
    }

    /// Writes bytes. A server that has closed is no error here: reading reports it.
    async fn write(&mut self, bytes: &[u8]) {
        let _ = self.stream.write_all(bytes).await;
    }

    /// Returns the server's next action.
    ///
    /// # Panics
    /// Panics if none comes for too long.
    pub async fn expect_event(&mut self) -> H2Event {
        let next = timeout(FRAME_TIMEOUT, self.read_event()).await;
        next.unwrap_or_else(|_| panic!("nothing came for {FRAME_TIMEOUT:?}"))
    }

    /// Returns the server's next action, if it comes within this time.
    pub async fn event_within(&mut self, limit: Duration) -> Option<H2Event> {
        timeout(limit, self.read_event()).await.ok()
    }

    /// Returns the status of a stream's response, if HPACK's static table has it; 0 for any other.
    pub async fn status_of(&mut self, stream: u32) -> u16 {
        loop {
            match self.expect_event().await {
                H2Event::Headers(of, _, status) if of == stream => return status.unwrap_or(0),
                H2Event::Closed => panic!("closed without a response on stream {stream}"),
                _ => {}
            }
        }
    }

    async fn read_event(&mut self) -> H2Event {
        loop {
            if let Some(event) = self.events.pop_front() {
                return event;
            }
            while let Some((kind, flags, stream, payload)) = self.take_frame() {
                self.handle_frame(kind, flags, stream, &payload).await;
            }
            if self.events.is_empty() {
                match self.stream.read_buf(&mut self.buffer).await {
                    Ok(1..) => {}
                    Ok(0) | Err(_) => return H2Event::Closed,
                }
            }
        }
    }

    fn take_frame(&mut self) -> Option<(u8, u8, u32, Vec<u8>)> {
        let head = self.buffer.first_chunk::<9>()?;
        let length = u32::from_be_bytes([0, head[0], head[1], head[2]]) as usize;
        let (kind, flags) = (head[3], head[4]);
        let stream = u32::from_be_bytes([head[5], head[6], head[7], head[8]]);
        if self.buffer.len() < 9 + length {
            return None;
        }
        let payload = self.buffer[9..9 + length].to_vec();
        self.buffer.drain(..9 + length);
        Some((kind, flags, stream, payload))
    }

    async fn handle_frame(&mut self, kind: u8, flags: u8, stream: u32, payload: &[u8]) {
        let end_stream = flags & END_STREAM != 0;
        let event = match kind {
            SETTINGS if flags & ACK == 0 => return self.send_frame(SETTINGS, ACK, 0, &[]).await,
            PING if flags & ACK == 0 => return self.send_frame(PING, ACK, 0, payload).await,
            HEADERS => H2Event::Headers(stream, end_stream, indexed_status(payload)),
            DATA => H2Event::Data(stream, payload.len(), end_stream),
            RST_STREAM => H2Event::Reset(stream),
            GOAWAY => H2Event::GoAway,
            _ => return,
        };
        self.events.push_back(event);
    }
}

/// Returns the status in a header block whose first byte is an index (RFC 7541, appendix A), or
/// starts a literal with the name's index.
fn indexed_status(block: &[u8]) -> Option<u16> {
    // A dynamic table size update may come first.
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

/// Appends a string literal without Huffman coding (RFC 7541, 5.2).
fn push_string(block: &mut Vec<u8>, text: &str) {
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
