//! A router as a process, in front of nodes.

use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::process::{Child, Command, ExitStatus};
use std::thread;
use std::time::{Duration, Instant};

use rustix::process::{Pid, Signal, kill_process};
use tempfile::TempDir;
use uuid::Uuid;

use super::binary::router_binary;
use super::http::ApiClient;
use super::log_file::LogFile;
use super::node::{clean_env_command, open_append};
use super::wait::eventually;

/// Time for a router to find a healthy region.
const READY_TIMEOUT: Duration = Duration::from_secs(30);
/// Time for a router to stop after SIGTERM.
const STOP_TIMEOUT: Duration = Duration::from_secs(25);

const HTTP_PORT: u16 = 8000;
const HTTPS_PORT: u16 = 8443;
const ADMIN_PORT: u16 = 9091;

/// Returns a command that runs the router's binary, without the settings of this process's
/// environment.
pub fn router_command() -> Command {
    clean_env_command(router_binary())
}

/// A running router.
#[derive(Debug)]
pub struct Router {
    child: Child,
    seeds: Vec<SocketAddr>,
    args: Vec<String>,
    address: Ipv4Addr,
    log: LogFile,
    dir: TempDir,
}

impl Router {
    /// Starts a router in front of the nodes with these `rpc` addresses, and waits until it is
    /// ready.
    pub async fn start(seeds: &[SocketAddr]) -> Self {
        Self::start_with(seeds, &[]).await
    }

    /// Starts a router with additional arguments, and waits until it is ready.
    pub async fn start_with(seeds: &[SocketAddr], args: &[&str]) -> Self {
        let router = Self::spawn(seeds, args);
        router.wait_ready().await;
        router
    }

    /// Waits until the router is ready.
    pub async fn wait_ready(&self) {
        let admin = self.admin_api();
        eventually("the router is ready", READY_TIMEOUT, async || {
            let response = admin.get("/readyz").unchecked().try_send().await.ok()?;
            (response.status == 200).then_some(())
        })
        .await;
    }

    /// Starts a router without waiting; it may find no node.
    pub fn spawn(seeds: &[SocketAddr], args: &[&str]) -> Self {
        let dir = tempfile::tempdir().expect("make a temporary directory");
        let log = LogFile::new(dir.path().join("stderr.log"));
        let [x, y, ..] = *Uuid::new_v4().as_bytes();
        // An address of its own in 127.0.0.0/8: nobody else takes its ports.
        let address = Ipv4Addr::new(127, x.clamp(1, 254), y, 201);
        let args: Vec<String> = args.iter().map(|arg| (*arg).to_owned()).collect();
        Self {
            child: spawn(seeds, &args, address, &dir),
            seeds: seeds.to_vec(),
            args,
            address,
            log,
            dir,
        }
    }

    /// Kills the router with SIGKILL, as a crash would.
    ///
    /// # Panics
    /// Panics if it has exited before.
    pub fn kill_9(&mut self) {
        let exited = self.child.try_wait().expect("wait for the router");
        assert!(exited.is_none(), "the router had exited: {exited:?}");
        self.child.kill().expect("kill the router");
        self.child.wait().expect("wait for the killed router");
    }

    /// Starts the router that was stopped again, with the same addresses and arguments, and waits
    /// until it is ready.
    pub async fn restart(&mut self) {
        self.child = spawn(&self.seeds, &self.args, self.address, &self.dir);
        self.wait_ready().await;
    }

    /// Returns the address of the public port.
    pub fn http(&self) -> SocketAddr {
        self.port(HTTP_PORT)
    }

    /// Returns the address of the public port with TLS, if it was given a certificate.
    pub fn https(&self) -> SocketAddr {
        self.port(HTTPS_PORT)
    }

    fn port(&self, port: u16) -> SocketAddr {
        SocketAddr::new(IpAddr::V4(self.address), port)
    }

    /// Returns a client of the public port.
    pub fn api(&self) -> ApiClient {
        ApiClient::new(self.http())
    }

    /// Returns a client of the admin port.
    pub fn admin_api(&self) -> ApiClient {
        ApiClient::new(self.port(ADMIN_PORT))
    }

    /// Returns the first metric whose line begins with `name`; 0 if there is none.
    pub async fn metric(&self, name: &str) -> f64 {
        let page = self.admin_api().get("/metrics").unchecked().await;
        let is_sample = |line: &&str| {
            let rest = line.strip_prefix(name);
            rest.is_some_and(|rest| rest.starts_with([' ', '{']))
        };
        let line = page.text().lines().find(is_sample);
        let value = line.and_then(|line| line.rsplit(' ').next());
        value.and_then(|value| value.parse().ok()).unwrap_or(0.0)
    }

    /// Returns the public address of a shard's leader in the first region, as far as the router
    /// knows; `None` if it knows of none that answers.
    pub async fn leader_address(&self, shard: u32) -> Option<SocketAddr> {
        let status = self.admin_api().get("/status").unchecked().await.json();
        let region = &status["regions"][0];
        let id = region["leaders"][shard as usize].as_u64()?;
        let mut nodes = region["nodes"].as_array()?.iter();
        let leader = nodes.find(|node| node["id"] == id && node["up"] == true)?;
        leader["http"].as_str()?.parse().ok()
    }

    /// Returns the process ID.
    pub fn pid(&self) -> u32 {
        self.child.id()
    }

    /// Returns the router's log.
    pub fn log_text(&self) -> String {
        self.log.text()
    }

    /// Sends SIGTERM.
    pub fn send_sigterm(&self) {
        let pid = i32::try_from(self.child.id()).ok().and_then(Pid::from_raw);
        kill_process(pid.expect("a pid"), Signal::TERM).expect("send SIGTERM");
    }

    /// Waits for the process to exit.
    pub async fn wait_exit(&mut self) -> ExitStatus {
        let started = Instant::now();
        loop {
            if let Some(status) = self.child.try_wait().expect("wait for the router") {
                return status;
            }
            assert!(started.elapsed() < STOP_TIMEOUT, "the router did not exit");
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    }
}

fn spawn(seeds: &[SocketAddr], args: &[String], address: Ipv4Addr, dir: &TempDir) -> Child {
    let seeds: Vec<String> = seeds.iter().map(SocketAddr::to_string).collect();
    let mut command = router_command();
    command
        .args(["--log-format", "json", "--seeds", &seeds.join(",")])
        .args(["--http", &format!("{address}:{HTTP_PORT}")])
        .args(["--admin", &format!("{address}:{ADMIN_PORT}")])
        .args(args)
        .stdout(open_append(&dir.path().join("stdout.log")))
        .stderr(open_append(&dir.path().join("stderr.log")));
    if args.iter().any(|arg| arg == "--tls-cert") {
        command.args(["--https", &format!("{address}:{HTTPS_PORT}")]);
    }
    command.spawn().expect("start the router")
}

impl Drop for Router {
    fn drop(&mut self) {
        // Fails only if it has exited already.
        let _ = self.child.kill();
        let _ = self.child.wait();
        if thread::panicking() {
            eprintln!("--- end of the router's log ---\n{}", self.log.tail());
        } else {
            let errors = self.log.errors().join("\n");
            assert!(errors.is_empty(), "the router logged errors:\n{errors}");
        }
    }
}
