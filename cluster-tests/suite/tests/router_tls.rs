//! TLS at the router, and certificates that change while it runs.
// Helpers of tests panic as tests do.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

use std::fs;
use std::path::{Path, PathBuf};
use std::time::Duration;

use cloudkv_test_harness::{Node, RawOutcome, Router, eventually};
use tempfile::TempDir;

const STATE_TIMEOUT: Duration = Duration::from_secs(30);
const HOST: &str = "api.cloudkv.io";

/// A self-signed certificate and its key, in files.
struct CertificateFiles {
    dir: TempDir,
}

impl CertificateFiles {
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

    /// Replaces certificate and key; returns a copy of the new certificate.
    fn renew(&self) -> PathBuf {
        let new = rcgen::generate_simple_self_signed(vec![HOST.to_owned()]).unwrap();
        let certificate = new.cert.pem();
        let copy = self.path(&format!("{:?}.pem", std::time::Instant::now()));
        fs::write(&copy, &certificate).unwrap();
        fs::write(self.path("key.pem"), new.signing_key.serialize_pem()).unwrap();
        fs::write(self.path("cert.pem"), certificate).unwrap();
        copy
    }

    async fn start_router(&self, node: &Node) -> Router {
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

/// Gets `/ping` by curl, which trusts this certificate; returns status and HTTP version, or curl's
/// error.
async fn ping(router: &Router, trust: &Path, flag: &str) -> Result<String, String> {
    let https = router.https();
    let resolve = format!("{HOST}:{}:{}", https.port(), https.ip());
    let url = format!("https://{HOST}:{}/ping", https.port());
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
async fn both_http_versions_are_served_over_tls() {
    let node = Node::start().await;
    let files = CertificateFiles::new();
    let router = files.start_router(&node).await;
    let trust = files.path("cert.pem");
    assert_eq!(ping(&router, &trust, "--http2").await.unwrap(), "200 2");
    assert_eq!(ping(&router, &trust, "--http1.1").await.unwrap(), "200 1.1");
    // The plaintext port still serves, and this one doesn't answer plaintext.
    router.api().get("/ping").await.assert_status(200);
    let plain = cloudkv_test_harness::RawRequest::new("GET", "/ping");
    let ending = plain.try_send(router.https()).await;
    assert!(!matches!(ending, RawOutcome::Response(_)), "{ending:?}");
}

#[tokio::test]
async fn a_changed_certificate_is_loaded_and_a_broken_one_is_not() {
    let node = Node::start().await;
    let files = CertificateFiles::new();
    let router = files.start_router(&node).await;
    fs::write(files.path("cert.pem"), "no certificate").unwrap();
    eventually(
        "the broken certificate is logged",
        STATE_TIMEOUT,
        async || {
            router
                .log_text()
                .contains("the previous one stays in use")
                .then_some(())
        },
    )
    .await;
    let renewed = files.renew();
    eventually("the new certificate is used", STATE_TIMEOUT, async || {
        ping(&router, &renewed, "--http2").await.ok()
    })
    .await;
}
