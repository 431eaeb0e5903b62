//! A node from an operator's view: health, metrics, logs, settings and their errors.
// Helpers of tests panic as tests do.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

use std::fs;
use std::path::Path;
use std::process::Command;

use cloudkv_test_harness::{Node, NodeOptions, SharedNode};
use cloudkv_test_harness::{StartupFailure, prometheus, run_to_exit};
use tempfile::TempDir;

static NODE: SharedNode = SharedNode::new();

/// Exit code for invalid settings.
const INVALID_SETTINGS_CODE: Option<i32> = Some(2);

#[tokio::test]
async fn a_running_node_is_healthy_and_ready() {
    let node = NODE.lease().await;
    for path in ["/healthz", "/readyz"] {
        node.admin_api()
            .get(path)
            .unchecked()
            .await
            .assert_status(200);
    }
    node.admin_api()
        .get("/nowhere")
        .unchecked()
        .await
        .assert_status(404);
    // The admin port has none of the public routes.
    node.admin_api()
        .get("/buckets")
        .unchecked()
        .await
        .assert_status(404);
}

#[tokio::test]
async fn a_node_writes_its_addresses_to_a_file_and_nothing_to_stdout() {
    let node = NODE.lease().await;
    let written = fs::read(node.data_dir().join("addresses.json")).unwrap();
    let addresses: serde_json::Value = serde_json::from_slice(&written).unwrap();
    assert_eq!(addresses["pid"], node.pid());
    let ports = ["http", "rpc", "admin"].map(|name| addresses[name].as_str().unwrap().to_owned());
    for address in &ports {
        let address: std::net::SocketAddr = address.parse().unwrap();
        assert!(
            address.ip().is_loopback() && address.port() != 0,
            "{address}"
        );
    }
    assert!(
        ports[0] != ports[1] && ports[1] != ports[2] && ports[0] != ports[2],
        "{ports:?}"
    );
    assert_eq!(node.rpc().to_string(), ports[1]);
    assert_eq!(node.stdout_text(), "");
}

#[tokio::test]
async fn metrics_can_be_scraped() {
    let node = NODE.lease().await;
    let api = node.api();
    let bucket = api.create_bucket().await;
    api.put(&bucket.key_path("k"), "v").await.assert_status(200);
    api.get(&bucket.key_path("absent")).await.assert_status(404);
    let page = node.admin_api().get("/metrics").unchecked().await;
    assert!(
        page.assert_status(200)
            .header("content-type")
            .starts_with("application/openmetrics-text"),
        "{page:?}"
    );
    let names = prometheus::sample_names(page.text()).unwrap_or_else(|line| panic!("{line}"));
    let own = names
        .iter()
        .filter(|name| name.starts_with("cloudkv_"))
        .count();
    assert!(own > 0, "{names:?}");
}

#[tokio::test]
async fn credentials_are_in_no_log_and_no_metric() {
    let node = NODE.lease().await;
    let api = node.api();
    let bucket = api.create_bucket().await;
    api.put(&bucket.key_path("k"), "v")
        .api_key(&bucket.account)
        .await
        .assert_status(200);
    api.get(&bucket.key_path("absent")).await.assert_status(404);
    api.get(&bucket.key_path("k%zz")).await.assert_status(400);
    api.get("/buckets")
        .api_key(&bucket.account)
        .await
        .assert_status(200);
    let delete = api
        .delete(&format!("{}?confirm=1", bucket.path()))
        .api_key(&bucket.account);
    delete.await.assert_status(200);
    let metrics = node.admin_api().get("/metrics").unchecked().await;
    for (source, text) in [
        ("log", node.log_text()),
        ("metrics", metrics.text().to_owned()),
    ] {
        for secret in [&bucket.id, &bucket.account] {
            assert!(
                !text.contains(secret.as_str()),
                "{secret} is in the {source}"
            );
        }
    }
}

/// Starts a node that must refuse its settings; returns the refusal.
async fn expect_refusal(args: &[&str], env: &[(&str, &str)]) -> StartupFailure {
    let dir = tempfile::tempdir().unwrap();
    let args = args.iter().map(ToString::to_string).collect();
    let env = env
        .iter()
        .map(|(name, value)| ((*name).to_owned(), (*value).to_owned()))
        .collect();
    let options = NodeOptions {
        shards: None,
        region: None,
        args,
        env,
        ..NodeOptions::default()
    };
    let refusal = run_to_exit(options.command(&dir.path().join("data"))).await;
    assert_eq!(refusal.code, INVALID_SETTINGS_CODE, "{refusal:?}");
    assert!(!refusal.message.contains("panicked"), "{refusal:?}");
    refusal
}

#[tokio::test]
async fn a_wrong_number_of_shards_is_refused() {
    for wrong in ["0", "-1", "abc", "1000000", "8.5"] {
        let refusal = expect_refusal(&[&format!("--shards={wrong}")], &[]).await;
        refusal
            .assert_mentions(&["shards", wrong])
            .assert_mentions_any(&["1 to ", "between 1 and", "1.."]);
    }
}

#[tokio::test]
async fn a_wrong_variable_is_refused_by_its_name() {
    let refusal = expect_refusal(&[], &[("CLOUDKV_SHARDS", "abc")]).await;
    refusal
        .assert_mentions(&["CLOUDKV_SHARDS", "abc"])
        .assert_mentions_any(&["1 to ", "between 1 and", "1.."]);
    let refusal = expect_refusal(&[], &[("CLOUDKV_REGION", "no region!")]).await;
    refusal.assert_mentions(&["CLOUDKV_REGION", "no region!"]);
    // One that no setting has is named once.
    let refusal = expect_refusal(&[], &[("CLOUDKV_HTPP", "127.0.0.1:0")]).await;
    refusal.assert_mentions(&["CLOUDKV_HTPP", "did you mean CLOUDKV_HTTP?"]);
    let named = refusal.message.matches("CLOUDKV_HTPP").count();
    assert_eq!(named, 1, "{refusal:?}");
}

#[tokio::test]
async fn unknown_flags_are_refused() {
    expect_refusal(&["--colour", "blue"], &[])
        .await
        .assert_mentions(&["--colour"]);
}

/// Each case builds its own command, since the harness' command sets the ports already.
#[tokio::test]
async fn a_wrong_address_is_refused() {
    for name in ["http", "rpc", "admin"] {
        for wrong in ["nonsense", "127.0.0.1", "127.0.0.1:99999", ":8080x"] {
            let dir = tempfile::tempdir().unwrap();
            let mut command = cloudkv_test_harness::node_command();
            command.arg("--data-dir").arg(dir.path().join("data"));
            for port in ["http", "rpc", "admin"] {
                let address = if port == name { wrong } else { "127.0.0.1:0" };
                command.args([&format!("--{port}"), address]);
            }
            let refusal = run_to_exit(command).await;
            assert_eq!(refusal.code, INVALID_SETTINGS_CODE, "{refusal:?}");
            refusal
                .assert_mentions(&[name, wrong])
                .assert_mentions_any(&["127.0.0.1:", "HOST:PORT", "IP:PORT"]);
        }
    }
}

#[tokio::test]
async fn an_address_in_use_is_named() {
    for name in ["http", "rpc", "admin"] {
        let dir = tempfile::tempdir().unwrap();
        let listener = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
        let taken = listener.local_addr().unwrap();
        let mut command = cloudkv_test_harness::node_command();
        command.arg("--data-dir").arg(dir.path().join("data"));
        for port in ["http", "rpc", "admin"] {
            let address = if port == name {
                taken.to_string()
            } else {
                "127.0.0.1:0".to_owned()
            };
            command.args([format!("--{port}"), address]);
        }
        let refusal = run_to_exit(command).await;
        assert_eq!(refusal.code, Some(1), "{refusal:?}");
        refusal.assert_mentions(&[&format!("--{name} {taken}"), "can't be bound"]);
    }
}

/// With any number of threads, all of them answer, and stop in time.
#[tokio::test]
async fn any_number_of_threads_serves() {
    for threads in [
        ["--raft-threads", "0", "--http-threads", "2"],
        ["--raft-threads", "1", "--http-threads", "5"],
    ] {
        let options = NodeOptions {
            args: threads.map(str::to_owned).to_vec(),
            ..NodeOptions::default()
        };
        let mut node = Node::start_with(options).await;
        // Each client has its own connection, which the system assigns to any of the threads.
        let bucket = node.api().create_bucket().await;
        let requests = (0..20).map(|key| {
            let (api, key) = (node.api(), bucket.key_path(&format!("k{key}")));
            async move {
                api.put(&key, "v").await.assert_status(200);
                assert_eq!(api.get(&key).await.text(), "v");
            }
        });
        futures_util::future::join_all(requests).await;
        node.terminate().await;
    }
}

fn config_file(text: &str) -> (TempDir, String) {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("cloudkv.toml");
    fs::write(&path, text).unwrap();
    let path = path.to_str().unwrap().to_owned();
    (dir, path)
}

#[tokio::test]
async fn a_wrong_configuration_file_is_refused() {
    let cases: [(&str, &[&str]); 5] = [
        ("colour = \"blue\"\n", &["colour"]),
        ("shard = 4\n", &["shard"]),
        ("shards = 0\n", &["shards", "0"]),
        ("shards = \"many\"\n", &["shards", "many"]),
        ("shards = = 4\n", &[]),
    ];
    for (text, words) in cases {
        let (_dir, path) = config_file(text);
        expect_refusal(&["--config", &path], &[])
            .await
            .assert_mentions(&[path.as_str()])
            .assert_mentions(words);
    }
    let absent = "/nonexistent/cloudkv.toml";
    expect_refusal(&["--config", absent], &[])
        .await
        .assert_mentions(&[absent]);
}

#[tokio::test]
async fn a_data_directory_that_cannot_be_created_is_named() {
    let dir = tempfile::tempdir().unwrap();
    let file = dir.path().join("a-file");
    fs::write(&file, "in the way").unwrap();
    let refusal = run_to_exit(NodeOptions::default().command(&file.join("data"))).await;
    assert!(refusal.code.is_some_and(|code| code != 0), "{refusal:?}");
    refusal.assert_mentions(&[file.to_str().unwrap()]);
    assert!(!refusal.message.contains("panicked"), "{refusal:?}");
}

#[tokio::test]
async fn too_few_open_files_are_refused_with_what_is_needed() {
    let dir = tempfile::tempdir().unwrap();
    // Each thread needs some, and by default there are as many threads as cores.
    let options = NodeOptions {
        args: ["--http-threads", "1"].map(str::to_owned).to_vec(),
        ..NodeOptions::default()
    };
    let node = options.command(&dir.path().join("data"));
    let mut command = Command::new("/bin/sh");
    command
        .args(["-c", "ulimit -n 2000 && exec \"$@\"", "sh"])
        .arg(node.get_program())
        .args(node.get_args())
        .env_clear();
    let refusal = run_to_exit(command).await;
    assert_eq!(refusal.code, Some(1), "{refusal:?}");
    refusal.assert_mentions(&["2000", "2624", "ulimit", "max_connections"]);
}

/// Returns the region of a node that is started with these settings.
async fn region_of(file: Option<&Path>, variable: Option<&str>, flag: Option<&str>) -> String {
    let mut options = NodeOptions {
        region: None,
        ..NodeOptions::default()
    };
    if let Some(path) = file {
        options.args = vec!["--config".to_owned(), path.to_str().unwrap().to_owned()];
    }
    options.env = variable
        .map(|v| ("CLOUDKV_REGION".to_owned(), v.to_owned()))
        .into_iter()
        .collect();
    options.region = flag.map(str::to_owned);
    let node = Node::start_with(options).await;
    node.api()
        .get("/ping")
        .await
        .header("x-cloudkv-region")
        .to_owned()
}

#[tokio::test]
async fn a_flag_beats_a_variable_and_a_variable_beats_the_file() {
    let (_dir, path) = config_file("region = \"from-file\"\n");
    let file = Some(Path::new(&path));
    assert_eq!(region_of(None, None, None).await, "local");
    assert_eq!(region_of(file, None, None).await, "from-file");
    assert_eq!(
        region_of(file, Some("from-variable"), None).await,
        "from-variable"
    );
    assert_eq!(
        region_of(file, Some("from-variable"), Some("from-flag")).await,
        "from-flag"
    );
}
