//! Tests of the server itself. Requests that need buckets are tested against the real service.

use std::convert::Infallible;
use std::future::{pending, poll_fn};
use std::pin::Pin;

use axum::body::Body;
use bytes::Bytes;
use futures_util::stream::unfold;
use http::{HeaderValue, Request, Response};
use http_body::Body as _;
use hyper_util::rt::{TokioExecutor, TokioIo};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::sync::{Notify, mpsc};
use tokio::task::JoinHandle;

use super::*;
use crate::server::{ConnectionMetrics, RequestBody, RequestOrigin};

/// Handler that never responds.
#[derive(Default)]
struct NoResponse {
    called: Notify,
    metrics: Arc<ConnectionMetrics>,
}

impl RequestHandler for NoResponse {
    type Body = Body;

    async fn handle(&self, _: Request<RequestBody>, _: RequestOrigin) -> Response<Self::Body> {
        self.called.notify_one();
        pending().await
    }

    fn overloaded(&self, _: HeaderValue, _: bool) -> Response<Self::Body> {
        Response::default()
    }

    fn connections(&self) -> &Arc<ConnectionMetrics> {
        &self.metrics
    }
}

#[tokio::test]
async fn a_request_that_does_not_end_is_cut_when_the_drain_is_over() {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    let port = Port {
        listener,
        encryption: Encryption::Off,
    };
    let settings = HttpSettings {
        lame_duck: Duration::ZERO,
        drain_timeout: Duration::from_millis(10),
        ..HttpSettings::default()
    };
    let (handler, shutdown) = (Arc::new(NoResponse::default()), CancellationToken::new());
    let served = tokio::spawn(serve(port, handler.clone(), settings, shutdown.clone()));
    let mut client = TcpStream::connect(address).await.unwrap();
    let request = b"GET / HTTP/1.1\r\nHost: a\r\n\r\n";
    client.write_all(request).await.unwrap();
    handler.called.notified().await;
    shutdown.cancel();
    served.await.unwrap();
    assert_eq!(
        handler.metrics.open_connections(),
        0,
        "it outlives the server"
    );
}

#[test]
fn errors_of_one_connection_dont_stop_the_others() {
    assert!(is_connection_error(
        &io::ErrorKind::ConnectionAborted.into()
    ));
    assert!(!is_connection_error(&io::Error::from_raw_os_error(24)));
}

/// Time after which a test fails.
const TEST_TIMEOUT: Duration = Duration::from_secs(30);

/// Handler whose responses begin before it has read the bodies of their requests, and last until
/// the test ends them.
struct EarlyResponse {
    requests: mpsc::UnboundedSender<OpenRequest>,
    metrics: Arc<ConnectionMetrics>,
}

/// Request whose response has begun.
struct OpenRequest {
    body: RequestBody,
    /// Chunks of the response, which ends when this is dropped.
    response: mpsc::UnboundedSender<Bytes>,
}

impl OpenRequest {
    async fn next_data(&mut self) -> Bytes {
        let frame = poll_fn(|cx| Pin::new(&mut self.body).poll_frame(cx)).await;
        frame.unwrap().unwrap().into_data().unwrap()
    }

    fn send(&self, chunk: &'static str) {
        self.response
            .send(Bytes::from_static(chunk.as_bytes()))
            .unwrap();
    }
}

impl RequestHandler for EarlyResponse {
    type Body = Body;

    async fn handle(
        &self,
        request: Request<RequestBody>,
        _: RequestOrigin,
    ) -> Response<Self::Body> {
        let (response, chunks) = mpsc::unbounded_channel();
        let body = request.into_body();
        let _ = self.requests.send(OpenRequest { body, response });
        let chunks = unfold(
            chunks,
            |mut chunks: mpsc::UnboundedReceiver<Bytes>| async move {
                let chunk = chunks.recv().await?;
                Some((Ok::<Bytes, Infallible>(chunk), chunks))
            },
        );
        Response::new(Body::from_stream(chunks))
    }

    fn overloaded(&self, _: HeaderValue, _: bool) -> Response<Self::Body> {
        Response::default()
    }

    fn connections(&self) -> &Arc<ConnectionMetrics> {
        &self.metrics
    }
}

/// Server whose responses begin early, and whose drain has no limit.
struct EarlyServer {
    address: SocketAddr,
    requests: mpsc::UnboundedReceiver<OpenRequest>,
    shutdown: CancellationToken,
    served: JoinHandle<()>,
}

impl EarlyServer {
    async fn start() -> Self {
        let (sender, requests) = mpsc::unbounded_channel();
        let handler = Arc::new(EarlyResponse {
            requests: sender,
            metrics: Arc::default(),
        });
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        let port = Port {
            listener,
            encryption: Encryption::Off,
        };
        let settings = HttpSettings {
            lame_duck: Duration::ZERO,
            drain_timeout: Duration::MAX,
            ..HttpSettings::default()
        };
        let shutdown = CancellationToken::new();
        let served = tokio::spawn(serve(port, handler, settings, shutdown.clone()));
        Self {
            address,
            requests,
            shutdown,
            served,
        }
    }

    async fn next_request(&mut self) -> OpenRequest {
        self.requests.recv().await.unwrap()
    }
}

/// Client of a server whose responses begin early.
struct EarlyClient {
    stream: TcpStream,
    received: String,
    server: EarlyServer,
}

impl EarlyClient {
    /// Connects to a server of its own.
    async fn connect() -> Self {
        let server = EarlyServer::start().await;
        Self {
            stream: TcpStream::connect(server.address).await.unwrap(),
            received: String::new(),
            server,
        }
    }

    async fn send(&mut self, text: &str) {
        self.stream.write_all(text.as_bytes()).await.unwrap();
    }

    /// Reads until this has come.
    async fn read_until(&mut self, end: &str) {
        while !self.received.contains(end) {
            let mut buffer = [0; 1024];
            let read = self.stream.read(&mut buffer).await.unwrap();
            assert!(read > 0, "closed after {:?}", self.received);
            self.received += std::str::from_utf8(&buffer[..read]).unwrap();
        }
    }
}

const UPLOAD_HEAD: &str = "POST / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n";

#[tokio::test]
async fn a_body_is_read_on_after_its_response_has_begun() {
    let test = async {
        let mut client = EarlyClient::connect().await;
        client.send(UPLOAD_HEAD).await;
        let mut request = client.server.next_request().await;
        request.send("progress");
        client.read_until("progress").await;
        // Whether the body will be read to its end isn't known yet.
        assert!(client.received.contains("\r\nconnection: close\r\n"));
        for part in ["one", "two"] {
            client.send(&format!("3\r\n{part}\r\n")).await;
            assert_eq!(request.next_data().await, part);
        }
        client.send("0\r\n\r\n").await;
        let end = poll_fn(|cx| Pin::new(&mut request.body).poll_frame(cx)).await;
        assert!(end.is_none());
        request.send("done");
        drop(request);
        client.read_until("done\r\n0\r\n\r\n").await;
        assert_eq!(client.stream.read(&mut [0]).await.unwrap(), 0, "closed");
    };
    timeout(TEST_TIMEOUT, test).await.unwrap();
}

#[tokio::test]
async fn a_connection_ends_although_a_body_was_dropped_after_its_response_had_begun() {
    let test = async {
        let mut client = EarlyClient::connect().await;
        client.send(UPLOAD_HEAD).await;
        let request = client.server.next_request().await;
        request.send("stopped");
        client.read_until("stopped").await;
        drop(request);
        client.read_until("\r\n0\r\n\r\n").await;
        assert_eq!(client.stream.read(&mut [0]).await.unwrap(), 0, "closed");
    };
    timeout(TEST_TIMEOUT, test).await.unwrap();
}

#[tokio::test]
async fn a_drain_waits_for_streams_and_no_longer() {
    let test = async {
        let mut client = EarlyClient::connect().await;
        client.send("GET / HTTP/1.1\r\nHost: a\r\n\r\n").await;
        let request = client.server.next_request().await;
        request.send("first");
        client.read_until("first").await;
        client.server.shutdown.cancel();
        request.send("last");
        client.read_until("last").await;
        assert!(!client.server.served.is_finished());
        drop(request);
        client.server.served.await.unwrap();
    };
    timeout(TEST_TIMEOUT, test).await.unwrap();
}

/// An upload whose lines come one by one fills the stream's window with small frames while the
/// handler is busy. h2 allows for a certain overhead of frames that aren't read, and would end the
/// connection beyond it (<https://docs.rs/h2>, `data_frame_budget`).
#[tokio::test]
async fn a_window_full_of_short_lines_is_no_reason_to_end_a_connection() {
    let test = async {
        let mut server = EarlyServer::start().await;
        let stream = TcpStream::connect(server.address).await.unwrap();
        let (mut client, connection) =
            hyper::client::conn::http2::handshake(TokioExecutor::new(), TokioIo::new(stream))
                .await
                .unwrap();
        let connection = tokio::spawn(connection);
        let line = Bytes::from_static(SHORTEST_LINE);
        let count = drive::STREAM_WINDOW as usize / line.len();
        let all_sent = Arc::new(Notify::new());
        let sender = Arc::clone(&all_sent);
        let lines = unfold(0, move |sent| {
            let (line, sender) = (line.clone(), Arc::clone(&sender));
            async move {
                if sent == count {
                    sender.notify_one();
                }
                (sent < count).then(|| (Ok::<_, Infallible>(line), sent + 1))
            }
        });
        let upload = Request::post("http://a/").body(Body::from_stream(lines));
        let upload = client.send_request(upload.unwrap()).await.unwrap();
        assert_eq!(upload.status(), 200);
        let mut request = server.next_request().await;
        all_sent.notified().await;
        // This request arrives behind the lines, or among the last of them.
        let other = Request::get("http://a/").body(Body::empty()).unwrap();
        let other = client.send_request(other).await.unwrap();
        assert_eq!(other.status(), 200);
        let mut received = 0;
        while received < count * SHORTEST_LINE.len() {
            received += request.next_data().await.len();
        }
        assert!(!connection.is_finished());
        connection.abort();
    };
    timeout(TEST_TIMEOUT, test).await.unwrap();
}

/// Shortest line of an import.
const SHORTEST_LINE: &[u8] = b"{\"key\":\"k\",\"value\":\"\"}\n";

/// Frame of HTTP/2.
fn frame(kind: u8, flags: u8, stream: u8, payload: &[u8]) -> Vec<u8> {
    let length = u8::try_from(payload.len()).unwrap();
    let head = [0, 0, length, kind, flags, 0, 0, 0, stream];
    [&head, payload].concat()
}

/// Beginning of an upload over HTTP/2 of which this is sent, with these further headers.
fn begin_upload(headers: &[u8], data: &[u8]) -> Vec<u8> {
    // POST http://a/
    let head = [&[0x83, 0x86, 0x84, 0x41, 1, b'a'], headers].concat();
    [
        b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n".to_vec(),
        frame(4, 0, 0, &[]),
        frame(1, 0x4, 1, &head),
        frame(0, 0, 1, data),
    ]
    .concat()
}

/// `content-length: 10`.
const CONTENT_LENGTH_10: &[u8] = &[0x0f, 0x0d, 2, b'1', b'0'];

#[tokio::test]
async fn a_stream_that_is_reset_without_an_error_has_no_whole_body() {
    let test = async {
        for headers in [&[][..], CONTENT_LENGTH_10] {
            let mut server = EarlyServer::start().await;
            let mut stream = TcpStream::connect(server.address).await.unwrap();
            stream
                .write_all(&begin_upload(headers, b"half"))
                .await
                .unwrap();
            let mut request = server.next_request().await;
            assert_eq!(request.next_data().await, "half");
            let no_error = [0; 4];
            stream.write_all(&frame(3, 0, 1, &no_error)).await.unwrap();
            let end = poll_fn(|cx| Pin::new(&mut request.body).poll_frame(cx)).await;
            assert!(matches!(end, Some(Err(_))), "{end:?}");
        }
    };
    timeout(TEST_TIMEOUT, test).await.unwrap();
}

#[tokio::test]
async fn a_quiet_connection_is_cut_although_it_was_told_to_drain_twice() {
    let test = async {
        let (sender, mut requests) = mpsc::unbounded_channel();
        let handler = Arc::new(EarlyResponse {
            requests: sender,
            metrics: Arc::default(),
        });
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        let port = Port {
            listener,
            encryption: Encryption::Off,
        };
        let settings = HttpSettings {
            // HTTP/2 connections are told to drain now, and all of them after it.
            lame_duck: Duration::from_millis(1),
            drain_timeout: Duration::from_millis(10),
            ..HttpSettings::default()
        };
        let shutdown = CancellationToken::new();
        let served = tokio::spawn(serve(port, handler.clone(), settings, shutdown.clone()));
        let mut stream = TcpStream::connect(address).await.unwrap();
        stream.write_all(&begin_upload(&[], b"half")).await.unwrap();
        let _request = requests.recv().await.unwrap();
        shutdown.cancel();
        served.await.unwrap();
        assert_eq!(
            handler.metrics.open_connections(),
            0,
            "it outlives the server"
        );
    };
    timeout(TEST_TIMEOUT, test).await.unwrap();
}
