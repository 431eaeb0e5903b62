//! Requests as the router forwards them to a node, recorded between the two, and clients with
//! unusual behaviour.
// Helpers of tests panic as tests do.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

use std::time::Duration;

use cloudkv_test_harness::{
    Bucket, Node, NodeOptions, RawConnection, RawOutcome, RawRequest, Router, TrafficRecorder,
    encode_chunk, eventually,
};

const STATE_TIMEOUT: Duration = Duration::from_secs(30);

/// Starts a node whose HTTP port is reached through a recorder.
async fn recorded_node() -> (Node, TrafficRecorder) {
    let recorder = TrafficRecorder::start().await;
    let address = recorder.address().to_string();
    let options = NodeOptions {
        args: vec!["--advertise-http".into(), address],
        ..NodeOptions::default()
    };
    let node = Node::start_with(options).await;
    recorder.set_target(node.http());
    (node, recorder)
}

/// Returns the lines, in lower case, of the head with which request `id` reached the node.
fn forwarded_head(recorder: &TrafficRecorder, id: &str) -> Vec<String> {
    let all = recorder.requests_text().to_ascii_lowercase();
    let mut heads = all.split("\r\n\r\n");
    let line = format!("x-request-id: {id}");
    let head = heads.find(|head| head.lines().any(|it| it == line));
    let head = head.unwrap_or_else(|| panic!("no request {id} in {all}"));
    head.lines().map(str::to_owned).collect()
}

/// Returns the value of a header.
fn header_value<'a>(head: &'a [String], name: &str) -> Option<&'a str> {
    let mut lines = head.iter().filter_map(|line| line.split_once(": "));
    lines.find(|(it, _)| *it == name).map(|(_, value)| value)
}

#[tokio::test]
async fn forwarded_headers_are_accepted_from_trusted_proxies_only() {
    let (node, recorder) = recorded_node().await;
    let seeds = [node.rpc()];
    let ping = |id: &str| {
        RawRequest::new("GET", "/ping")
            .header("X-Request-ID", id)
            .header("Forwarded", "for=192.0.2.1;proto=https")
            .header("X-Forwarded-For", "192.0.2.1")
            .header("X-Forwarded-Proto", "https")
            .header("X-Forwarded-Host", "elsewhere.example")
            .header("X-Real-IP", "192.0.2.1")
    };
    let distrusting = Router::start_with(&seeds, &["--trusted-proxies", "10.0.0.0/8"]).await;
    ping("of-a-stranger")
        .send(distrusting.http())
        .await
        .assert_status(200);
    let head = forwarded_head(&recorder, "of-a-stranger");
    let path = header_value(&head, "x-forwarded-for").unwrap();
    assert!(path.starts_with("127.") && !path.contains(','), "{path}");
    assert_eq!(header_value(&head, "x-forwarded-proto"), Some("http"));
    for name in ["forwarded", "x-forwarded-host", "x-real-ip"] {
        assert_eq!(header_value(&head, name), None, "{name}");
    }

    let trusting = Router::start_with(&seeds, &["--trusted-proxies", "127.0.0.0/8"]).await;
    ping("of-a-proxy")
        .send(trusting.http())
        .await
        .assert_status(200);
    let head = forwarded_head(&recorder, "of-a-proxy");
    let path = header_value(&head, "x-forwarded-for").unwrap();
    assert!(path.starts_with("192.0.2.1, 127."), "{path}");
    assert_eq!(header_value(&head, "x-forwarded-proto"), Some("https"));
    assert_eq!(
        header_value(&head, "forwarded"),
        Some("for=192.0.2.1;proto=https")
    );
}

#[tokio::test]
async fn trailers_are_forwarded_and_the_connection_goes_on() {
    let (node, recorder) = recorded_node().await;
    let router = Router::start(&[node.rpc()]).await;
    let bucket = router.api().create_bucket().await;
    let key = bucket.key_path("k");
    let mut connection = RawConnection::open(router.http()).await;
    let head = RawRequest::new("PUT", &key)
        .header("Transfer-Encoding", "chunked")
        .header("Trailer", "X-Sum");
    connection.write(&head.bytes()).await;
    connection.write(&encode_chunk(b"value")).await;
    connection.write(b"0\r\nX-Sum: 7\r\n\r\n").await;
    expect_answer(connection.receive(false).await, 200);
    let forwarded = recorder.requests_text().to_ascii_lowercase();
    assert!(forwarded.contains("0\r\nx-sum: 7\r\n\r\n"), "{forwarded}");
    let get = RawRequest::new("GET", &key);
    assert_eq!(expect_answer(connection.send(&get).await, 200), b"value");
}

fn expect_answer(ending: RawOutcome, status: u16) -> Vec<u8> {
    let RawOutcome::Response(answer) = ending else {
        panic!("no answer: {ending:?}")
    };
    answer.assert_status(status);
    answer.body.to_vec()
}

#[tokio::test]
async fn an_answer_before_the_end_of_the_body_is_forwarded_at_once() {
    let (node, _recorder) = recorded_node().await;
    let router = Router::start(&[node.rpc()]).await;
    for target in ["/kv/a0000000000000/k", "/buckets/a0000000000000"] {
        let method = if target.starts_with("/kv") {
            "PUT"
        } else {
            "PATCH"
        };
        let head = RawRequest::new(method, target).header("Content-Length", "1000000");
        let mut connection = RawConnection::open(router.http()).await;
        connection.write(&head.bytes()).await;
        connection.write(b"the first bytes of many").await;
        // The rest is never sent.
        let RawOutcome::Response(answer) = connection.receive(false).await else {
            panic!("no answer to {method} {target}")
        };
        assert!((400..500).contains(&answer.status), "{answer:?}");
        assert_eq!(answer.header("connection"), "close");
    }
    router.api().get("/ping").await.assert_status(200);
}

#[tokio::test]
async fn disconnecting_clients_disturb_nobody() {
    let (node, _recorder) = recorded_node().await;
    let router = Router::start(&[node.rpc()]).await;
    let bucket: Bucket = router.api().create_bucket().await;
    let listing = bucket.listing_path();
    for number in 0..200 {
        let key = bucket.key_path(&format!("k{}", number % 10));
        let request = match number % 4 {
            0 => RawRequest::new("GET", &key),
            1 => RawRequest::new("GET", &listing),
            2 => RawRequest::new("PUT", &key).parse_body(b"whole"),
            _ => RawRequest::new("PUT", &key)
                .header("Content-Length", "5")
                .raw_body(b"wh"),
        };
        let mut connection = RawConnection::open(router.http()).await;
        connection.write(&request.bytes()).await;
        drop(connection);
    }
    eventually(
        "all their connections are closed",
        STATE_TIMEOUT,
        async || {
            let open = router.metric("cloudkv_http_connections").await;
            (open < 1.0).then_some(())
        },
    )
    .await;
    for number in 0..10 {
        let got = router
            .api()
            .get(&bucket.key_path(&format!("k{number}")))
            .await;
        let is_whole = got.status == 200 && got.body == "whole";
        assert!(is_whole || got.status == 404, "{got:?}");
    }
    // Answers reach their requests: none is left over on a connection to the node.
    for number in 0..50 {
        let (key, value) = (bucket.key_path("after"), number.to_string());
        router
            .api()
            .put(&key, value.clone())
            .await
            .assert_status(200);
        assert_eq!(router.api().get(&key).await.text(), value);
        router.api().get("/ping").await.assert_status(200);
    }
}
