//! HTTP itself: malformed requests are refused, unusual but valid ones work.
// Helpers of tests panic as tests do.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

use std::time::Duration;

use cloudkv_test_harness::{
    ApiClient, HttpResponse, Node, NodeOptions, RawConnection, RawOutcome, RawRequest, SharedNode,
};
use http::Version;

static NODE: SharedNode = SharedNode::new();

#[track_caller]
fn expect_answer(ending: RawOutcome) -> HttpResponse {
    match ending {
        RawOutcome::Response(answer) => answer,
        other => panic!("no answer: {other:?}"),
    }
}

fn assert_pong(answer: &HttpResponse) {
    assert_eq!(answer.assert_status(200).json()["message"], "pong");
}

#[tokio::test]
async fn garbage_is_refused() {
    let node = NODE.lease().await;
    let garbage: [&[u8]; 8] = [
        b"garbage\r\n\r\n",
        b"GET\r\n\r\n",
        b"GET /ping\r\nHost: localhost\r\n\r\n",
        b"GET /ping HTTP/9.9\r\nHost: localhost\r\n\r\n",
        b"GET /pi ng HTTP/1.1\r\nHost: localhost\r\n\r\n",
        b"GET /ping HTTP/1.1\r\nno colon\r\n\r\n",
        b"GET /ping HTTP/1.1\r\nHost: local\0host\r\n\r\n",
        b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03a client that speaks TLS\r\n\r\n",
    ];
    for bytes in garbage {
        let mut connection = RawConnection::open(node.http()).await;
        connection.write(bytes).await;
        connection.receive(false).await.assert_refused(&[400, 505]);
    }
    assert_pong(&node.api().get("/ping").await);
}

#[tokio::test]
async fn oversized_headers_and_targets_are_refused() {
    let node = NODE.lease().await;
    let long = "x".repeat(2_000_000);
    let header = RawRequest::new("GET", "/ping").header("x-long", &long);
    header
        .try_send(node.http())
        .await
        .assert_refused(&[400, 431]);
    let many = (0..5000).fold(RawRequest::new("GET", "/ping"), |request, number| {
        request.header(&format!("x-{number}"), "v")
    });
    many.try_send(node.http()).await.assert_refused(&[400, 431]);
    let target = RawRequest::new("GET", &format!("/{long}"));
    target
        .try_send(node.http())
        .await
        .assert_refused(&[400, 404, 414, 431]);
    assert_pong(&node.api().get("/ping").await);
}

#[tokio::test]
async fn ambiguous_body_lengths_are_refused() {
    let node = NODE.lease().await;
    let bucket = node.api().create_bucket().await;
    let smuggled = format!(
        "0\r\n\r\nPUT {} HTTP/1.1\r\nHost: x\r\nContent-Length: 1\r\n\r\nx",
        bucket.key_path("smuggled")
    );
    let put = || RawRequest::new("PUT", &bucket.key_path("k"));
    let ambiguous = [
        put()
            .header("Content-Length", "5")
            .header("Transfer-Encoding", "chunked"),
        put()
            .header("Transfer-Encoding", "chunked")
            .header("Content-Length", "5"),
        put()
            .header("Content-Length", "5")
            .header("Content-Length", "6"),
        put().header("Content-Length", "5, 6"),
        put().header("Content-Length", "five"),
        put().header("Content-Length", "-5"),
        put().header("Content-Length", "+5"),
        put().header("Transfer-Encoding", "gzip"),
        put().header("Transfer-Encoding", "chunked, identity"),
    ];
    for request in ambiguous {
        let mut connection = RawConnection::open(node.http()).await;
        connection
            .write(&request.raw_body(smuggled.as_bytes()).bytes())
            .await;
        let first = connection.receive(false).await;
        if !matches!(&first, RawOutcome::Response(answer) if answer.status < 300) {
            first.assert_refused(&[400, 411, 501]);
        }
        // However the request was answered, the bytes behind it must not be parsed as a request.
        assert!(
            matches!(connection.receive(false).await, RawOutcome::Closed),
            "{first:?}"
        );
        let smuggled = node.api().get(&bucket.key_path("smuggled")).await;
        smuggled.assert_error(404, "not_found");
    }
}

#[tokio::test]
async fn http_1_0_is_answered_and_closed() {
    let node = NODE.lease().await;
    let mut connection = RawConnection::open(node.http()).await;
    let ping = expect_answer(
        connection
            .send(&RawRequest::with_request_line("GET /ping HTTP/1.0"))
            .await,
    );
    assert_pong(&ping);
    assert!(connection.is_closed_within(Duration::from_secs(5)).await);
}

#[tokio::test]
async fn a_connection_serves_one_request_after_another() {
    let node = NODE.lease().await;
    let bucket = node.api().create_bucket().await;
    let mut connection = RawConnection::open(node.http()).await;
    for number in 0..20 {
        let value = format!("value {number}");
        let put = RawRequest::new("PUT", &bucket.key_path("k")).parse_body(value.as_bytes());
        expect_answer(connection.send(&put).await).assert_status(200);
        let get = expect_answer(
            connection
                .send(&RawRequest::new("GET", &bucket.key_path("k")))
                .await,
        );
        assert_eq!(get.assert_status(200).text(), value);
        let missing = expect_answer(connection.send(&RawRequest::new("GET", "/nowhere")).await);
        missing.assert_error(404, "no_such_route");
    }
    let last = RawRequest::new("GET", "/ping").header("Connection", "close");
    assert_pong(&expect_answer(connection.send(&last).await));
    assert!(connection.is_closed_within(Duration::from_secs(5)).await);
}

#[tokio::test]
async fn pipelined_requests_are_answered_in_their_order() {
    let node = NODE.lease().await;
    let bucket = node.api().create_bucket().await;
    let mut connection = RawConnection::open(node.http()).await;
    let mut bytes = vec![];
    for number in 0..10 {
        let path = bucket.key_path(&format!("k{number}"));
        bytes.extend(
            RawRequest::new("PUT", &path)
                .parse_body(number.to_string().as_bytes())
                .bytes(),
        );
        bytes.extend(RawRequest::new("GET", &path).bytes());
    }
    connection.write(&bytes).await;
    for number in 0..10 {
        expect_answer(connection.receive(false).await)
            .assert_status(200)
            .assert_empty();
        let get = expect_answer(connection.receive(false).await);
        assert_eq!(get.assert_status(200).text(), number.to_string());
    }
}

#[tokio::test]
async fn a_request_may_arrive_byte_by_byte() {
    let node = NODE.lease().await;
    let bucket = node.api().create_bucket().await;
    let mut connection = RawConnection::open(node.http()).await;
    for byte in RawRequest::new("PUT", &bucket.key_path("k"))
        .chunked(&[b"a v", b"alue"])
        .bytes()
    {
        connection.write(&[byte]).await;
        tokio::task::yield_now().await;
    }
    expect_answer(connection.receive(false).await).assert_status(200);
    assert_eq!(
        node.api().get(&bucket.key_path("k")).await.text(),
        "a value"
    );
}

#[tokio::test]
async fn a_target_in_absolute_form_is_accepted() {
    let node = NODE.lease().await;
    let target = format!("http://{}/ping", node.http());
    assert_pong(&RawRequest::new("GET", &target).send(node.http()).await);
    let bucket = node.api().create_bucket().await;
    let target = format!("http://{}{}", node.http(), bucket.key_path("a%2Fb"));
    RawRequest::new("PUT", &target)
        .parse_body(b"v")
        .send(node.http())
        .await
        .assert_status(200);
    assert_eq!(node.api().get(&bucket.key_path("a/b")).await.text(), "v");
}

#[tokio::test]
async fn header_names_are_case_insensitive() {
    let node = NODE.lease().await;
    let bucket = node
        .api()
        .create_bucket_with(&[("access", "protected")])
        .await;
    for name in ["api-key", "API-KEY", "Api-Key"] {
        let put = RawRequest::new("PUT", &bucket.key_path("k")).header(name, &bucket.account);
        put.parse_body(b"v")
            .send(node.http())
            .await
            .assert_status(200);
    }
}

#[tokio::test]
async fn http_2_with_prior_knowledge_is_served_without_tls() {
    let node = NODE.lease().await;
    let api = ApiClient::http2(node.http());
    let ping = api.get("/ping").await;
    assert_pong(&ping);
    assert_eq!(ping.version, Version::HTTP_2);
    let bucket = api.create_bucket().await;
    api.put(&bucket.key_path("k?ttl=1h"), "a value")
        .await
        .assert_status(200);
    let get = api.get(&bucket.key_path("k")).await;
    assert_eq!(get.assert_status(200).text(), "a value");
    get.header_date("expires");
    api.head(&bucket.key_path("k"))
        .await
        .assert_status(200)
        .assert_empty();
    assert_eq!(api.get(&bucket.listing_path()).await.text(), "k");
    api.put(&bucket.key_path("k"), vec![b'x'; 4097])
        .await
        .assert_error(413, "value_too_large");
    api.delete(&bucket.key_path("k")).await.assert_status(200);
    api.get(&bucket.key_path("k"))
        .await
        .assert_error(404, "not_found");
}

#[tokio::test]
async fn a_stalled_client_is_disconnected() {
    let args = ["--header-timeout", "500ms", "--body-timeout", "500ms"].map(str::to_owned);
    let options = NodeOptions {
        args: args.to_vec(),
        ..NodeOptions::default()
    };
    let node = Node::start_with(options).await;
    let bucket = node.api().create_bucket().await;
    let mut slow = RawConnection::open(node.http()).await;
    slow.write(b"GET /ping HTTP/1.1\r\nHost: loc").await;
    slow.receive(false).await.assert_refused(&[408]);

    let put = RawRequest::new("PUT", &bucket.key_path("k"));
    let mut stuck = RawConnection::open(node.http()).await;
    stuck
        .write(&put.header("Content-Length", "10").raw_body(b"half").bytes())
        .await;
    expect_answer(stuck.receive(false).await).assert_error(408, "request_timeout");
    node.api()
        .get(&bucket.key_path("k"))
        .await
        .assert_error(404, "not_found");
}
