//! Bodies that arrive from a client, as the server hands them over.

use std::future::poll_fn;

use cloudkv_common::server::{
    ConnectionMetrics, Encryption, HttpSettings, Port, RequestHandler, RequestOrigin, serve,
};
use http::{HeaderValue, Request, Response};
use tokio::io::AsyncWriteExt;
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::mpsc;
use tokio_util::sync::CancellationToken;

use super::*;

/// Handler that hands the bodies of its requests to the test.
struct BodyTaker {
    bodies: mpsc::UnboundedSender<RequestBody>,
    metrics: Arc<ConnectionMetrics>,
}

impl RequestHandler for BodyTaker {
    type Body = axum::body::Body;

    async fn handle(
        &self,
        request: Request<RequestBody>,
        _: RequestOrigin,
    ) -> Response<Self::Body> {
        let _ = self.bodies.send(request.into_body());
        std::future::pending().await
    }

    fn overloaded(&self, _: HeaderValue, _: bool) -> Response<Self::Body> {
        Response::default()
    }

    fn connections(&self) -> &Arc<ConnectionMetrics> {
        &self.metrics
    }
}

/// Sends the head of a request and the first part of its body. Returns its payload as it arrives.
async fn upload(max_buffered: usize, expects_continue: bool) -> (TcpStream, RequestPayload) {
    let (bodies, mut received) = mpsc::unbounded_channel();
    let handler = Arc::new(BodyTaker {
        bodies,
        metrics: Arc::default(),
    });
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    let port = Port {
        listener,
        encryption: Encryption::Off,
    };
    let (settings, shutdown) = (HttpSettings::default(), CancellationToken::new());
    tokio::spawn(serve(port, handler, settings, shutdown));
    let mut client = TcpStream::connect(address).await.unwrap();
    let head = "POST / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n3\r\none\r\n";
    client.write_all(head.as_bytes()).await.unwrap();
    let body = received.recv().await.unwrap();
    let memory = || BodyMemory::new(Arc::new(MemoryBudget::new(1 << 20)), None);
    let payload = RequestPayload::read(body, max_buffered, expects_continue, memory).await;
    (client, payload.unwrap())
}

async fn next_data(body: &mut UpstreamBody) -> Bytes {
    let frame = poll_fn(|cx| Pin::new(&mut *body).poll_frame(cx)).await;
    frame.unwrap().unwrap().into_data().unwrap()
}

fn is_pending(body: &mut UpstreamBody) -> bool {
    let mut cx = Context::from_waker(std::task::Waker::noop());
    Pin::new(body).poll_frame(&mut cx).is_pending()
}

#[tokio::test]
async fn only_the_last_attempt_gets_the_body() {
    let (mut client, payload) = upload(64 << 10, false).await;
    let mut first = payload.attempt_body().unwrap();
    assert_eq!(next_data(&mut first).await, "one");
    let mut second = payload.attempt_body().unwrap();
    client.write_all(b"3\r\ntwo\r\n0\r\n\r\n").await.unwrap();
    for part in ["one", "two"] {
        assert_eq!(next_data(&mut second).await, part);
    }
    assert!(is_pending(&mut first), "it gets nothing more");
    assert!(!payload.is_forwarded());
    let end = poll_fn(|cx| Pin::new(&mut second).poll_frame(cx)).await;
    assert!(end.is_none() && payload.is_forwarded());
}

#[tokio::test]
async fn a_body_that_is_not_buffered_is_sent_once() {
    let (mut client, payload) = upload(4, false).await;
    let mut body = payload.attempt_body().unwrap();
    client.write_all(b"3\r\ntwo\r\n").await.unwrap();
    for part in ["one", "two"] {
        assert_eq!(next_data(&mut body).await, part);
    }
    assert!(payload.attempt_body().is_none());
}

#[tokio::test]
async fn the_rest_is_open_as_long_as_a_connection_sends_it() {
    let (_client, payload) = upload(64 << 10, false).await;
    let (body, rest) = (payload.attempt_body(), payload.rest());
    drop(payload);
    assert!(rest.is_open());
    drop(body);
    assert!(!rest.is_open());
    assert!(!RequestPayload::Empty.rest().is_open());
}

#[tokio::test]
async fn a_body_waits_until_its_gate_is_open() {
    let (_client, payload) = upload(64 << 10, true).await;
    let mut body = payload.attempt_body().unwrap();
    assert!(is_pending(&mut body));
    payload.open_gate();
    assert_eq!(next_data(&mut body).await, "one");
}
