//! TLS at the router, and certificates that change while it runs.
// Helpers of tests panic as tests do.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

use std::fs;
use std::path::{Path, PathBuf};
use std::time::Duration;

use cloudkv_cluster_tests::{Ending, Node, Router, eventually};
use tempfile::TempDir;

const SOON: Duration = Duration::from_secs(30);
const NAME: &str = "api.cloudkv.io";

/// A certificate that signs itself, and its key, in files.
struct Files {
    dir: TempDir,
}

impl Files {
    fn new() -> Self {
        let files = Self {
            dir: tempfile::tempdir().unwrap(),
        };
        files.renew();
        files
    }

    fn path(&self, name: &str) -> PathBuf {
        self.dir.path().join(name)
    }

    /// Makes another certificate and key in place of those that are there; its PEM is kept beside.
    fn renew(&self) -> PathBuf {
        let made = rcgen::generate_simple_self_signed(vec![NAME.to_owned()]).unwrap();
        let certificate = made.cert.pem();
        let kept = self.path(&format!("{:?}.pem", std::time::Instant::now()));
        fs::write(&kept, &certificate).unwrap();
        fs::write(self.path("key.pem"), made.signing_key.serialize_pem()).unwrap();
        fs::write(self.path("cert.pem"), certificate).unwrap();
        kept
    }

    async fn router(&self, node: &Node) -> Router {
        let (cert, key) = (self.path("cert.pem"), self.path("key.pem"));
        let args = [
            "--tls-cert",
            cert.to_str().unwrap(),
            "--tls-key",
            key.to_str().unwrap(),
        ];
        Router::start_with(&[node.rpc()], &args).await
    }
}

/// What curl gets for `/ping`, trusting this certificate: the version of HTTP, or its error.
async fn ping(router: &Router, trust: &Path, flag: &str) -> Result<String, String> {
    let https = router.https();
    let resolve = format!("{NAME}:{}:{}", https.port(), https.ip());
    let url = format!("https://{NAME}:{}/ping", https.port());
    let output = tokio::process::Command::new("curl")
        .args(["-sS", "--noproxy", "*", "--max-time", "20", flag])
        .args(["--resolve", &resolve, "--cacert", trust.to_str().unwrap()])
        .args([
            "-o",
            "/dev/null",
            "-w",
            "%{http_code} %{http_version}",
            &url,
        ])
        .output()
        .await
        .expect("run curl");
    if output.status.success() {
        Ok(String::from_utf8_lossy(&output.stdout).into_owned())
    } else {
        Err(String::from_utf8_lossy(&output.stderr).into_owned())
    }
}

#[tokio::test]
async fn both_versions_are_spoken_over_tls() {
    let node = Node::start().await;
    let files = Files::new();
    let router = files.router(&node).await;
    let trust = files.path("cert.pem");
    assert_eq!(ping(&router, &trust, "--http2").await.unwrap(), "200 2");
    assert_eq!(ping(&router, &trust, "--http1.1").await.unwrap(), "200 1.1");
    // Without encryption the other port is still there, and this one gives no answer.
    router.api().get("/ping").await.status(200);
    let plain = cloudkv_cluster_tests::RawRequest::new("GET", "/ping");
    let ending = plain.try_send(router.https()).await;
    assert!(!matches!(ending, Ending::Answer(_)), "{ending:?}");
}

#[tokio::test]
async fn a_certificate_that_changes_is_used_and_a_broken_one_is_not() {
    let node = Node::start().await;
    let files = Files::new();
    let router = files.router(&node).await;
    fs::write(files.path("cert.pem"), "no certificate").unwrap();
    eventually("the broken certificate was seen", SOON, async || {
        router.log_text().contains("of before").then_some(())
    })
    .await;
    let renewed = files.renew();
    eventually("the new certificate is used", SOON, async || {
        ping(&router, &renewed, "--http2").await.ok()
    })
    .await;
}
