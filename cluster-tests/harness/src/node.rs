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
use super::http::ApiClient;
use super::log_file::LogFile;
use super::wait::eventually;

/// Time for a node to become ready. Debug builds on a busy machine are slow.
const READY_TIMEOUT: Duration = Duration::from_secs(30);

/// Time for a node to stop after SIGTERM.
const STOP_TIMEOUT: Duration = Duration::from_secs(25);

/// Options of a node's start.
#[derive(Clone, Debug)]
pub struct NodeOptions {
    /// `--region`; `None` omits the flag.
    pub region: Option<String>,
    /// `--shards`; `None` omits the flag.
    pub shards: Option<u32>,
    /// True if the node gets an `--rpc` address to listen on for other nodes and routers.
    pub has_rpc: bool,
    /// Umask of the process, in octal; `None`: that of the test.
    pub umask: Option<&'static str>,
    /// Additional arguments.
    pub args: Vec<String>,
    /// Environment variables; the node gets no other `CLOUDKV_*` and `AWS_*`.
    pub env: Vec<(String, String)>,
}

impl Default for NodeOptions {
    fn default() -> Self {
        Self {
            region: Some("local".into()),
            shards: Some(8),
            has_rpc: true,
            umask: None,
            args: vec![],
            env: vec![],
        }
    }
}

impl NodeOptions {
    /// Returns the command that starts a node with its data in `data_dir`.
    pub fn command(&self, data_dir: &Path) -> Command {
        let mut command = match self.umask {
            None => node_command(),
            Some(umask) => {
                let mut shell = clean_env_command(Path::new("sh"));
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
        if self.has_rpc {
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

/// Returns a command that runs the node's binary, without the settings of this process's
/// environment.
pub fn node_command() -> Command {
    clean_env_command(node_binary())
}

/// Returns a command that runs a binary, without the settings of this process's environment.
pub(crate) fn clean_env_command(binary: &Path) -> Command {
    let mut command = Command::new(binary);
    for (name, _) in std::env::vars_os().filter(|(name, _)| is_setting(name)) {
        command.env_remove(name);
    }
    command.stdin(Stdio::null());
    command
}

fn is_setting(name: &std::ffi::OsStr) -> bool {
    let prefixes = ["CLOUDKV_", "AWS_"];
    let has_prefix = |name: &str| prefixes.iter().any(|prefix| name.starts_with(prefix));
    name.to_str()
        .is_some_and(|name| has_prefix(name) || name == "RUST_LOG")
}

/// Content of `addresses.json`, which a node writes once it listens.
#[derive(Clone, Copy, Debug, Deserialize)]
struct AddressesFile {
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
    addresses: AddressesFile,
    log: LogFile,
    errors_expected: AtomicBool,
    dir: TempDir,
}

impl Node {
    /// Starts a node in a new directory and waits until it is ready.
    pub async fn start() -> Self {
        Self::start_with(NodeOptions::default()).await
    }

    /// Starts a node with these options and waits until it is ready.
    pub async fn start_with(options: NodeOptions) -> Self {
        Self::start_on(options, async |_| ()).await
    }

    /// Starts a node with these options, on the data directory that `prepare` makes at a path, and
    /// waits until it is ready.
    pub async fn start_on(options: NodeOptions, prepare: impl AsyncFnOnce(PathBuf)) -> Self {
        let dir = tempfile::tempdir().expect("make a temporary directory");
        prepare(data_dir(dir.path())).await;
        let log = LogFile::new(dir.path().join("stderr.log"));
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

    /// Starts the stopped node again, with other options on the same directory.
    pub async fn restart_with(&mut self, options: NodeOptions) {
        self.options = options;
        self.restart().await;
    }

    /// Starts the stopped node again, on the same directory.
    pub async fn restart(&mut self) {
        self.child = spawn(&self.options, self.dir.path());
        self.addresses = wait_until_listening(&mut self.child, self.dir.path(), &self.log).await;
        self.wait_until_ready().await;
    }

    async fn wait_until_ready(&self) {
        let admin = self.admin_api();
        eventually("GET /readyz answers 200", READY_TIMEOUT, async || {
            let response = admin.get("/readyz").unchecked().try_send().await.ok()?;
            (response.status == 200).then_some(())
        })
        .await;
    }

    /// Returns a client of the public port. Each test makes its own: connections belong to its
    /// runtime.
    pub fn api(&self) -> ApiClient {
        ApiClient::new(self.addresses.http)
    }

    /// Returns a client of the admin port.
    pub fn admin_api(&self) -> ApiClient {
        ApiClient::new(self.addresses.admin)
    }

    /// Returns the address of the public port.
    pub fn http(&self) -> SocketAddr {
        self.addresses.http
    }

    /// Returns the address of the rpc port.
    pub fn rpc(&self) -> SocketAddr {
        self.addresses.rpc.expect("it was given an --rpc")
    }

    /// Returns the public port, the rpc port if there is one, and the admin port.
    pub fn ports(&self) -> Vec<u16> {
        let AddressesFile {
            http, rpc, admin, ..
        } = self.addresses;
        let all = [Some(http), rpc, Some(admin)].into_iter().flatten();
        all.map(|address| address.port()).collect()
    }

    /// Returns the process ID.
    pub fn pid(&self) -> u32 {
        self.child.id()
    }

    /// Returns the node's data directory.
    pub fn data_dir(&self) -> PathBuf {
        data_dir(self.dir.path())
    }

    /// Returns the node's log.
    pub fn log_text(&self) -> String {
        self.log.text()
    }

    /// Returns the node's standard output.
    pub fn stdout_text(&self) -> String {
        fs::read_to_string(self.dir.path().join("stdout.log")).unwrap_or_default()
    }

    /// Kills the process with SIGKILL, as a crash would.
    pub fn kill_9(&mut self) {
        self.child.kill().expect("kill the node");
        let status = self.child.wait().expect("wait for the killed node");
        assert_eq!(
            status.signal(),
            Some(9),
            "the node had exited before it was killed: {status}"
        );
    }

    /// Sends SIGTERM.
    pub fn send_sigterm(&self) {
        let pid = i32::try_from(self.child.id())
            .ok()
            .and_then(Pid::from_raw)
            .expect("a pid");
        kill_process(pid, Signal::TERM).expect("send SIGTERM");
    }

    /// Sends SIGTERM and waits for the exit, which must come in time and with code 0.
    pub async fn terminate(&mut self) {
        self.send_sigterm();
        let status = self.wait_exit(STOP_TIMEOUT).await;
        assert_eq!(
            status.code(),
            Some(0),
            "a node that is asked to stop exits with 0: {status}"
        );
    }

    /// Waits for the process to exit.
    pub async fn wait_exit(&mut self, limit: Duration) -> ExitStatus {
        let started = Instant::now();
        loop {
            if let Some(status) = self.child.try_wait().expect("wait for the node") {
                return status;
            }
            assert!(
                started.elapsed() < limit,
                "the node did not exit within {limit:?}"
            );
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    }

    /// Allows errors in the log from here on, because the test causes them.
    pub fn expect_errors(&self) {
        self.errors_expected.store(true, Ordering::Relaxed);
    }

    /// Prints the log's end if the test is failing; otherwise fails it if the log holds errors.
    pub(super) fn check_log(&self) {
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
        // Fails only if it has exited already.
        let _ = self.child.kill();
        let _ = self.child.wait();
        self.check_log();
    }
}

fn data_dir(root: &Path) -> PathBuf {
    root.join("data")
}

fn spawn(options: &NodeOptions, root: &Path) -> Child {
    options
        .command(&data_dir(root))
        .stdout(open_append(&root.join("stdout.log")))
        .stderr(open_append(&root.join("stderr.log")))
        .spawn()
        .expect("start the node")
}

pub(super) fn open_append(path: &Path) -> File {
    OpenOptions::new()
        .create(true)
        .append(true)
        .open(path)
        .expect("open a log")
}

/// Waits for the addresses that `child` writes; an earlier process's file has another pid.
async fn wait_until_listening(child: &mut Child, root: &Path, log: &LogFile) -> AddressesFile {
    let path = data_dir(root).join("addresses.json");
    let started = Instant::now();
    loop {
        if let Ok(Some(status)) = child.try_wait() {
            panic!("the node exited during its start: {status}\n{}", log.tail());
        }
        let written = fs::read(&path)
            .ok()
            .and_then(|bytes| serde_json::from_slice(&bytes).ok());
        if let Some(addresses) =
            written.filter(|addresses: &AddressesFile| addresses.pid == child.id())
        {
            return addresses;
        }
        assert!(
            started.elapsed() < READY_TIMEOUT,
            "no {} came:\n{}",
            path.display(),
            log.tail()
        );
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
}
