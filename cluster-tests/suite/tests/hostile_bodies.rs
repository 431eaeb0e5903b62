//! Unread request bodies: their refusals arrive, and other clients' requests are not disturbed.
// Helpers of tests panic as tests do.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

use std::net::SocketAddr;

use cloudkv_test_harness::{
    ApiClient, Bucket, HttpResponse, Node, NodeOptions, RawConnection, RawOutcome, RawRequest,
    Router, TrafficRecorder, encode_chunk,
};
use futures_util::StreamExt;
use futures_util::future::join_all;
use futures_util::stream;

/// More than a node reads before it answers, and than sockets buffer.
const LARGE_BODY_BYTES: usize = 1_000_000;

/// Starts a node whose HTTP port is reached through a recorder, and a router in front of it.
async fn start() -> (Node, TrafficRecorder, Router) {
    let recorder = TrafficRecorder::start().await;
    let options = NodeOptions {
        args: vec!["--advertise-http".into(), recorder.address().to_string()],
        ..NodeOptions::default()
    };
    let node = Node::start_with(options).await;
    recorder.set_target(node.http());
    let router = Router::start(&[node.rpc()]).await;
    (node, recorder, router)
}

/// Requests that are refused before their bodies are read, and their statuses.
fn refused_requests(bucket: &Bucket) -> Vec<(&'static str, String, u16)> {
    vec![
        ("POST", "/buckets".into(), 401),
        ("POST", "/ping".into(), 405),
        ("PATCH", bucket.path(), 401),
        ("DELETE", bucket.path(), 401),
        ("PUT", "/nowhere".into(), 404),
        ("PUT", "/kv/a0000000000000/k".into(), 404),
        ("PUT", bucket.key_path("k"), 413),
        ("GET", "/buckets".into(), 401),
    ]
}

/// Sends a large body with a head that is refused.
async fn send_large(address: SocketAddr, method: &str, path: &str) -> HttpResponse {
    let request = RawRequest::new(method, path).header("api-key", "0123456789abcdef");
    request
        .parse_body(&vec![b'x'; LARGE_BODY_BYTES])
        .send(address)
        .await
}

#[tokio::test]
async fn refusals_arrive_complete_and_close_the_connection() {
    let (node, _recorder, router) = start().await;
    let bucket = node.api().create_bucket().await;
    for address in [node.http(), router.http()] {
        for (method, path, status) in refused_requests(&bucket) {
            let answer = send_large(address, method, &path).await;
            assert_eq!(answer.status, status, "{method} {path}: {answer:?}");
            // The router may have forwarded the whole body before the answer came.
            if address == node.http() {
                let ending = answer.find_header("connection");
                assert_eq!(ending, Some("close"), "{method} {path}");
            }
        }
        let http2 = ApiClient::http2(address);
        for (method, path, status) in refused_requests(&bucket) {
            let method = method.parse().unwrap();
            let call = http2.request(method, &path).api_key("0123456789abcdef");
            call.body(vec![b'x'; LARGE_BODY_BYTES])
                .await
                .assert_status(status);
        }
        http2.get("/ping").await.assert_status(200);
    }
}

#[tokio::test]
async fn a_short_unread_body_keeps_its_connection() {
    let (node, _recorder, router) = start().await;
    let bucket = node.api().create_bucket().await;
    for address in [node.http(), router.http()] {
        let mut connection = RawConnection::open(address).await;
        for (method, path, _) in refused_requests(&bucket) {
            let request = RawRequest::new(method, &path).header("api-key", "0123456789abcdef");
            let RawOutcome::Response(answer) = connection.send(&request.parse_body(b"short")).await
            else {
                panic!("no answer to {method} {path}")
            };
            assert_eq!(answer.find_header("connection"), None, "{answer:?}");
        }
    }
}

#[tokio::test]
async fn others_are_served_while_large_bodies_are_refused() {
    let (_node, _recorder, router) = start().await;
    let address = router.http();
    let bucket = router.api().create_bucket().await;
    let attack = stream::iter(0..120).map(async |number| {
        let (path, status) = match number % 2 {
            0 => ("/buckets", 401),
            _ => ("/ping", 405),
        };
        let answer = send_large(address, "POST", path).await;
        assert_eq!(answer.status, status, "{answer:?}");
    });
    let attack = attack.buffer_unordered(8).count();
    let key = bucket.key_path("victim");
    let victim = async {
        for number in 0..150 {
            let value = number.to_string();
            // Neither of them uses the streams for buffered requests.
            let put = RawRequest::new("PUT", &key).chunked(&[value.as_bytes(), b"!"]);
            put.send(address).await.assert_status(200);
            router
                .api()
                .get(&bucket.listing_path())
                .await
                .assert_status(200);
        }
    };
    let (attacked, ()) = tokio::join!(attack, victim);
    assert_eq!(attacked, 120);
    assert_eq!(router.api().get(&key).await.text(), "149!");
}

#[tokio::test]
async fn a_body_that_no_node_received_completely_is_retried() {
    let (_node, recorder, router) = start().await;
    let bucket = router.api().create_bucket().await;
    let key = bucket.key_path("k");
    for number in 0..5 {
        // This leaves an idle connection to the node.
        router.api().get("/ping").await.assert_status(200);
        recorder.cut_next();
        let mut connection = RawConnection::open(router.http()).await;
        let head = RawRequest::new("PUT", &key).header("Transfer-Encoding", "chunked");
        connection.write(&head.bytes()).await;
        connection.write(&encode_chunk(b"value ")).await;
        recorder.wait_cut().await;
        connection
            .write(&encode_chunk(number.to_string().as_bytes()))
            .await;
        connection.write(&encode_chunk(b"")).await;
        let RawOutcome::Response(answer) = connection.receive(false).await else {
            panic!("no answer")
        };
        answer.assert_status(200);
        let value = router.api().get(&key).await;
        assert_eq!(value.text(), format!("value {number}"));
    }
    // A request that a node may have received completely isn't.
    router.api().get("/ping").await.assert_status(200);
    recorder.cut_next();
    let create = router.api().post("/buckets").await;
    create.assert_error(504, "unknown_outcome");
}

#[tokio::test]
async fn connections_with_unread_bodies_are_not_reused() {
    let (_node, recorder, router) = start().await;
    let post = async |_| send_large(router.http(), "POST", "/ping").await;
    for answer in join_all((0..8).map(post)).await {
        answer.assert_status(405);
    }
    router.api().get("/ping").await.assert_status(200);
    for [sent, _] in recorder.traffic() {
        let text = String::from_utf8_lossy(&sent);
        let requests = text.matches(" HTTP/1.1\r\n").count();
        let refused = text.matches("POST /ping").count();
        let last_is_refused = text.rfind("POST /ping") >= text.rfind("GET ");
        assert!(
            refused == 0 || refused == 1 && last_is_refused,
            "{requests} requests, and one of them after a refusal"
        );
    }
}
