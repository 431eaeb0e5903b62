//! Isolation from other users and programs of the node's machine: files, ports, operations.
// Helpers of tests panic as tests do.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

use std::collections::HashSet;
use std::fs::{self, Permissions};
use std::os::unix::fs::{MetadataExt, PermissionsExt, chown};
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};

use cloudkv_test_harness::run_to_exit;
use cloudkv_test_harness::{Node, NodeOptions, Router};
use http::Method;
use serde_json::Value;

/// Returns a directory and all paths in it.
fn all_paths(dir: &Path) -> Vec<PathBuf> {
    let mut paths = vec![dir.to_owned()];
    let mut next = 0;
    while let Some(path) = paths.get(next).cloned() {
        // The storage creates and removes files meanwhile.
        if let Ok(entries) = fs::read_dir(&path) {
            paths.extend(entries.filter_map(|entry| Some(entry.ok()?.path())));
        }
        next += 1;
    }
    paths
}

/// Returns the paths in a directory that other users can access.
fn open_to_others(dir: &Path) -> Vec<String> {
    let mode = |path: &PathBuf| Some(fs::symlink_metadata(path).ok()?.mode());
    let open = |path: &PathBuf| mode(path).is_some_and(|mode| mode & 0o077 != 0);
    let paths = all_paths(dir).into_iter().filter(open);
    paths.map(|path| path.display().to_string()).collect()
}

#[tokio::test]
async fn files_are_private_with_any_umask() {
    let mut node = Node::start_with(NodeOptions {
        umask: Some("000"),
        ..NodeOptions::default()
    })
    .await;
    let bucket = node.api().create_bucket().await;
    node.api()
        .put(&bucket.key_path("k"), "v")
        .await
        .assert_status(200);
    node.terminate().await;
    let all = all_paths(&node.data_dir()).len();
    assert!(all > 8, "too few files: {all}");
    assert_eq!(open_to_others(&node.data_dir()), Vec::<String>::new());

    // As older versions left it.
    for path in all_paths(&node.data_dir()) {
        let mode = if path.is_dir() { 0o755 } else { 0o644 };
        fs::set_permissions(&path, Permissions::from_mode(mode)).unwrap();
    }
    node.restart().await;
    assert_eq!(open_to_others(&node.data_dir()), Vec::<String>::new());
    assert!(node.log_text().contains("was open to other users; closed"));
    assert_eq!(node.api().get(&bucket.key_path("k")).await.text(), "v");
}

#[tokio::test]
async fn a_directory_that_cant_be_closed_to_others_is_refused() {
    const NOBODY: u32 = 65_534;
    let root = tempfile::tempdir().unwrap();
    let data = root.path().join("data");
    fs::create_dir(&data).unwrap();
    let foreign = data.join("identity.json");
    fs::write(&foreign, r#"{"format": 1}"#).unwrap();
    let open = |path: &Path, mode| fs::set_permissions(path, Permissions::from_mode(mode)).unwrap();
    open(&foreign, 0o644);
    // A file of another user takes two users, which only root can act as; without root the
    // directory is open to all.
    if rustix::process::geteuid().is_root() {
        open(root.path(), 0o755);
        chown(&data, Some(NOBODY), Some(NOBODY)).unwrap();
    } else {
        open(&data, 0o1777);
    }
    let mut command = NodeOptions::default().command(&data);
    if rustix::process::geteuid().is_root() {
        command.uid(NOBODY).gid(NOBODY);
    }
    let refusal = run_to_exit(command).await;
    assert_eq!(refusal.code, Some(1));
    refusal.assert_mentions(&["other users of the machine", "chmod -R go="]);
    refusal.assert_mentions(&[&data.display().to_string()]);
    refusal.assert_mentions_any(&["identity.json", "1777"]);
}

/// Returns the ports that a process listens on.
fn listening_ports(pid: u32) -> HashSet<u16> {
    let links = fs::read_dir(format!("/proc/{pid}/fd")).unwrap();
    let links = links.filter_map(|link| fs::read_link(link.ok()?.path()).ok());
    let inode = |link: PathBuf| {
        let name = link.to_str()?.strip_prefix("socket:[")?.strip_suffix(']')?;
        Some(name.to_owned())
    };
    let sockets: HashSet<String> = links.filter_map(inode).collect();
    let tables =
        ["tcp", "tcp6"].map(|table| fs::read_to_string(format!("/proc/{pid}/net/{table}")));
    let tables = tables.map(Result::unwrap_or_default).concat();
    let port = |line: &str| {
        let words: Vec<&str> = line.split_whitespace().collect();
        let [_, local, _, "0A", ..] = words[..] else {
            return None;
        };
        let is_own = words.get(9).is_some_and(|inode| sockets.contains(*inode));
        let port = local.rsplit(':').next()?;
        is_own.then(|| u16::from_str_radix(port, 16).ok()).flatten()
    };
    tables.lines().filter_map(port).collect()
}

#[tokio::test]
async fn a_node_without_an_rpc_address_opens_no_rpc_port() {
    let alone = NodeOptions {
        has_rpc: false,
        ..NodeOptions::default()
    };
    let mut node = Node::start_with(alone.clone()).await;
    let bucket = node.api().create_bucket().await;
    node.api()
        .put(&bucket.key_path("k"), "v")
        .await
        .assert_status(200);
    assert_eq!(node.ports().len(), 2);
    assert_eq!(
        listening_ports(node.pid()),
        node.ports().into_iter().collect()
    );
    let log = node.log_text();
    assert!(log.contains("not listening for other nodes and routers: set rpc (--rpc "));
    assert!(
        log.contains("--init"),
        "the log names the setting for a second node"
    );
    assert!(!log.contains("need no certificate"));

    // The same node, with a port for routers.
    node.terminate().await;
    node.restart_with(NodeOptions::default()).await;
    assert_eq!(node.ports().len(), 3);
    assert_eq!(
        listening_ports(node.pid()),
        node.ports().into_iter().collect()
    );
    let router = Router::start(&[node.rpc()]).await;
    assert_eq!(router.api().get(&bucket.key_path("k")).await.text(), "v");
    let log = node.log_text();
    assert!(log.contains("every process on this machine"), "{log}");

    // Back to no rpc port.
    node.terminate().await;
    node.restart_with(alone).await;
    assert_eq!(
        listening_ports(node.pid()),
        node.ports().into_iter().collect()
    );
    assert_eq!(node.api().get(&bucket.key_path("k")).await.text(), "v");
}

#[tokio::test]
async fn cross_origin_requests_start_no_operation() {
    let node = Node::start().await;
    let operations = [
        (Method::POST, "/shards/0/verify"),
        (Method::PATCH, "/plans/free"),
        (Method::POST, "/nodes/1/replace"),
        (Method::DELETE, "/regions/other"),
        (Method::PUT, "/buckets/a0000000000000/plan"),
    ];
    let admin = node.admin_api();
    let own = format!("http://{}", admin.address());
    for (method, path) in operations {
        for origin in ["http://evil.example", "null", "http://localhost:1"] {
            let call = admin.request(method.clone(), path);
            let answer = call.header("origin", origin).unchecked().await;
            answer.assert_status(403);
            let message = answer.json()["message"].to_string();
            assert!(message.contains("another origin"), "{message}");
        }
        let call = admin.request(method.clone(), path).header("origin", &own);
        assert_ne!(call.unchecked().await.status, 403, "{method} {path}");
        let call = admin.request(method.clone(), path);
        assert_ne!(call.unchecked().await.status, 403, "{method} {path}");
    }
    // Reads change nothing, and the browser withholds the answer from the page.
    let page = admin
        .get("/metrics")
        .header("origin", "http://evil.example");
    page.unchecked().await.assert_status(200);
}

/// Returns the targets of a log's events, with their levels.
fn targets(log: &str) -> HashSet<(String, String)> {
    let events = log
        .lines()
        .filter_map(|line| serde_json::from_str::<Value>(line).ok());
    let text = |event: &Value, name| event[name].as_str().unwrap_or_default().to_owned();
    events
        .map(|event| (text(&event, "target"), text(&event, "level")))
        .collect()
}

#[tokio::test]
async fn level_debug_excludes_libraries() {
    let start = async |level: &str| {
        let options = NodeOptions {
            args: vec!["--log-level".into(), level.into()],
            ..NodeOptions::default()
        };
        let node = Node::start_with(options).await;
        let bucket = node.api().create_bucket().await;
        node.api()
            .put(&bucket.key_path("k"), "v")
            .await
            .assert_status(200);
        targets(&node.log_text())
    };
    let debug = start("debug").await;
    let count = |targets: &HashSet<(String, String)>, name: &str| {
        let is_debug = |(target, level): &&(String, String)| {
            target.starts_with(name) && (level == "DEBUG" || level == "TRACE")
        };
        targets.iter().filter(is_debug).count()
    };
    assert!(count(&debug, "cloudkv") > 0, "{debug:?}");
    for library in ["openraft", "h2", "hyper", "tonic"] {
        assert_eq!(count(&debug, library), 0, "{library}: {debug:?}");
    }
    let named = start("info,openraft=debug").await;
    assert!(count(&named, "openraft") > 0, "{named:?}");
}
