//! A real `cloudkv-node`, alone in its cluster.

use super::endpoint::{Endpoint, Paths};
use super::kind::ServerKind;
use crate::hyper_server::{Sample, headers_to_copy};
use crate::process::ChildProcess;
use crate::workload::fill_value;
use crate::{http, procfs};
use anyhow::{Context, Result, ensure};
use serde::Deserialize;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

/// Maximum time for a node to become ready.
const READY_TIMEOUT: Duration = Duration::from_secs(120);
/// Key of the responses that are copied; not a key of any load.
const SAMPLE_KEY: &str = "sample";

/// A node with its data in a directory of its own.
#[derive(Debug)]
pub(crate) struct Node {
    /// The process.
    pub child: ChildProcess,
    /// Address of the public API.
    pub http: SocketAddr,
    /// Address for routers.
    pub rpc: SocketAddr,
}

/// Contents of the file that a node writes into its data directory once it listens.
#[derive(Debug, Deserialize)]
struct NodeAddresses {
    http: SocketAddr,
    rpc: SocketAddr,
    admin: SocketAddr,
    pid: u32,
}

/// A bucket, and the key of the account that owns it.
#[derive(Debug, Clone, Deserialize)]
pub(crate) struct OwnedBucket {
    /// ID of the bucket.
    #[serde(rename = "bucket_id")]
    pub id: String,
    /// API key of its account.
    #[serde(rename = "account_id")]
    pub account: String,
}

impl Node {
    /// Starts a node on `data_dir` and waits until it is ready.
    pub(crate) async fn start(binary: &Path, data_dir: &Path, log_dir: &Path) -> Result<Self> {
        ensure!(
            binary.exists(),
            "{} is missing: build it with `cargo build --release -p cloudkv-node`",
            binary.display()
        );
        let args: [&std::ffi::OsStr; 10] = [
            "--data-dir".as_ref(),
            data_dir.as_os_str(),
            "--region".as_ref(),
            "local".as_ref(),
            "--http".as_ref(),
            "127.0.0.1:0".as_ref(),
            "--rpc".as_ref(),
            "127.0.0.1:0".as_ref(),
            "--admin".as_ref(),
            "127.0.0.1:0".as_ref(),
        ];
        let mut child = ChildProcess::start("cloudkv-node", binary, args, log_dir)?;
        let (pid, file) = (child.pid(), data_dir.join("addresses.json"));
        let addresses = child
            .wait_for("addresses.json", READY_TIMEOUT, || async {
                read_addresses(&file, pid)
            })
            .await?;
        let admin = addresses.admin;
        child
            .wait_for("200 from /readyz", READY_TIMEOUT, || async move {
                let response = http::request(admin, "GET", "/readyz", Vec::new())
                    .await
                    .ok()?;
                response.status().is_success().then_some(())
            })
            .await?;
        Ok(Self {
            child,
            http: addresses.http,
            rpc: addresses.rpc,
        })
    }

    /// Creates a bucket with a quota of a hundred million keys.
    pub(crate) async fn create_bucket(&self) -> Result<String> {
        create_bucket(self.http).await
    }

    /// Memory of the process.
    pub(crate) fn memory(&self) -> Result<procfs::MemoryUsage> {
        procfs::MemoryUsage::of_process(self.child.pid())
    }

    /// Describes the node as a client sees it, with one bucket for each size of value.
    pub(crate) fn endpoint(&self, buckets: &[(usize, String)]) -> Endpoint {
        let paths = buckets.iter().map(|(value_size, bucket)| Paths {
            value_size: *value_size,
            get: format!("/kv/{bucket}/"),
            get_suffix: String::new(),
            put: format!("/kv/{bucket}/"),
        });
        let pids = vec![self.child.pid()];
        Endpoint {
            kind: ServerKind::Node,
            addr: self.http,
            pids,
            paths: paths.collect(),
        }
    }

    /// Reads a real response of the node, for the bare hyper server to copy.
    pub(crate) async fn sample(&self, bucket: &str, value_size: usize) -> Result<Sample> {
        let prefix = format!("/kv/{bucket}/");
        let path = format!("{prefix}{SAMPLE_KEY}");
        let mut value = vec![0; value_size];
        fill_value(&mut value, 0, 0);
        let put = http::expect_success(self.http, "PUT", &path, value.clone()).await?;
        let get = http::expect_success(self.http, "GET", &path, Vec::new()).await?;
        ensure!(
            get.body() == &value,
            "GET {path} returns other bytes than were written"
        );
        Ok(Sample {
            prefix,
            get_headers: headers_to_copy(get.headers()),
            get_body: value,
            put_headers: headers_to_copy(put.headers()),
        })
    }
}

/// Creates a bucket with a quota of a hundred million keys.
pub(crate) async fn create_bucket(http: SocketAddr) -> Result<String> {
    Ok(create_owned_bucket(http).await?.id)
}

/// Creates a bucket like [`create_bucket`], and returns the key of its account, too.
pub(crate) async fn create_owned_bucket(http: SocketAddr) -> Result<OwnedBucket> {
    let path = "/buckets?access=public&plan=business";
    let response = http::expect_success(http, "POST", path, Vec::new()).await?;
    serde_json::from_slice(response.body()).context("new bucket")
}

/// Restarts a node on its data. Returns the times until it was ready and until `path` was read.
pub(crate) async fn restart_timed(
    binary: &Path,
    data_dir: &Path,
    log_dir: &Path,
    path: &str,
) -> Result<(Node, Duration, Duration)> {
    let started = Instant::now();
    let mut node = Node::start(binary, data_dir, log_dir).await?;
    let ready = started.elapsed();
    let http = node.http;
    node.child
        .wait_for("first key", READY_TIMEOUT, || async move {
            let response = http::request(http, "GET", path, Vec::new()).await.ok()?;
            response.status().is_success().then_some(())
        })
        .await?;
    Ok((node, ready, started.elapsed()))
}

/// Reads the file, once it is complete and written by this very process.
fn read_addresses(file: &PathBuf, pid: u32) -> Option<NodeAddresses> {
    let addresses: NodeAddresses = serde_json::from_slice(&std::fs::read(file).ok()?).ok()?;
    (addresses.pid == pid).then_some(addresses)
}
