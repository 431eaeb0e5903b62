//! Between a router and a node with certificates: nothing is said in the clear, and nothing to
//! whoever isn't the node.
// Helpers of tests panic as tests do.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

use cloudkv_cluster_tests::region::Certificates;
use cloudkv_cluster_tests::{Bucket, Node, NodeOptions, Recorder, Router, eventually};
use std::net::SocketAddr;
use std::time::Duration;
use tempfile::TempDir;

const SOON: Duration = Duration::from_secs(30);
/// Never part of anything that is encrypted, but by an accident that is less likely than others.
const SECRET: &str = "correct horse battery staple";
/// The first byte of a TLS connection, either way.
const HANDSHAKE: u8 = 22;

/// A node with certificates; what goes to its ports passes recorders.
struct Cluster {
    node: Node,
    http: Recorder,
    rpc: Recorder,
    certificates: Certificates,
    _dir: TempDir,
}

impl Cluster {
    async fn start() -> Self {
        let dir = tempfile::tempdir().unwrap();
        let certificates = Certificates::create(dir.path());
        let (http, rpc) = (Recorder::start().await, Recorder::start().await);
        let mut args = certificates.node(rpc.address().ip());
        for (flag, at) in [("--advertise-http", &http), ("--advertise-rpc", &rpc)] {
            args.extend([flag.to_owned(), at.address().to_string()]);
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
        self.certificates.router("router1")
    }

    async fn router(&self) -> Router {
        let args = self.router_args();
        let args: Vec<&str> = args.iter().map(String::as_str).collect();
        Router::start_with(&[self.rpc.address()], &args).await
    }
}

/// A request of each kind: of keys and of buckets, small and large, with and without a body.
async fn use_all(router: &Router) -> Bucket {
    let api = router.api();
    let bucket = api.bucket_with(&[("plan", "business")]).await;
    let (small, large) = (bucket.key("small"), bucket.key("large"));
    api.put(&small, SECRET).await.status(200);
    let value = SECRET.repeat(500);
    let put = || {
        api.put(&large, value.clone())
            .header("x-request-id", SECRET)
    };
    put().await.status(200);
    eventually("keys go over the stream of calls", SOON, async || {
        assert_eq!(api.get(&small).await.text(), SECRET);
        let streamed = router.metric("cloudkv_router_streamed_total").await;
        (streamed > 0.0).then_some(())
    })
    .await;
    assert_eq!(api.get(&large).await.text(), value);
    api.get(&bucket.keys()).await.status(200);
    let listed = api.get("/buckets").header("api-key", &bucket.account);
    assert!(listed.await.status(200).text().contains(&bucket.id));
    bucket
}

#[tokio::test]
async fn nothing_goes_from_router_to_node_in_the_clear() {
    let cluster = Cluster::start().await;
    let router = cluster.router().await;
    let bucket = use_all(&router).await;
    for recorder in [&cluster.http, &cluster.rpc] {
        let said = recorder.said();
        assert!(!said.is_empty(), "the router has asked");
        for side in said.iter().flatten() {
            // A connection for users' requests says so first, and no more.
            let begin = side.strip_prefix(b"USER/1\r\n").unwrap_or(side);
            let clear = String::from_utf8_lossy(side);
            assert_eq!(begin.first(), Some(&HANDSHAKE), "{clear}");
            for word in [SECRET, "HTTP/1.1", "/ping", &bucket.id, &bucket.account] {
                assert!(!clear.contains(word), "{word} in {clear}");
            }
        }
    }
    // Users who ask the node itself do so as ever, on the same port.
    let direct = cluster.node.api().get(&bucket.key("small"));
    assert_eq!(direct.await.text(), SECRET);
}

#[tokio::test]
async fn a_router_says_nothing_to_who_is_not_the_node() {
    let mut cluster = Cluster::start().await;
    let router = cluster.router().await;
    let bucket = use_all(&router).await;
    // Somebody else answers in the node's place: it has a certificate, though of another CA.
    let other = Cluster::start().await;
    cluster.node.terminate().await;
    cluster.http.set_target(other.node.http());
    cluster.rpc.set_target(other.node.rpc());
    let key = bucket.key("small");
    eventually("the node is seen to be gone", SOON, async || {
        let put = router.api().put(&key, SECRET).try_send().await.ok()?;
        put.error(503, "unavailable");
        let ready = router.admin_api().get("/readyz").unchecked();
        (ready.await.status == 503).then_some(())
    })
    .await;
    // Not in the clear, either, though that port would take it.
    let counted =
        |line: &str| line.starts_with("cloudkv_http_requests_total") && !line.ends_with(" 0");
    let page = other.node.admin_api().get("/metrics").unchecked().await;
    let asked: Vec<&str> = page.text().lines().filter(|it| counted(it)).collect();
    assert!(asked.is_empty(), "the other one was asked: {asked:?}");
}

#[tokio::test]
async fn a_router_without_a_certificate_gets_nowhere() {
    let cluster = Cluster::start().await;
    let seeds: [SocketAddr; 1] = [cluster.rpc.address()];
    let router = Router::launch(&seeds, &[]);
    let refused = "cloudkv_rpc_refused_connections_total";
    eventually("it is refused", SOON, async || {
        let page = cluster.node.admin_api().get("/metrics").unchecked().await;
        let mut lines = page.text().lines();
        let line = lines.find(|line| line.starts_with(refused))?.to_owned();
        (!line.ends_with(" 0")).then_some(())
    })
    .await;
    let answer = eventually("the router answers", SOON, async || {
        router.api().get("/ping").try_send().await.ok()
    })
    .await;
    answer.error(503, "unavailable");
}
