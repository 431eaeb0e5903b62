//! The compose files, started as their users start them: containers, TLS between them, volumes.
//! Needs a Docker engine; the images hold the programs that were built with this test.
// Helpers of tests panic as tests do.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

use std::net::{Ipv4Addr, SocketAddr, TcpListener};
use std::path::{Path, PathBuf};
use std::process::{Command, Output};
use std::time::{Duration, Instant};

use cloudkv_test_harness::node_command;
use cloudkv_test_harness::{ApiClient, Bucket, eventually};

const NODES: [&str; 3] = ["node1", "node2", "node3"];
const REGIONS: [&str; 4] = ["paris", "dublin", "virginia", "router"];
const IMAGE: &str = "cloudkv/node:test";
const ROUTER_IMAGE: &str = "cloudkv/router:test";
/// Debug builds in containers on a busy machine are slow.
const STATE_TIMEOUT: Duration = Duration::from_secs(120);

fn repository() -> PathBuf {
    let here = Path::new(env!("CARGO_MANIFEST_DIR"));
    here.ancestors().nth(2).unwrap().to_owned()
}

fn run(command: &mut Command) -> Output {
    let output = command.output().expect("run a command");
    let stderr = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{command:?}: {stderr}");
    output
}

fn docker(args: &[&str]) -> String {
    let output = run(Command::new("docker").args(args));
    String::from_utf8_lossy(&output.stdout).trim().to_owned()
}

/// The project of a compose file; removed with its volumes on drop.
struct Compose {
    file: &'static str,
    project: String,
    services: &'static [&'static str],
    ports: [u16; 3],
}

impl Compose {
    fn new(file: &'static str, services: &'static [&'static str]) -> Self {
        let listeners = [0; 3].map(|_| TcpListener::bind("127.0.0.1:0").unwrap());
        Self {
            file,
            project: format!("cloudkv-test-{}-{}", services[0], std::process::id()),
            services,
            ports: listeners.map(|listener| listener.local_addr().unwrap().port()),
        }
    }

    /// Returns `docker compose`, or the older `docker-compose`.
    fn command(&self) -> Command {
        let plugin = Command::new("docker").args(["compose", "version"]).output();
        let mut command = match plugin {
            Ok(output) if output.status.success() => {
                let mut command = Command::new("docker");
                command.arg("compose");
                command
            }
            Ok(_) | Err(_) => Command::new("docker-compose"),
        };
        for (number, port) in (1..).zip(self.ports) {
            command.env(format!("CLOUDKV_PORT{number}"), port.to_string());
        }
        command.env("CLOUDKV_PORT", self.ports[0].to_string());
        command.env("CLOUDKV_NODE_IMAGE", IMAGE);
        command.env("CLOUDKV_ROUTER_IMAGE", ROUTER_IMAGE);
        command.args(["--project-name", &self.project, "--file"]);
        command.arg(repository().join("deploy").join(self.file));
        command
    }

    fn compose(&self, args: &[&str]) {
        run(self.command().args(args));
    }

    /// Starts all services, and waits until they are healthy.
    async fn up(&self) {
        self.compose(&["up", "--detach", "--no-build"]);
        for service in self.services {
            self.wait_healthy(service).await;
        }
    }

    async fn wait_healthy(&self, node: &str) {
        let id = self.container(node);
        eventually(&format!("{node} is healthy"), STATE_TIMEOUT, async || {
            let state = docker(&["inspect", "--format", "{{.State.Health.Status}}", &id]);
            (state == "healthy").then_some(())
        })
        .await;
    }

    fn container(&self, node: &str) -> String {
        let output = run(self.command().args(["ps", "--all", "--quiet", node]));
        String::from_utf8_lossy(&output.stdout).trim().to_owned()
    }

    fn api(&self, node: usize) -> ApiClient {
        ApiClient::new(SocketAddr::from((Ipv4Addr::LOCALHOST, self.ports[node])))
    }

    /// Writes through a node, and retries until it is acknowledged.
    async fn put(&self, node: usize, path: &str, value: &str) {
        eventually(
            &format!("a write through {}", NODES[node]),
            STATE_TIMEOUT,
            async || {
                let put = self.api(node).put(path, value.to_owned());
                (put.try_send().await.ok()?.status == 200).then_some(())
            },
        )
        .await;
    }

    async fn expect(&self, node: usize, path: &str, value: &str) {
        eventually(
            &format!("a read through {}", NODES[node]),
            STATE_TIMEOUT,
            async || {
                let answer = self.api(node).get(path).try_send().await.ok()?;
                (answer.status == 200 && answer.text() == value).then_some(())
            },
        )
        .await;
    }
}

impl Drop for Compose {
    fn drop(&mut self) {
        if std::thread::panicking() {
            let logs = self.command().args(["logs", "--tail=40"]).output();
            let logs = logs.map(|output| String::from_utf8_lossy(&output.stdout).into_owned());
            eprintln!("{}", logs.unwrap_or_default());
        }
        let down = ["down", "--volumes", "--remove-orphans", "--timeout", "1"];
        // Containers that can't be removed are left for inspection.
        let _ = self.command().args(down).output();
    }
}

/// Builds an image with the program `cloudkv-<kind>` of this build.
fn make_image(kind: &str, image: &str) {
    let script = repository().join("deploy/test-image.sh");
    let node = node_command();
    let program = Path::new(node.get_program()).with_file_name(format!("cloudkv-{kind}"));
    run(Command::new(script).arg(kind).arg(program).arg(image));
}

async fn expect_all(region: &Compose, nodes: &[usize], bucket: &Bucket, keys: &[&str]) {
    for node in nodes {
        for key in keys {
            region.expect(*node, &bucket.key_path(key), key).await;
        }
    }
}

#[tokio::test]
#[ignore = "needs a Docker engine: `make test` runs it where there is one"]
async fn a_region_of_containers_survives_a_kill_a_partition_and_a_restart() {
    make_image("node", IMAGE);
    let region = Compose::new("compose.region.yaml", &NODES);
    let started = Instant::now();
    region.up().await;
    println!("ready in {:.1} s", started.elapsed().as_secs_f64());
    println!(
        "image: {} bytes",
        docker(&["image", "inspect", "--format", "{{.Size}}", IMAGE])
    );

    // Every node serves what was written through any other.
    let bucket = region.api(0).create_bucket().await;
    let mut keys = vec!["one", "two", "three"];
    for (node, key) in keys.iter().enumerate() {
        region.put(node, &bucket.key_path(key), key).await;
    }
    expect_all(&region, &[0, 1, 2], &bucket, &keys).await;

    // One is killed.
    let killed = region.container("node2");
    docker(&["kill", &killed]);
    region
        .put(0, &bucket.key_path("without two"), "without two")
        .await;
    keys.push("without two");
    expect_all(&region, &[0, 2], &bucket, &keys).await;
    docker(&["start", &killed]);
    region.wait_healthy("node2").await;
    expect_all(&region, &[1], &bucket, &keys).await;

    // Another is cut off.
    let (network, cut_off) = (
        format!("{}_default", region.project),
        region.container("node3"),
    );
    docker(&["network", "disconnect", &network, &cut_off]);
    region
        .put(1, &bucket.key_path("without three"), "without three")
        .await;
    keys.push("without three");
    expect_all(&region, &[0, 1], &bucket, &keys).await;
    docker(&["network", "connect", "--alias", "node3", &network, &cut_off]);
    expect_all(&region, &[2], &bucket, &keys).await;

    // All are restarted, as new containers with the old volumes. They stop on request.
    region.compose(&["stop"]);
    for node in NODES {
        let id = region.container(node);
        let code = docker(&["inspect", "--format", "{{.State.ExitCode}}", &id]);
        assert_eq!(code, "0", "{node}");
    }
    region.compose(&["down"]);
    region.up().await;
    expect_all(&region, &[0, 1, 2], &bucket, &keys).await;
    region.put(2, &bucket.key_path("after"), "after").await;
}

/// Reads a key of one region through the router.
async fn get_from_region(router: &ApiClient, region: &str, path: &str) -> Option<(u16, String)> {
    let call = router
        .get(path)
        .header("host", &format!("api.{region}.cloudkv.io"));
    let answer = call.unchecked().try_send().await.ok()?;
    Some((answer.status, answer.text().to_owned()))
}

#[tokio::test]
#[ignore = "needs a Docker engine: `make test` runs it where there is one"]
async fn three_regions_of_containers_serve_through_a_router() {
    make_image("node", IMAGE);
    make_image("router", ROUTER_IMAGE);
    let regions = Compose::new("compose.yaml", &REGIONS);
    let started = Instant::now();
    regions.up().await;
    println!(
        "three regions are ready in {:.1} s",
        started.elapsed().as_secs_f64()
    );

    // The global name serves, and each region by its own name has the write.
    let router = regions.api(0);
    let bucket = router.create_bucket().await;
    let path = bucket.key_path("k");
    regions.put(0, &path, "hello").await;
    for region in ["eu-west-3", "eu-west-1", "us-east-1"] {
        eventually(
            &format!("{region} has the key"),
            STATE_TIMEOUT,
            async || {
                let (status, text) = get_from_region(&router, region, &path).await?;
                (status == 200 && text == "hello").then_some(())
            },
        )
        .await;
    }

    // The partitioned region serves nobody through the router; the global name goes on.
    let network = format!("{}_default", regions.project);
    let cut_off = regions.container("paris");
    docker(&["network", "disconnect", &network, &cut_off]);
    regions.put(0, &path, "without paris").await;
    regions.expect(0, &path, "without paris").await;
    eventually("eu-west-3 is unavailable", STATE_TIMEOUT, async || {
        let (status, _) = get_from_region(&router, "eu-west-3", &path).await?;
        (status == 503).then_some(())
    })
    .await;
    docker(&["network", "connect", "--alias", "paris", &network, &cut_off]);
    eventually("eu-west-3 has what it missed", STATE_TIMEOUT, async || {
        let (status, text) = get_from_region(&router, "eu-west-3", &path).await?;
        (status == 200 && text == "without paris").then_some(())
    })
    .await;

    // All are restarted, as new containers with the old volumes.
    regions.compose(&["down"]);
    regions.up().await;
    regions.expect(0, &path, "without paris").await;
}
