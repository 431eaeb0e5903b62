//! Sends and receives bodies of lines piece by piece.

use std::collections::VecDeque;
use std::io;
use std::net::SocketAddr;
use std::pin::Pin;
use std::task::{Context, Poll, ready};
use std::time::{Duration, Instant};

use bytes::Bytes;
use http_body::{Body, Frame};
use reqwest::{Client, RequestBuilder, Response};
use serde_json::Value;
use tokio::sync::mpsc;
use tokio::task::JoinHandle;
use tokio::time::timeout;

use super::lines::parse_line;
use crate::batches::LINES;
use crate::http::Bucket;
use crate::response::HttpResponse;

/// Longer than a server may take to send any byte, or to read one.
const PROGRESS_TIMEOUT: Duration = Duration::from_secs(60);

/// Sends and receives lines, over a connection for each request.
#[derive(Clone, Copy, Debug)]
pub struct LineClient {
    protocol: Protocol,
    address: SocketAddr,
}

#[derive(Clone, Copy, Debug)]
enum Protocol {
    Http1,
    /// HTTP/2 from the first byte (prior knowledge), and the window of a stream, if it isn't the
    /// usual one.
    Http2(Option<u32>),
}

impl LineClient {
    /// Creates a client that speaks HTTP/1.1.
    pub fn http1(address: SocketAddr) -> Self {
        let protocol = Protocol::Http1;
        Self { protocol, address }
    }

    /// Creates a client that speaks HTTP/2 from the first byte (prior knowledge).
    pub fn http2(address: SocketAddr) -> Self {
        let protocol = Protocol::Http2(None);
        Self { protocol, address }
    }

    /// Creates a client that speaks HTTP/2, and takes so many bytes of a response that isn't read.
    pub fn http2_with_window(address: SocketAddr, bytes: u32) -> Self {
        let protocol = Protocol::Http2(Some(bytes));
        Self { protocol, address }
    }

    /// Makes a client without a connection.
    fn client(&self) -> Client {
        let client = match self.protocol {
            Protocol::Http1 => Client::builder().http1_only().pool_max_idle_per_host(0),
            Protocol::Http2(window) => Client::builder()
                .http2_prior_knowledge()
                .http2_initial_stream_window_size(window),
        };
        client.no_proxy().build().expect("make a client")
    }

    /// Begins an export of the owner. `query` is empty, or begins with a question mark.
    ///
    /// # Errors
    /// Returns an error if no response comes.
    pub async fn export(&self, bucket: &Bucket, query: &str) -> Result<LineStream, String> {
        let path = format!("{}/export{query}", bucket.path());
        let url = format!("http://{}{path}", self.address);
        let call = self.client().get(url).header("api-key", &bucket.account);
        LineStream::open(call).await
    }

    /// Begins an import of the owner, whose lines are yet to be sent.
    pub fn import(&self, bucket: &Bucket, query: &str) -> Upload {
        let path = format!("{}/import{query}", bucket.path());
        let url = format!("http://{}{path}", self.address);
        let (pieces, receiver) = mpsc::channel(1);
        let call = self.client().post(url).header("api-key", &bucket.account);
        let call = call.header("content-type", LINES);
        let call = call.body(reqwest::Body::wrap(PieceBody { pieces: receiver }));
        let response = Some(tokio::spawn(LineStream::open(call)));
        Upload { pieces, response }
    }
}

/// A request's body, whose pieces come through a channel; `None` ends it.
struct PieceBody {
    pieces: mpsc::Receiver<Option<Bytes>>,
}

impl Body for PieceBody {
    type Data = Bytes;
    type Error = io::Error;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
    ) -> Poll<Option<io::Result<Frame<Bytes>>>> {
        Poll::Ready(match ready!(self.pieces.poll_recv(context)) {
            Some(Some(bytes)) => Some(Ok(Frame::data(bytes))),
            Some(None) => None,
            None => Some(Err(io::Error::other("the upload was dropped"))),
        })
    }
}

/// A request whose body is being sent. Dropped, it breaks the connection.
#[derive(Debug)]
pub struct Upload {
    pieces: mpsc::Sender<Option<Bytes>>,
    /// The response, if it was not returned yet.
    response: Option<JoinHandle<Result<LineStream, String>>>,
}

impl Upload {
    /// Sends bytes; false if the server reads no more.
    ///
    /// # Panics
    /// Panics if the server doesn't read for too long.
    pub async fn send(&self, bytes: impl Into<Bytes>) -> bool {
        let sent = timeout(PROGRESS_TIMEOUT, self.pieces.send(Some(bytes.into())));
        match sent.await {
            Ok(sent) => sent.is_ok(),
            Err(_) => panic!("the server read nothing for {PROGRESS_TIMEOUT:?}"),
        }
    }

    /// Sends lines.
    ///
    /// # Panics
    /// Panics if the server doesn't read all of them.
    pub async fn send_lines(&self, lines: &[Value]) {
        for line in lines {
            let is_read = self.send(format!("{line}\n")).await;
            assert!(is_read, "the server reads no more at {line}");
        }
    }

    /// Returns the response, which begins once the server has read the first bytes.
    ///
    /// # Errors
    /// Returns an error if none comes.
    ///
    /// # Panics
    /// Panics if it was returned before.
    pub async fn response(&mut self) -> Result<LineStream, String> {
        let response = self.response.take().expect("it is returned once");
        let response = timeout(PROGRESS_TIMEOUT, response).await;
        let response = response.map_err(|_| "no response came in time".to_owned())?;
        response.map_err(|error| format!("{error:?}"))?
    }

    /// Ends the body.
    pub async fn end_body(&self) {
        // Fails only if the server reads no more: its response tells.
        let _ = timeout(PROGRESS_TIMEOUT, self.pieces.send(None)).await;
    }

    /// Ends the body, and returns the response.
    ///
    /// # Errors
    /// Returns an error if no response comes.
    pub async fn finish(mut self) -> Result<LineStream, String> {
        self.end_body().await;
        self.response().await
    }

    /// Ends the body, reads the response to its end, and returns it.
    ///
    /// # Errors
    /// Returns an error if no complete response comes.
    pub async fn complete(self) -> Result<HttpResponse, String> {
        self.finish().await?.complete().await
    }
}

/// A response of lines that is being received.
#[derive(Debug)]
pub struct LineStream {
    /// Head of the response.
    pub head: HttpResponse,
    started: Instant,
    response: Response,
    lines: VecDeque<String>,
    rest: Vec<u8>,
}

/// What comes next of a response.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum LineStep {
    /// A line, without its newline.
    Line(String),
    /// The body has ended, behind a newline.
    End,
    /// The body broke off.
    Broken(String),
}

impl LineStream {
    async fn open(call: RequestBuilder) -> Result<Self, String> {
        let started = Instant::now();
        let response = call.send().await.map_err(|error| format!("{error:?}"))?;
        let head = HttpResponse {
            status: response.status().as_u16(),
            version: response.version(),
            headers: response.headers().clone(),
            body: Bytes::new(),
            elapsed: started.elapsed(),
        };
        Ok(Self {
            head,
            started,
            response,
            lines: VecDeque::new(),
            rest: vec![],
        })
    }

    /// Returns what comes next.
    pub async fn next(&mut self) -> LineStep {
        loop {
            if let Some(line) = self.lines.pop_front() {
                return LineStep::Line(line);
            }
            match timeout(PROGRESS_TIMEOUT, self.response.chunk()).await {
                Ok(Ok(Some(bytes))) => self.push(&bytes),
                Ok(Ok(None)) if self.rest.is_empty() => return LineStep::End,
                Ok(Ok(None)) => {
                    let rest = String::from_utf8_lossy(&self.rest);
                    return LineStep::Broken(format!("the last line has no end: {rest}"));
                }
                Ok(Err(error)) => return LineStep::Broken(format!("{error:?}")),
                Err(_) => return LineStep::Broken("nothing came for too long".to_owned()),
            }
        }
    }

    fn push(&mut self, bytes: &[u8]) {
        let mut pieces = bytes.split(|byte| *byte == b'\n');
        self.rest
            .extend_from_slice(pieces.next().unwrap_or_default());
        for piece in pieces {
            let line = std::mem::replace(&mut self.rest, piece.to_vec());
            self.lines
                .push_back(String::from_utf8_lossy(&line).into_owned());
        }
    }

    /// Returns the next line as JSON.
    ///
    /// # Panics
    /// Panics if there is none.
    pub async fn expect_line(&mut self) -> Value {
        match self.next().await {
            LineStep::Line(line) => parse_line(&line),
            other => panic!("a line was expected: {other:?} {:?}", self.head),
        }
    }

    /// Returns all further lines, and whether the body has ended as it should.
    pub async fn remaining(mut self) -> (Vec<String>, bool) {
        let mut lines = vec![];
        loop {
            match self.next().await {
                LineStep::Line(line) => lines.push(line),
                LineStep::End => return (lines, true),
                LineStep::Broken(_) => return (lines, false),
            }
        }
    }

    /// Reads to the end, and returns the response with its body, which may be any.
    ///
    /// # Errors
    /// Returns an error if it breaks off.
    pub async fn complete(self) -> Result<HttpResponse, String> {
        let body = timeout(PROGRESS_TIMEOUT, self.response.bytes()).await;
        let body = body.map_err(|_| "no end came in time".to_owned())?;
        let body = body.map_err(|error| format!("{error:?}"))?;
        let elapsed = self.started.elapsed();
        Ok(HttpResponse {
            body,
            elapsed,
            ..self.head
        })
    }
}
