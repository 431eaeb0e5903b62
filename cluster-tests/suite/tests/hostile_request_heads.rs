//! Request heads that contradict themselves or are too large: node and router treat them alike.
// Helpers of tests panic as tests do.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

use std::convert::Infallible;
use std::net::SocketAddr;

use bytes::Bytes;
use cloudkv_test_harness::{ApiClient, Bucket, Node, RawRequest, Router};
use futures_util::{StreamExt, stream};
use http::Request;
use http_body_util::StreamBody;
use hyper::body::Frame;
use hyper_util::rt::{TokioExecutor, TokioIo};
use tokio::net::TcpStream;
use tokio::sync::mpsc;

/// Maximum number of a request's header lines, beside those that routers set.
const MAX_HEADERS: usize = 90;

struct Ports {
    node: Node,
    router: Router,
    bucket: Bucket,
}

impl Ports {
    async fn start() -> Self {
        let node = Node::start().await;
        let router = Router::start(&[node.rpc()]).await;
        let parameters = [("plan", "business"), ("access", "protected")];
        let bucket = router.api().create_bucket_with(&parameters).await;
        Self {
            node,
            router,
            bucket,
        }
    }

    fn addresses(&self) -> [SocketAddr; 2] {
        [self.node.http(), self.router.http()]
    }
}

#[tokio::test]
async fn head_of_an_empty_value_has_a_content_length_of_0() {
    let ports = Ports::start().await;
    let (key, account) = (ports.bucket.key_path("empty"), &ports.bucket.account);
    let api = ports.router.api();
    api.put(&key, "").api_key(account).await.assert_status(200);
    for address in ports.addresses() {
        for api in [ApiClient::new(address), ApiClient::http2(address)] {
            let head = api.head(&key).api_key(account).await;
            assert_eq!(head.assert_status(200).header("content-length"), "0");
            let etag = head.etag();
            let same = api.head(&key).api_key(account);
            let same = same.header("if-none-match", &etag).await;
            assert_eq!(same.assert_status(304).find_header("content-length"), None);
        }
    }
}

#[tokio::test]
async fn http_1_1_needs_exactly_one_host_header() {
    let ports = Ports::start().await;
    for address in ports.addresses() {
        let none = RawRequest::with_request_line("GET /ping HTTP/1.1");
        none.send(address).await.assert_error(400, "invalid_header");
        let two = RawRequest::new("GET", "/ping").header("Host", "localhost");
        let answer = two.send(address).await;
        answer.assert_error(400, "invalid_header");
        assert!(answer.find_header("x-request-id").is_some(), "{answer:?}");
        let old = RawRequest::with_request_line("GET /ping HTTP/1.0");
        old.send(address).await.assert_status(200);
    }
}

#[tokio::test]
async fn bodies_in_other_codings_than_chunks_are_refused() {
    let ports = Ports::start().await;
    let (key, account) = (ports.bucket.key_path("coded"), &ports.bucket.account);
    let body = b"5\r\nvalue\r\n0\r\n\r\n";
    for address in ports.addresses() {
        for codings in [
            &["gzip, chunked"][..],
            &["chunked, chunked"][..],
            &["gzip", "chunked"][..],
            &["identity, chunked"][..],
            &["gzip"][..],
        ] {
            let put = RawRequest::new("PUT", &key).header("api-key", account);
            let coded = |put: RawRequest, coding: &&str| put.header("Transfer-Encoding", coding);
            let put = codings.iter().fold(put, coded);
            let ending = put.raw_body(body).try_send(address).await;
            ending.assert_refused(&[400, 501]);
        }
        let api = ports.router.api();
        api.get(&key).api_key(account).await.assert_status(404);
    }
}

#[tokio::test]
async fn node_and_router_accept_the_same_number_of_headers() {
    let ports = Ports::start().await;
    for address in ports.addresses() {
        for (count, status) in [(MAX_HEADERS, 200), (MAX_HEADERS + 1, 431), (300, 431)] {
            let raw = (0..count).fold(RawRequest::new("GET", "/ping"), |request, number| {
                request.header(&format!("x-{number}"), "v")
            });
            raw.try_send(address).await.assert_refused(&[status]);
            // The client adds a header: accept.
            let call = (1..count).fold(ApiClient::http2(address).get("/ping"), |call, number| {
                call.header(&format!("x-{number}"), "v")
            });
            call.await.assert_status(status);
        }
    }
    // The headers that the router adds don't count.
    let full = (0..MAX_HEADERS).fold(RawRequest::new("PUT", "/ping"), |request, number| {
        request.header(&format!("x-{number}"), "v")
    });
    let full = full
        .header("X-Request-ID", "mine")
        .header("X-Forwarded-For", "192.0.2.1");
    let full = full.chunked(&[b"body"]);
    full.send(ports.router.http())
        .await
        .assert_error(405, "method_not_allowed");
}

#[tokio::test]
async fn the_connection_header_removes_no_end_to_end_header() {
    let ports = Ports::start().await;
    let (key, account) = (ports.bucket.key_path("k"), &ports.bucket.account);
    let api = ports.router.api();
    api.put(&key, "v").api_key(account).await.assert_status(200);
    for address in ports.addresses() {
        for named in [
            "api-key",
            "close, API-Key",
            "if-match",
            "x-cloudkv-min-version",
        ] {
            let put = RawRequest::new("PUT", &key)
                .header("api-key", account)
                .header("If-Match", "\"0000000000000000-1\"")
                .header("Connection", named)
                .parse_body(b"overwritten");
            put.send(address).await.assert_error(400, "invalid_header");
        }
        let named = RawRequest::new("GET", &key).header("api-key", account);
        let named = named
            .header("Connection", "close, x-mine")
            .header("X-Mine", "1");
        assert_eq!(named.send(address).await.assert_status(200).text(), "v");
    }
}

/// Sends a PUT over HTTP/2 with a Content-Length of `declared`, `frames`, and then those of `rest`;
/// returns the status, or `None` if the stream was reset.
async fn put(
    address: SocketAddr,
    (bucket, key): (&Bucket, &str),
    declared: usize,
    frames: &[&'static str],
    rest: mpsc::Receiver<&'static str>,
) -> Option<u16> {
    let socket = TcpStream::connect(address).await.unwrap();
    let client = hyper::client::conn::http2::handshake(TokioExecutor::new(), TokioIo::new(socket));
    let (mut sender, connection) = client.await.unwrap();
    let connection = tokio::spawn(connection);
    let rest = stream::unfold(rest, async |mut rest| Some((rest.recv().await?, rest)));
    let frames = stream::iter(frames.to_vec()).chain(rest);
    let frames =
        frames.map(|frame| Ok::<_, Infallible>(Frame::data(Bytes::from_static(frame.as_bytes()))));
    let request = Request::put(format!("http://{address}{key}"))
        .header("api-key", &bucket.account)
        .header("content-length", declared)
        .body(StreamBody::new(Box::pin(frames)));
    let answer = sender.send_request(request.unwrap()).await;
    connection.abort();
    answer.ok().map(|answer| answer.status().as_u16())
}

/// Returns an empty rest of a body.
fn no_more_frames() -> mpsc::Receiver<&'static str> {
    mpsc::channel(1).1
}

#[tokio::test]
async fn the_beginning_of_a_longer_http_2_body_is_not_stored() {
    let ports = Ports::start().await;
    for address in ports.addresses() {
        for (declared, frames) in [(5, &["01234"][..]), (0, &[][..])] {
            assert_not_stored_before_its_end(&ports, address, declared, frames).await;
        }
    }
}

/// Sends the declared length, and more once that could have been stored.
async fn assert_not_stored_before_its_end(
    ports: &Ports,
    address: SocketAddr,
    declared: usize,
    frames: &[&'static str],
) {
    let (api, bucket) = (ports.router.api(), &ports.bucket);
    let key = bucket.key_path(&format!("begun-{}-{declared}", address.port()));
    let (send, rest) = mpsc::channel(1);
    let upload = put(address, (bucket, &key), declared, frames, rest);
    let watch = async {
        for _ in 0..50 {
            let got = api.get(&key).api_key(&bucket.account).await;
            assert_eq!(got.status, 404, "{declared} at {address}: {got:?}");
        }
        let _ = send.send("56789").await;
        drop(send);
    };
    let (status, ()) = tokio::join!(upload, watch);
    let refused = status.is_none_or(|status| (400..500).contains(&status));
    assert!(refused, "{declared} at {address}: {status:?}");
    let got = api.get(&key).api_key(&bucket.account).await;
    assert_eq!(got.status, 404, "{declared} at {address}: {got:?}");
}

#[tokio::test]
async fn http_2_bodies_must_match_their_content_length() {
    let ports = Ports::start().await;
    let bucket = &ports.bucket;
    for (number, address) in ports.addresses().into_iter().enumerate() {
        let api = ports.router.api();
        for (case, (declared, frames)) in [
            (5, &["01234", "56789"][..]),
            (5, &["01234", "5"][..]),
            (5, &["0123456789"][..]),
            (5, &["01", "23", "45"][..]),
            (10, &["01234"][..]),
            (10, &["01234", "5678"][..]),
            (5, &[][..]),
            (0, &["0"][..]),
        ]
        .into_iter()
        .enumerate()
        {
            let key = bucket.key_path(&format!("wrong-{number}-{case}"));
            let status = put(address, (bucket, &key), declared, frames, no_more_frames()).await;
            let refused = status.is_none_or(|status| (400..500).contains(&status));
            assert!(refused, "{declared} {frames:?} at {address}: {status:?}");
            let got = api.get(&key).api_key(&bucket.account).await;
            assert_eq!(
                got.status, 404,
                "{declared} {frames:?} at {address}: {got:?}"
            );
        }
        for (case, frames) in [
            &["01234"][..],
            &["01", "234"][..],
            &["0", "", "1234", ""][..],
        ]
        .into_iter()
        .enumerate()
        {
            let key = bucket.key_path(&format!("right-{number}-{case}"));
            let status = put(address, (bucket, &key), 5, frames, no_more_frames()).await;
            assert_eq!(status, Some(200), "{frames:?}");
            let got = api.get(&key).api_key(&bucket.account).await;
            assert_eq!(got.assert_status(200).text(), "01234", "{frames:?}");
        }
    }
    // The connections to the node still work.
    for _ in 0..20 {
        ports.router.api().get("/ping").await.assert_status(200);
    }
}
