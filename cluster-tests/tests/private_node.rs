//! What other users and programs of the node's machine get: no file, no port, no operation.
// Helpers of tests panic as tests do.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

use std::collections::HashSet;
use std::fs::{self, Permissions};
use std::os::unix::fs::{MetadataExt, PermissionsExt, chown};
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};

use cloudkv_cluster_tests::harness::run_to_exit;
use cloudkv_cluster_tests::{Node, NodeOptions, Router};
use http::Method;
use serde_json::Value;

/// A folder, and all that is in it.
fn all_in(dir: &Path) -> Vec<PathBuf> {
    let mut found = vec![dir.to_owned()];
    let mut at = 0;
    while let Some(path) = found.get(at).cloned() {
        // Files of the storage come and go.
        if let Ok(entries) = fs::read_dir(&path) {
            found.extend(entries.filter_map(|entry| Some(entry.ok()?.path())));
        }
        at += 1;
    }
    found
}

/// What of a folder other users can get at.
fn open_to_others(dir: &Path) -> Vec<String> {
    let mode = |path: &PathBuf| Some(fs::symlink_metadata(path).ok()?.mode());
    let open = |path: &PathBuf| mode(path).is_some_and(|mode| mode & 0o077 != 0);
    let paths = all_in(dir).into_iter().filter(open);
    paths.map(|path| path.display().to_string()).collect()
}

#[tokio::test]
async fn files_are_the_nodes_alone_whatever_the_umask() {
    let mut node = Node::start_with(NodeOptions {
        umask: Some("000"),
        ..NodeOptions::default()
    })
    .await;
    let bucket = node.api().bucket().await;
    node.api().put(&bucket.key("k"), "v").await.status(200);
    node.terminate().await;
    let all = all_in(&node.data_dir()).len();
    assert!(all > 8, "there is something to look at: {all}");
    assert_eq!(open_to_others(&node.data_dir()), Vec::<String>::new());

    // As older nodes left it.
    for path in all_in(&node.data_dir()) {
        let mode = if path.is_dir() { 0o755 } else { 0o644 };
        fs::set_permissions(&path, Permissions::from_mode(mode)).unwrap();
    }
    node.restart().await;
    assert_eq!(open_to_others(&node.data_dir()), Vec::<String>::new());
    assert!(node.log_text().contains("was open to other users; closed"));
    assert_eq!(node.api().get(&bucket.key("k")).await.text(), "v");
}

#[tokio::test]
async fn a_directory_that_cant_be_closed_to_others_is_refused() {
    const NOBODY: u32 = 65_534;
    let root = tempfile::tempdir().unwrap();
    let data = root.path().join("data");
    fs::create_dir(&data).unwrap();
    let foreign = data.join("identity.json");
    fs::write(&foreign, "{}").unwrap();
    let open = |path: &Path, mode| fs::set_permissions(path, Permissions::from_mode(mode)).unwrap();
    open(&foreign, 0o644);
    // Files of another user take two users, and only root can be both; others find a folder that is
    // for all.
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
    refusal.names(&["other users of the machine", "chmod -R go="]);
    refusal.names(&[&data.display().to_string()]);
    refusal.names_one_of(&["identity.json", "1777"]);
}

/// The ports that a process listens at.
fn listens_at(pid: u32) -> HashSet<u16> {
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
async fn a_node_that_was_told_of_no_other_listens_for_none() {
    let alone = NodeOptions {
        rpc: false,
        ..NodeOptions::default()
    };
    let mut node = Node::start_with(alone.clone()).await;
    let bucket = node.api().bucket().await;
    node.api().put(&bucket.key("k"), "v").await.status(200);
    assert_eq!(node.ports().len(), 2);
    assert_eq!(listens_at(node.pid()), node.ports().into_iter().collect());
    let log = node.log_text();
    assert!(log.contains("not listening for other nodes and routers: set rpc (--rpc "));
    assert!(
        log.contains("--init"),
        "it says what to set for a second node"
    );
    assert!(!log.contains("need no certificate"));

    // The same node, with a port for routers.
    node.terminate().await;
    node.restart_with(NodeOptions::default()).await;
    assert_eq!(node.ports().len(), 3);
    assert_eq!(listens_at(node.pid()), node.ports().into_iter().collect());
    let router = Router::start(&[node.rpc()]).await;
    assert_eq!(router.api().get(&bucket.key("k")).await.text(), "v");
    let log = node.log_text();
    assert!(log.contains("every process on this machine"), "{log}");

    // And back.
    node.terminate().await;
    node.restart_with(alone).await;
    assert_eq!(listens_at(node.pid()), node.ports().into_iter().collect());
    assert_eq!(node.api().get(&bucket.key("k")).await.text(), "v");
}

#[tokio::test]
async fn web_pages_start_no_operation() {
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
            answer.status(403);
            let message = answer.json()["message"].to_string();
            assert!(message.contains("another origin"), "{message}");
        }
        let call = admin.request(method.clone(), path).header("origin", &own);
        assert_ne!(call.unchecked().await.status, 403, "{method} {path}");
        let call = admin.request(method.clone(), path);
        assert_ne!(call.unchecked().await.status, 403, "{method} {path}");
    }
    // Reading changes nothing, and its answer stays with the browser.
    let page = admin
        .get("/metrics")
        .header("origin", "http://evil.example");
    page.unchecked().await.status(200);
}

/// The parts of the program that a log has lines of, with their levels.
fn parts(log: &str) -> HashSet<(String, String)> {
    let events = log
        .lines()
        .filter_map(|line| serde_json::from_str::<Value>(line).ok());
    let text = |event: &Value, name| event[name].as_str().unwrap_or_default().to_owned();
    events
        .map(|event| (text(&event, "target"), text(&event, "level")))
        .collect()
}

#[tokio::test]
async fn debug_is_what_the_node_says_and_not_its_libraries() {
    let start = async |level: &str| {
        let options = NodeOptions {
            args: vec!["--log-level".into(), level.into()],
            ..NodeOptions::default()
        };
        let node = Node::start_with(options).await;
        let bucket = node.api().bucket().await;
        node.api().put(&bucket.key("k"), "v").await.status(200);
        parts(&node.log_text())
    };
    let debug = start("debug").await;
    let said = |parts: &HashSet<(String, String)>, name: &str| {
        let is_debug = |(target, level): &&(String, String)| {
            target.starts_with(name) && (level == "DEBUG" || level == "TRACE")
        };
        parts.iter().filter(is_debug).count()
    };
    assert!(said(&debug, "cloudkv") > 0, "{debug:?}");
    for library in ["openraft", "h2", "hyper", "tonic"] {
        assert_eq!(said(&debug, library), 0, "{library}: {debug:?}");
    }
    let named = start("info,openraft=debug").await;
    assert!(said(&named, "openraft") > 0, "{named:?}");
}
