//! What goes from the router to a node, as somebody between them hears it, and what becomes of
//! clients that do the unusual.
// Helpers of tests panic as tests do.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

use std::time::Duration;

use cloudkv_cluster_tests::{
    Bucket, Connection, Ending, Node, NodeOptions, RawRequest, Recorder, Router, chunk, eventually,
};

const SOON: Duration = Duration::from_secs(30);

/// A node whose port for HTTP is overheard.
async fn overheard() -> (Node, Recorder) {
    let recorder = Recorder::start().await;
    let address = recorder.address().to_string();
    let options = NodeOptions {
        args: vec!["--advertise-http".into(), address],
        ..NodeOptions::default()
    };
    let node = Node::start_with(options).await;
    recorder.set_target(node.http());
    (node, recorder)
}

/// The head that a request with this ID had when it came to the node, in lower case, by lines.
fn heard(recorder: &Recorder, id: &str) -> Vec<String> {
    let all = recorder.requests().to_ascii_lowercase();
    let mut heads = all.split("\r\n\r\n");
    let line = format!("x-request-id: {id}");
    let head = heads.find(|head| head.lines().any(|it| it == line));
    let head = head.unwrap_or_else(|| panic!("no request {id} in {all}"));
    head.lines().map(str::to_owned).collect()
}

/// The value of a header.
fn value<'a>(head: &'a [String], name: &str) -> Option<&'a str> {
    let mut lines = head.iter().filter_map(|line| line.split_once(": "));
    lines.find(|(it, _)| *it == name).map(|(_, value)| value)
}

#[tokio::test]
async fn only_trusted_proxies_say_for_whom_they_ask() {
    let (node, recorder) = overheard().await;
    let seeds = [node.rpc()];
    let ask = |id: &str| {
        RawRequest::new("GET", "/ping")
            .header("X-Request-ID", id)
            .header("Forwarded", "for=192.0.2.1;proto=https")
            .header("X-Forwarded-For", "192.0.2.1")
            .header("X-Forwarded-Proto", "https")
            .header("X-Forwarded-Host", "elsewhere.example")
            .header("X-Real-IP", "192.0.2.1")
    };
    let wary = Router::start_with(&seeds, &["--trusted-proxies", "10.0.0.0/8"]).await;
    ask("of-a-stranger").send(wary.http()).await.status(200);
    let head = heard(&recorder, "of-a-stranger");
    let path = value(&head, "x-forwarded-for").unwrap();
    assert!(path.starts_with("127.") && !path.contains(','), "{path}");
    assert_eq!(value(&head, "x-forwarded-proto"), Some("http"));
    for name in ["forwarded", "x-forwarded-host", "x-real-ip"] {
        assert_eq!(value(&head, name), None, "{name}");
    }

    let trusting = Router::start_with(&seeds, &["--trusted-proxies", "127.0.0.0/8"]).await;
    ask("of-a-proxy").send(trusting.http()).await.status(200);
    let head = heard(&recorder, "of-a-proxy");
    let path = value(&head, "x-forwarded-for").unwrap();
    assert!(path.starts_with("192.0.2.1, 127."), "{path}");
    assert_eq!(value(&head, "x-forwarded-proto"), Some("https"));
    assert_eq!(value(&head, "forwarded"), Some("for=192.0.2.1;proto=https"));
}

#[tokio::test]
async fn trailers_pass_and_the_connection_goes_on() {
    let (node, recorder) = overheard().await;
    let router = Router::start(&[node.rpc()]).await;
    let bucket = router.api().bucket().await;
    let key = bucket.key("k");
    let mut connection = Connection::open(router.http()).await;
    let head = RawRequest::new("PUT", &key)
        .header("Transfer-Encoding", "chunked")
        .header("Trailer", "X-Sum");
    connection.write(&head.bytes()).await;
    connection.write(&chunk(b"value")).await;
    connection.write(b"0\r\nX-Sum: 7\r\n\r\n").await;
    answer(connection.receive(false).await, 200);
    let heard = recorder.requests().to_ascii_lowercase();
    assert!(heard.contains("0\r\nx-sum: 7\r\n\r\n"), "{heard}");
    let get = RawRequest::new("GET", &key);
    assert_eq!(answer(connection.send(&get).await, 200), b"value");
}

fn answer(ending: Ending, status: u16) -> Vec<u8> {
    let Ending::Answer(answer) = ending else {
        panic!("no answer: {ending:?}")
    };
    answer.status(status);
    answer.body.to_vec()
}

#[tokio::test]
async fn an_answer_that_comes_before_the_body_is_passed_on_at_once() {
    let (node, _recorder) = overheard().await;
    let router = Router::start(&[node.rpc()]).await;
    for target in ["/kv/a0000000000000/k", "/buckets/a0000000000000"] {
        let method = if target.starts_with("/kv") {
            "PUT"
        } else {
            "PATCH"
        };
        let head = RawRequest::new(method, target).header("Content-Length", "1000000");
        let mut connection = Connection::open(router.http()).await;
        connection.write(&head.bytes()).await;
        connection.write(b"the first bytes of many").await;
        // The rest never comes.
        let Ending::Answer(answer) = connection.receive(false).await else {
            panic!("no answer to {method} {target}")
        };
        assert!((400..500).contains(&answer.status), "{answer:?}");
        assert_eq!(answer.header("connection"), "close");
    }
    router.api().get("/ping").await.status(200);
}

#[tokio::test]
async fn clients_that_go_away_take_nothing_with_them() {
    let (node, _recorder) = overheard().await;
    let router = Router::start(&[node.rpc()]).await;
    let bucket: Bucket = router.api().bucket().await;
    let listing = bucket.keys();
    for number in 0..200 {
        let key = bucket.key(&format!("k{}", number % 10));
        let request = match number % 4 {
            0 => RawRequest::new("GET", &key),
            1 => RawRequest::new("GET", &listing),
            2 => RawRequest::new("PUT", &key).body(b"whole"),
            _ => RawRequest::new("PUT", &key)
                .header("Content-Length", "5")
                .trailing(b"wh"),
        };
        let mut connection = Connection::open(router.http()).await;
        connection.write(&request.bytes()).await;
        drop(connection);
    }
    eventually("all their connections are closed", SOON, async || {
        let open = router.metric("cloudkv_http_connections").await;
        (open < 1.0).then_some(())
    })
    .await;
    for number in 0..10 {
        let got = router.api().get(&bucket.key(&format!("k{number}"))).await;
        let is_whole = got.status == 200 && got.body == "whole";
        assert!(is_whole || got.status == 404, "{got:?}");
    }
    // Answers go to who asked: none was left on a connection to the node.
    for number in 0..50 {
        let (key, value) = (bucket.key("after"), number.to_string());
        router.api().put(&key, value.clone()).await.status(200);
        assert_eq!(router.api().get(&key).await.text(), value);
        router.api().get("/ping").await.status(200);
    }
}
