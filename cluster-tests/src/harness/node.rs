//! A node as a process: started in a directory of its own, stopped in any way, started again.

use std::fs::{self, File, OpenOptions};
use std::net::SocketAddr;
use std::os::unix::process::ExitStatusExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitStatus, Stdio};
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;
use std::time::{Duration, Instant};

use rustix::process::{Pid, Signal, kill_process};
use serde::Deserialize;
use tempfile::TempDir;

use super::binary::node_binary;
use super::http::Api;
use super::log::Log;
use super::wait::eventually;

/// How long a node may take to be ready. Debug builds on a busy machine are slow.
const READY_WITHIN: Duration = Duration::from_secs(30);

/// How long a node may take to stop when it is asked to.
const STOPS_WITHIN: Duration = Duration::from_secs(25);

/// How a node is started.
#[derive(Clone, Debug)]
pub struct NodeOptions {
    /// `--region`; `None` leaves the flag away.
    pub region: Option<String>,
    /// `--shards`; `None` leaves the flag away.
    pub shards: Option<u32>,
    /// Whether it is given an `--rpc` to listen for other nodes and routers at.
    pub rpc: bool,
    /// The umask that it is started with, in octal; `None`: that of the test.
    pub umask: Option<&'static str>,
    /// More arguments.
    pub args: Vec<String>,
    /// Variables of the environment; it holds no other `CLOUDKV_*`.
    pub env: Vec<(String, String)>,
}

impl Default for NodeOptions {
    fn default() -> Self {
        Self {
            region: Some("local".into()),
            shards: Some(8),
            rpc: true,
            umask: None,
            args: vec![],
            env: vec![],
        }
    }
}

impl NodeOptions {
    /// The command that starts a node with its data in `data_dir`.
    pub fn command(&self, data_dir: &Path) -> Command {
        let mut command = match self.umask {
            None => clean_command(),
            Some(umask) => {
                let mut shell = clean(Path::new("sh"));
                let script = format!("umask {umask}; exec \"$0\" \"$@\"");
                shell.args(["-c", &script]).arg(node_binary());
                shell
            }
        };
        command
            .arg("--data-dir")
            .arg(data_dir)
            .args(["--log-format", "json"]);
        for port in ["--http", "--admin"] {
            command.args([port, "127.0.0.1:0"]);
        }
        if self.rpc {
            command.args(["--rpc", "127.0.0.1:0"]);
        }
        if let Some(region) = &self.region {
            command.args(["--region", region]);
        }
        if let Some(shards) = self.shards {
            command.args(["--shards", &shards.to_string()]);
        }
        command.args(&self.args).envs(self.env.iter().cloned());
        command
    }
}

/// The node's binary, with none of the settings that this process' environment may hold.
pub fn clean_command() -> Command {
    clean(node_binary())
}

/// A binary, with none of the settings that this process' environment may hold.
pub(crate) fn clean(binary: &Path) -> Command {
    let mut command = Command::new(binary);
    for (name, _) in std::env::vars_os().filter(|(name, _)| is_setting(name)) {
        command.env_remove(name);
    }
    command.stdin(Stdio::null());
    command
}

fn is_setting(name: &std::ffi::OsStr) -> bool {
    name.to_str()
        .is_some_and(|name| name.starts_with("CLOUDKV_") || name == "RUST_LOG")
}

/// What a node writes to `addresses.json` once it listens.
#[derive(Clone, Copy, Debug, Deserialize)]
struct Addresses {
    http: SocketAddr,
    rpc: Option<SocketAddr>,
    admin: SocketAddr,
    pid: u32,
}

/// A running node, or one that was stopped and may be started again.
#[derive(Debug)]
pub struct Node {
    options: NodeOptions,
    child: Child,
    addresses: Addresses,
    log: Log,
    errors_expected: AtomicBool,
    dir: TempDir,
}

impl Node {
    /// Starts a node in a new directory and waits until it is ready.
    pub async fn start() -> Self {
        Self::start_with(NodeOptions::default()).await
    }

    /// Starts a node with these options.
    pub async fn start_with(options: NodeOptions) -> Self {
        let dir = tempfile::tempdir().expect("make a temporary directory");
        let log = Log::new(dir.path().join("stderr.log"));
        let mut child = spawn(&options, dir.path());
        let addresses = wait_until_listening(&mut child, dir.path(), &log).await;
        let errors_expected = AtomicBool::new(false);
        let node = Self {
            options,
            child,
            addresses,
            log,
            errors_expected,
            dir,
        };
        node.wait_until_ready().await;
        node
    }

    /// Starts it again with other options, on the same directory, after it was stopped.
    pub async fn restart_with(&mut self, options: NodeOptions) {
        self.options = options;
        self.restart().await;
    }

    /// Starts it again, on the same directory, after it was stopped.
    pub async fn restart(&mut self) {
        self.child = spawn(&self.options, self.dir.path());
        self.addresses = wait_until_listening(&mut self.child, self.dir.path(), &self.log).await;
        self.wait_until_ready().await;
    }

    async fn wait_until_ready(&self) {
        let admin = self.admin_api();
        eventually("GET /readyz answers 200", READY_WITHIN, async || {
            let answer = admin.get("/readyz").unchecked().try_send().await.ok()?;
            (answer.status == 200).then_some(())
        })
        .await;
    }

    /// A client of the public port. Each test makes its own: connections belong to its runtime.
    pub fn api(&self) -> Api {
        Api::new(self.addresses.http)
    }

    /// A client of the operator's port.
    pub fn admin_api(&self) -> Api {
        Api::new(self.addresses.admin)
    }

    /// The public port.
    pub fn http(&self) -> SocketAddr {
        self.addresses.http
    }

    /// The port between nodes.
    pub fn rpc(&self) -> SocketAddr {
        self.addresses.rpc.expect("it was given an --rpc")
    }

    /// The public port, that for nodes if there is one, and the operator's.
    pub fn ports(&self) -> Vec<u16> {
        let Addresses {
            http, rpc, admin, ..
        } = self.addresses;
        let all = [Some(http), rpc, Some(admin)].into_iter().flatten();
        all.map(|address| address.port()).collect()
    }

    /// The number of the process.
    pub fn pid(&self) -> u32 {
        self.child.id()
    }

    /// Where the node's data is.
    pub fn data_dir(&self) -> PathBuf {
        data_dir(self.dir.path())
    }

    /// All that the node logged.
    pub fn log_text(&self) -> String {
        self.log.text()
    }

    /// All that the node printed to its standard output.
    pub fn stdout_text(&self) -> String {
        fs::read_to_string(self.dir.path().join("stdout.log")).unwrap_or_default()
    }

    /// Ends the process as a crash would.
    pub fn kill_9(&mut self) {
        self.child.kill().expect("kill the node");
        let status = self.child.wait().expect("wait for the killed node");
        assert_eq!(
            status.signal(),
            Some(9),
            "the node had ended before it was killed: {status}"
        );
    }

    /// Sends SIGTERM.
    pub fn signal_terminate(&self) {
        let pid = i32::try_from(self.child.id())
            .ok()
            .and_then(Pid::from_raw)
            .expect("a pid");
        kill_process(pid, Signal::TERM).expect("send SIGTERM");
    }

    /// Sends SIGTERM and waits for the end, which must come in time and with exit code 0.
    pub async fn terminate(&mut self) {
        self.signal_terminate();
        let status = self.wait_exit(STOPS_WITHIN).await;
        assert_eq!(
            status.code(),
            Some(0),
            "a node that is asked to stop exits with 0: {status}"
        );
    }

    /// Waits for the process to end.
    pub async fn wait_exit(&mut self, within: Duration) -> ExitStatus {
        let started = Instant::now();
        loop {
            if let Some(status) = self.child.try_wait().expect("wait for the node") {
                return status;
            }
            assert!(
                started.elapsed() < within,
                "the node did not end within {within:?}"
            );
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    }

    /// From here on the log may hold errors: this test causes them.
    pub fn expect_errors(&self) {
        self.errors_expected.store(true, Ordering::Relaxed);
    }

    /// Prints the log's end if the test is failing; otherwise fails it if the log holds errors.
    pub(super) fn judge_log(&self) {
        if thread::panicking() {
            eprintln!(
                "--- end of {} ---\n{}",
                self.log.path().display(),
                self.log.tail()
            );
        } else if !self.errors_expected.load(Ordering::Relaxed) {
            let errors = self.log.errors().join("\n");
            assert!(errors.is_empty(), "the node logged errors:\n{errors}");
        }
    }
}

impl Drop for Node {
    fn drop(&mut self) {
        // Fails only if it has ended already.
        let _ = self.child.kill();
        let _ = self.child.wait();
        self.judge_log();
    }
}

fn data_dir(root: &Path) -> PathBuf {
    root.join("data")
}

fn spawn(options: &NodeOptions, root: &Path) -> Child {
    options
        .command(&data_dir(root))
        .stdout(append(&root.join("stdout.log")))
        .stderr(append(&root.join("stderr.log")))
        .spawn()
        .expect("start the node")
}

pub(super) fn append(path: &Path) -> File {
    OpenOptions::new()
        .create(true)
        .append(true)
        .open(path)
        .expect("open a log")
}

/// The addresses that `child` wrote; an earlier process' file is told by its pid.
async fn wait_until_listening(child: &mut Child, root: &Path, log: &Log) -> Addresses {
    let path = data_dir(root).join("addresses.json");
    let started = Instant::now();
    loop {
        if let Ok(Some(status)) = child.try_wait() {
            panic!("the node ended while it started: {status}\n{}", log.tail());
        }
        let written = fs::read(&path)
            .ok()
            .and_then(|bytes| serde_json::from_slice(&bytes).ok());
        if let Some(addresses) = written.filter(|found: &Addresses| found.pid == child.id()) {
            return addresses;
        }
        assert!(
            started.elapsed() < READY_WITHIN,
            "no {} came:\n{}",
            path.display(),
            log.tail()
        );
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
}
