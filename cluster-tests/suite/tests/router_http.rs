//! HTTP through the router: other programs' clients, odd clients, slow ones, and many.
// Helpers of tests panic as tests do.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

use std::process::Stdio;
use std::time::Duration;

use cloudkv_test_harness::prometheus;
use cloudkv_test_harness::{
    ApiClient, Bucket, Node, RawConnection, RawOutcome, RawRequest, Router, encode_chunk,
    eventually,
};
use futures_util::StreamExt;
use futures_util::future::join_all;
use futures_util::stream;

const STATE_TIMEOUT: Duration = Duration::from_secs(30);

async fn start_with(args: &[&str]) -> (Node, Router, Bucket) {
    let node = Node::start().await;
    let router = Router::start_with(&[node.rpc()], args).await;
    let bucket = router
        .api()
        .create_bucket_with(&[("plan", "business")])
        .await;
    (node, router, bucket)
}

/// Runs curl with these arguments; returns its output.
async fn curl(args: &[&str]) -> String {
    let output = tokio::process::Command::new("curl")
        .args([
            "--silent",
            "--show-error",
            "--noproxy",
            "*",
            "--max-time",
            "30",
        ])
        .args(args)
        .stdin(Stdio::null())
        .output()
        .await
        .expect("run curl");
    let errors = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "curl {args:?}: {errors}");
    String::from_utf8_lossy(&output.stdout).into_owned()
}

#[tokio::test]
async fn curl_and_reqwest_use_both_http_versions() {
    let (_node, router, bucket) = start_with(&[]).await;
    let url = format!("http://{}{}", router.http(), bucket.key_path("k"));
    let version = "%{http_version}";
    for (flag, expected) in [("--http1.1", "1.1"), ("--http2-prior-knowledge", "2")] {
        let put = [
            "-X",
            "PUT",
            "-d",
            expected,
            flag,
            "-o",
            "/dev/null",
            "-w",
            version,
        ];
        assert_eq!(curl(&[&put[..], &[&url]].concat()).await, expected);
        assert_eq!(
            curl(&[flag, &url]).await,
            expected,
            "the value is read back"
        );
        let head = curl(&["-I", flag, &url]).await;
        assert!(head.to_ascii_lowercase().contains("etag: "), "{head}");
    }
    for api in [router.api(), ApiClient::http2(router.http())] {
        let values: Vec<String> = (0..50).map(|number| format!("value {number}")).collect();
        join_all(values.iter().map(async |value| {
            let key = bucket.key_path(&value.replace(' ', "-"));
            api.put(&key, value.clone()).await.assert_status(200);
            assert_eq!(api.get(&key).await.text(), value);
            let not_modified = api
                .get(&key)
                .header("if-none-match", &api.get(&key).await.etag());
            not_modified.await.assert_status(304).assert_empty();
        }))
        .await;
    }
}

#[tokio::test]
async fn other_programs_than_curl_put_and_get() {
    let (_node, router, bucket) = start_with(&[]).await;
    let url = format!("http://{}{}", router.http(), bucket.key_path("k"));
    let wget = ["--quiet", "--no-proxy", "--tries=1", "--output-document=-"];
    let script = "import sys, urllib.request as r\n\
        o = r.build_opener(r.ProxyHandler({}))\n\
        b = sys.argv[2].encode() if len(sys.argv) > 2 else None\n\
        q = r.Request(sys.argv[1], b, method='PUT' if b else 'GET')\n\
        print(o.open(q).read().decode(), end='')";
    let mut programs = 0;
    for (program, put, get) in [
        (
            "wget",
            [&wget[..], &["--method=PUT", "--body-data=by wget", &url]].concat(),
            [&wget[..], &[&url]].concat(),
        ),
        (
            "python3",
            vec!["-c", script, &url, "by python3"],
            vec!["-c", script, &url],
        ),
    ] {
        let run = async |args: &[&str]| {
            let mut command = tokio::process::Command::new(program);
            let output = command.args(args).stdin(Stdio::null()).output().await;
            // Not every machine has both.
            let output = output.ok()?;
            let errors = String::from_utf8_lossy(&output.stderr);
            assert!(output.status.success(), "{program} {args:?}: {errors}");
            Some(String::from_utf8_lossy(&output.stdout).into_owned())
        };
        if run(&put).await.is_some() {
            assert_eq!(run(&get).await.unwrap(), format!("by {program}"));
            programs += 1;
        }
    }
    assert!(programs > 0, "install wget or python3");
}

#[tokio::test]
async fn large_values_and_chunked_bodies_are_forwarded() {
    let (_node, router, bucket) = start_with(&["--retry-buffer-kib", "1"]).await;
    let value = vec![b'v'; 16_000];
    let key = bucket.key_path("large");
    router
        .api()
        .put(&key, value.clone())
        .await
        .assert_status(200);
    assert_eq!(router.api().get(&key).await.body, value);
    let mut connection = RawConnection::open(router.http()).await;
    let head = RawRequest::new("PUT", &key).header("Transfer-Encoding", "chunked");
    connection.write(&head.bytes()).await;
    for piece in value.chunks(1000) {
        connection.write(&encode_chunk(piece)).await;
        tokio::task::yield_now().await;
    }
    connection.write(&encode_chunk(b"")).await;
    let RawOutcome::Response(answer) = connection.receive(false).await else {
        panic!("no answer")
    };
    answer.assert_status(200);
    assert_eq!(router.api().get(&key).await.body, value);
    // The connection can be used again.
    let RawOutcome::Response(answer) = connection.send(&RawRequest::new("GET", &key)).await else {
        panic!("no answer")
    };
    assert_eq!(answer.body, value);
}

#[tokio::test]
async fn a_client_that_disconnects_within_its_body_writes_nothing() {
    let (_node, router, bucket) = start_with(&[]).await;
    for head in [
        RawRequest::new("PUT", &bucket.key_path("half")).header("Content-Length", "1000"),
        RawRequest::new("PUT", &bucket.key_path("half")).header("Transfer-Encoding", "chunked"),
    ] {
        let mut connection = RawConnection::open(router.http()).await;
        connection.write(&head.bytes()).await;
        connection.write(&encode_chunk(b"half of it")).await;
        connection.shutdown_write().await;
        // A refusal or a close, but no success.
        if let RawOutcome::Response(answer) = connection.receive(false).await {
            assert!(answer.status >= 400, "{answer:?}");
        }
    }
    router
        .api()
        .get(&bucket.key_path("half"))
        .await
        .assert_status(404);
}

#[tokio::test]
async fn requests_in_requests_are_not_smuggled() {
    let (_node, router, bucket) = start_with(&[]).await;
    let inner = format!(
        "PUT {} HTTP/1.1\r\nHost: x\r\nContent-Length: 1\r\n\r\nx",
        bucket.key_path("smuggled")
    );
    let key = bucket.key_path("outer");
    let put = || RawRequest::new("PUT", &key);
    let odd = [
        put()
            .header("Content-Length", "5")
            .header("Transfer-Encoding", "chunked")
            .raw_body(format!("0\r\n\r\n{inner}").as_bytes()),
        put()
            .header("Content-Length", "0")
            .header("Content-Length", "60")
            .raw_body(inner.as_bytes()),
        put()
            .header("Transfer-Encoding", "chunked, identity")
            .raw_body(format!("0\r\n\r\n{inner}").as_bytes()),
        put()
            .header("Transfer-Encoding", "xchunked")
            .raw_body(inner.as_bytes()),
        put()
            .header("Content-Length", "+5")
            .raw_body(inner.as_bytes()),
        put()
            .header("Connection", "content-length, transfer-encoding")
            .header("Content-Length", &inner.len().to_string())
            .raw_body(inner.as_bytes()),
    ];
    for request in odd {
        // With any answer, nothing of the body may be parsed as a request.
        let _ = request.try_send(router.http()).await;
    }
    // A request after all of these, over the same connections to the node.
    router
        .api()
        .get(&bucket.key_path("smuggled"))
        .await
        .assert_status(404);
}

#[tokio::test]
async fn a_clients_request_id_is_echoed_and_others_are_generated() {
    let (_node, router, bucket) = start_with(&[]).await;
    let given = router
        .api()
        .get(&bucket.key_path("k"))
        .header("x-request-id", "mine-7");
    assert_eq!(given.await.header("x-request-id"), "mine-7");
    let first = router.api().get(&bucket.key_path("k")).await;
    let second = router.api().get(&bucket.key_path("k")).await;
    assert_ne!(first.header("x-request-id"), second.header("x-request-id"));
}

#[tokio::test]
async fn hop_by_hop_headers_are_not_forwarded() {
    let (_node, router, bucket) = start_with(&[]).await;
    // Connection must not remove the header that authenticates a request.
    let request = RawRequest::new("GET", "/buckets")
        .header("Connection", "api-key")
        .header("api-key", &bucket.account);
    let answer = request.send(router.http()).await;
    answer.assert_error(400, "invalid_header");
    let upgrade = RawRequest::new("GET", "/ping")
        .header("Connection", "Upgrade, HTTP2-Settings")
        .header("Upgrade", "h2c")
        .header("HTTP2-Settings", "AAMAAABkAAQAAP__");
    let answer = upgrade.send(router.http()).await;
    answer.assert_status(200);
    assert_eq!(answer.find_header("keep-alive"), None);
    let connect = RawRequest::with_request_line("CONNECT example.com:443 HTTP/1.1");
    let connect = connect.header("Host", "example.com:443");
    connect
        .try_send(router.http())
        .await
        .assert_refused(&[400, 405]);
}

#[tokio::test]
async fn a_slow_head_times_out_and_a_thousand_idle_connections_are_kept() {
    let args = ["--header-timeout", "300ms", "--address-connections", "2000"];
    let (_node, router, bucket) = start_with(&args).await;
    let mut slow = RawConnection::open(router.http()).await;
    slow.write(b"GET /ping HTTP/1.1\r\nHo").await;
    let idle: Vec<RawConnection> =
        join_all((0..1000).map(|_| RawConnection::open(router.http()))).await;
    assert!(
        slow.is_closed_within(STATE_TIMEOUT).await,
        "the slow connection is open"
    );
    let key = bucket.key_path("k");
    router.api().put(&key, "v").await.assert_status(200);
    let get = async |mut connection: RawConnection| {
        let ending = connection.send(&RawRequest::new("GET", &key)).await;
        let RawOutcome::Response(answer) = ending else {
            panic!("an idle connection was closed: {ending:?}")
        };
        assert_eq!(answer.text(), "v");
    };
    // Several at once, so that all are used before the idle timeout.
    let reads = stream::iter(idle).map(get).buffer_unordered(16);
    assert_eq!(reads.count().await, 1000);
}

#[tokio::test]
async fn a_stopping_router_finishes_requests_in_flight() {
    let (_node, mut router, bucket) = start_with(&[]).await;
    let mut connection = RawConnection::open(router.http()).await;
    let head = RawRequest::new("PUT", &bucket.key_path("k")).header("Content-Length", "4");
    connection.write(&head.bytes()).await;
    connection.write(b"va").await;
    router.send_sigterm();
    eventually(
        "the router isn't ready any more",
        STATE_TIMEOUT,
        async || {
            let answer = router.admin_api().get("/readyz").unchecked();
            let answer = answer.try_send().await.ok()?;
            (answer.status == 503).then_some(())
        },
    )
    .await;
    connection.write(b"lu").await;
    let RawOutcome::Response(answer) = connection.receive(false).await else {
        panic!("the request in flight got no answer")
    };
    answer.assert_status(200);
    assert_eq!(answer.header("connection"), "close");
    assert_eq!(router.wait_exit().await.code(), Some(0));
}

#[tokio::test]
async fn the_admin_port_serves_metrics_and_status() {
    let (_node, router, bucket) = start_with(&[]).await;
    router
        .api()
        .get(&bucket.key_path("k"))
        .await
        .assert_status(404);
    let page = router.admin_api().get("/metrics").unchecked().await;
    let names = prometheus::sample_names(page.text()).unwrap();
    for name in [
        "cloudkv_router_requests_total",
        "cloudkv_router_retries_total",
        "cloudkv_router_region_healthy",
        "cloudkv_router_node_round_trip_seconds",
        "cloudkv_http_connections",
        "process_resident_memory_bytes",
    ] {
        assert!(names.iter().any(|it| it == name), "{name}");
    }
    let status = router.admin_api().get("/status").unchecked().await.json();
    assert_eq!(status["region"], "local");
    assert_eq!(status["regions"][0]["nodes"][0]["up"], true);
    assert_eq!(status["regions"][0]["leaders"].as_array().unwrap().len(), 8);
    let memory = page.text().lines().find_map(|line| {
        let value = line.strip_prefix("process_resident_memory_bytes ")?;
        value.parse::<f64>().ok()
    });
    assert!(memory.unwrap() > 1e6);
}
