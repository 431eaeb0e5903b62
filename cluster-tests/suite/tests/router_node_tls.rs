//! A router and a node with certificates: nothing is sent in plaintext, and nothing to an impostor
//! of the node.
// Helpers of tests panic as tests do.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

use cloudkv_test_harness::region::Certificates;
use cloudkv_test_harness::{Bucket, Node, NodeOptions, Router, TrafficRecorder, eventually};
use std::net::SocketAddr;
use std::time::Duration;
use tempfile::TempDir;

const STATE_TIMEOUT: Duration = Duration::from_secs(30);
/// A text that ciphertext contains only by a negligible chance.
const SECRET: &str = "correct horse battery staple";
/// The first byte of a TLS connection in both directions: content type handshake.
const TLS_HANDSHAKE: u8 = 22;

/// A node with certificates, whose ports are reached through recorders.
struct Cluster {
    node: Node,
    http: TrafficRecorder,
    rpc: TrafficRecorder,
    certificates: Certificates,
    _dir: TempDir,
}

impl Cluster {
    async fn start() -> Self {
        let dir = tempfile::tempdir().unwrap();
        let certificates = Certificates::create(dir.path());
        let (http, rpc) = (
            TrafficRecorder::start().await,
            TrafficRecorder::start().await,
        );
        let mut args = certificates.issue_node(rpc.address().ip());
        for (flag, recorder) in [("--advertise-http", &http), ("--advertise-rpc", &rpc)] {
            args.extend([flag.to_owned(), recorder.address().to_string()]);
        }
        let node = Node::start_with(NodeOptions {
            args,
            ..NodeOptions::default()
        })
        .await;
        http.set_target(node.http());
        rpc.set_target(node.rpc());
        Self {
            node,
            http,
            rpc,
            certificates,
            _dir: dir,
        }
    }

    fn router_args(&self) -> Vec<String> {
        self.certificates.issue_router("router1")
    }

    async fn start_router(&self) -> Router {
        let args = self.router_args();
        let args: Vec<&str> = args.iter().map(String::as_str).collect();
        Router::start_with(&[self.rpc.address()], &args).await
    }
}

/// Sends requests of each kind: for keys and buckets, small and large, with and without a body.
async fn send_all_kinds(router: &Router) -> Bucket {
    let api = router.api();
    let bucket = api.create_bucket_with(&[("plan", "business")]).await;
    let (small, large) = (bucket.key_path("small"), bucket.key_path("large"));
    api.put(&small, SECRET).await.assert_status(200);
    let value = SECRET.repeat(500);
    let put = || {
        api.put(&large, value.clone())
            .header("x-request-id", SECRET)
    };
    put().await.assert_status(200);
    eventually(
        "keys go over the stream of calls",
        STATE_TIMEOUT,
        async || {
            assert_eq!(api.get(&small).await.text(), SECRET);
            let streamed = router.metric("cloudkv_router_streamed_total").await;
            (streamed > 0.0).then_some(())
        },
    )
    .await;
    assert_eq!(api.get(&large).await.text(), value);
    api.get(&bucket.listing_path()).await.assert_status(200);
    let listed = api.get("/buckets").header("api-key", &bucket.account);
    assert!(listed.await.assert_status(200).text().contains(&bucket.id));
    bucket
}

#[tokio::test]
async fn a_router_sends_nothing_to_a_node_in_plaintext() {
    let cluster = Cluster::start().await;
    let router = cluster.start_router().await;
    let bucket = send_all_kinds(&router).await;
    for recorder in [&cluster.http, &cluster.rpc] {
        let recorded = recorder.traffic();
        assert!(!recorded.is_empty(), "no connection was recorded");
        for side in recorded.iter().flatten() {
            // A connection for users' requests begins with its mark, and the rest is TLS.
            let begin = side.strip_prefix(b"USER/1\r\n").unwrap_or(side);
            let text = String::from_utf8_lossy(side);
            assert_eq!(begin.first(), Some(&TLS_HANDSHAKE), "{text}");
            for word in [SECRET, "HTTP/1.1", "/ping", &bucket.id, &bucket.account] {
                assert!(!text.contains(word), "{word} in {text}");
            }
        }
    }
    // Clients of the node itself use the same port without TLS.
    let direct = cluster.node.api().get(&bucket.key_path("small"));
    assert_eq!(direct.await.text(), SECRET);
}

#[tokio::test]
async fn a_router_sends_nothing_to_an_impostor_of_the_node() {
    let mut cluster = Cluster::start().await;
    let router = cluster.start_router().await;
    let bucket = send_all_kinds(&router).await;
    // Another node answers in its place, with a certificate of another CA.
    let other = Cluster::start().await;
    cluster.node.terminate().await;
    cluster.http.set_target(other.node.http());
    cluster.rpc.set_target(other.node.rpc());
    let key = bucket.key_path("small");
    eventually(
        "the router knows that the node is down",
        STATE_TIMEOUT,
        async || {
            let put = router.api().put(&key, SECRET).try_send().await.ok()?;
            put.assert_error(503, "unavailable");
            let ready = router.admin_api().get("/readyz").unchecked();
            (ready.await.status == 503).then_some(())
        },
    )
    .await;
    // Nor in plaintext, which that port would accept.
    let is_counted =
        |line: &str| line.starts_with("cloudkv_http_requests_total") && !line.ends_with(" 0");
    let page = other.node.admin_api().get("/metrics").unchecked().await;
    let requests: Vec<&str> = page.text().lines().filter(|it| is_counted(it)).collect();
    assert!(
        requests.is_empty(),
        "the impostor got requests: {requests:?}"
    );
}

#[tokio::test]
async fn a_router_without_a_certificate_is_refused() {
    let cluster = Cluster::start().await;
    let seeds: [SocketAddr; 1] = [cluster.rpc.address()];
    let router = Router::spawn(&seeds, &[]);
    let refused = "cloudkv_rpc_refused_connections_total";
    eventually("it is refused", STATE_TIMEOUT, async || {
        let page = cluster.node.admin_api().get("/metrics").unchecked().await;
        let mut lines = page.text().lines();
        let line = lines.find(|line| line.starts_with(refused))?.to_owned();
        (!line.ends_with(" 0")).then_some(())
    })
    .await;
    let answer = eventually("the router answers", STATE_TIMEOUT, async || {
        router.api().get("/ping").try_send().await.ok()
    })
    .await;
    answer.assert_error(503, "unavailable");
}
