//! Starts a region's nodes, and stops and restarts them.

use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::{Condvar, Mutex, PoisonError};
use std::time::Duration;

use futures_util::future::join_all;
use tempfile::TempDir;
use tokio::net::TcpStream;

use super::certificates::Certificates;
use super::network::Network;
use super::node_process::{NodeFlags, NodeProcess, StartMode};
use super::seats::Seat;
use super::status::NodeId;
use crate::power::DataLoss;
use crate::{ApiClient, CommandOutput, eventually, node_command, run_command};

/// Time for a node to listen, and below that for a region to form. Debug builds on a busy machine
/// are slow.
const LISTEN_TIMEOUT: Duration = Duration::from_secs(60);
pub(super) const FORM_TIMEOUT: Duration = Duration::from_secs(120);

/// Number of regions that run in this process. Nodes have deadlines to keep, and their debug builds
/// need much time: with many regions at once on few processors, all of them would miss them.
static RUNNING_REGIONS: Mutex<usize> = Mutex::new(0);
static REGION_ENDED: Condvar = Condvar::new();

/// Permit to run a region; bounds the regions that run at once.
#[derive(Debug)]
struct RegionPermit;

impl RegionPermit {
    /// Waits for a permit, and blocks: a test has nothing else to do then.
    fn wait() -> Self {
        let max_regions =
            std::thread::available_parallelism().map_or(2, |cores| cores.get().max(2));
        let running = RUNNING_REGIONS
            .lock()
            .unwrap_or_else(PoisonError::into_inner);
        let is_full = |running: &mut usize| *running >= max_regions;
        let running = REGION_ENDED.wait_while(running, is_full);
        *running.unwrap_or_else(PoisonError::into_inner) += 1;
        Self
    }
}

impl Drop for RegionPermit {
    fn drop(&mut self) {
        *RUNNING_REGIONS
            .lock()
            .unwrap_or_else(PoisonError::into_inner) -= 1;
        REGION_ENDED.notify_one();
    }
}

/// Options of a region's start.
#[derive(Clone, Debug)]
pub struct RegionOptions {
    /// Number of nodes that are started.
    pub nodes: usize,
    /// Maximum number of nodes.
    pub seats: usize,
    /// `--shards`.
    pub shards: u32,
    /// Path of the nodes' binary; `None`: that of this build.
    pub binary: Option<PathBuf>,
    /// Additional arguments of each node.
    pub args: Vec<String>,
    /// Seed of the random losses of links.
    pub seed: u64,
    /// Folder for the nodes' files; `None`: a temporary one.
    pub dir: Option<PathBuf>,
    /// True if nodes authenticate each other with certificates.
    pub tls: bool,
    /// True if nodes connect directly, for measurements: the network can't be disturbed then.
    pub is_direct: bool,
    /// True if each node's data is on a disk that can lose power: see [`crate::power`].
    pub has_power_loss: bool,
}

impl Default for RegionOptions {
    fn default() -> Self {
        Self {
            nodes: 3,
            seats: 3,
            shards: 4,
            binary: None,
            args: vec![],
            seed: 0,
            dir: None,
            tls: false,
            is_direct: false,
            has_power_loss: false,
        }
    }
}

/// Nodes, by their seats, and the network between them. Stops all of them on drop.
#[derive(Debug)]
pub struct Region {
    /// All nodes, including those that aren't started.
    pub nodes: Vec<NodeProcess>,
    /// Network between the nodes.
    pub network: Network,
    pub(super) options: RegionOptions,
    pub(super) expected_errors: Vec<String>,
    certificates: Option<Certificates>,
    dir: PathBuf,
    /// Removes `dir` at the end, unless the files are to be kept.
    temp_dir: Option<TempDir>,
    /// Released after everything else has stopped.
    _permit: RegionPermit,
}

impl Region {
    /// Starts three nodes and waits until the region is formed.
    pub async fn start() -> Self {
        Self::start_with(RegionOptions::default()).await
    }

    /// Starts a region with these options and waits until it is formed.
    pub async fn start_with(options: RegionOptions) -> Self {
        let mut region = Self::prepare(options);
        region.launch(0, &StartMode::Bootstrap);
        region.wait_listening(0).await;
        for seat in 1..region.options.nodes {
            region.launch(seat, &StartMode::Join(vec![0]));
        }
        let starting = 0..region.options.nodes;
        join_all(starting.map(|seat| region.wait_listening(seat))).await;
        region.wait_formed().await;
        region
    }

    /// Prepares seats, links and folders, without starting any node.
    pub fn prepare(options: RegionOptions) -> Self {
        let permit = RegionPermit::wait();
        let seats = options.seats.max(options.nodes);
        let network = Network::start(seats, options.seed);
        let (dir, temp_dir) = match &options.dir {
            Some(dir) => (dir.clone(), None),
            None => {
                let temporary = tempfile::tempdir().expect("make a temporary directory");
                (temporary.path().to_owned(), Some(temporary))
            }
        };
        let certificates = options.tls.then(|| Certificates::create(&dir));
        let member = |seat: usize| {
            let mut args = options.args.clone();
            if let Some(certificates) = &certificates {
                args.extend(certificates.issue_for_seat(&network.seats()[seat]));
            }
            let flags = NodeFlags {
                start_args: vec![],
                rpc_via: if options.is_direct {
                    String::new()
                } else {
                    network.rpc_via(seat)
                },
                region: "local".into(),
                shards: options.shards,
                args,
                binary: options.binary.clone(),
                max_file_kib: None,
                env: vec![],
            };
            let dir = dir.join(format!("node-{seat}"));
            let mut member = NodeProcess::new(network.seats()[seat], flags, dir);
            if options.has_power_loss {
                member.mount_disk();
            }
            member
        };
        let nodes = (0..seats).map(member).collect();
        for seat in 0..seats {
            network.set_listening(seat, false);
        }
        Self {
            nodes,
            network,
            options,
            expected_errors: vec![],
            certificates,
            dir,
            temp_dir,
            _permit: permit,
        }
    }

    /// Starts a node; call [`Region::wait_listening`] next.
    pub fn launch(&mut self, seat: usize, start: &StartMode) {
        self.nodes[seat].flags.start_args = match start {
            StartMode::Bootstrap => vec!["--init".into()],
            StartMode::Join(seats) => {
                let addresses: Vec<String> = seats
                    .iter()
                    .map(|other| self.seat(*other).rpc().to_string())
                    .collect();
                vec!["--join".into(), addresses.join(",")]
            }
        };
        self.nodes[seat].start();
    }

    /// Starts a node as it was started before, and waits until it listens.
    pub async fn restart(&mut self, seat: usize) {
        self.nodes[seat].start();
        self.wait_listening(seat).await;
    }

    /// Waits until a node listens, and opens its links.
    pub async fn wait_listening(&self, seat: usize) {
        let (rpc, log) = (self.seat(seat).rpc(), self.nodes[seat].log());
        let what = format!("node {seat} listens; see {}", log.path().display());
        eventually(&what, LISTEN_TIMEOUT, async || {
            TcpStream::connect(rpc).await.ok()
        })
        .await;
        self.network.set_listening(seat, true);
    }

    /// Kills a node with SIGKILL.
    pub fn kill(&mut self, seat: usize) {
        self.nodes[seat].kill_9();
        self.network.set_listening(seat, false);
    }

    /// Cuts the power of all these nodes at once; call [`Region::power_on`] next.
    pub fn power_off(&mut self, seats: &[usize]) {
        for seat in seats {
            self.nodes[*seat].power_off();
            self.network.set_listening(*seat, false);
        }
    }

    /// Turns a node's power on: `seed` decides what its disk has lost of what wasn't synced. The
    /// node isn't started yet.
    pub fn power_on(&self, seat: usize, seed: u64) -> DataLoss {
        self.nodes[seat].power_on(seed)
    }

    /// Stops a node with SIGTERM; the exit must come in time and with code 0.
    pub async fn terminate(&mut self, seat: usize) {
        self.nodes[seat].send_sigterm();
        let status = self.nodes[seat].wait_exit().await;
        self.network.set_listening(seat, false);
        let code = status.code();
        assert_eq!(code, Some(0), "a node that is asked to stop: {status}");
    }

    /// Waits for a node to exit by itself.
    pub async fn wait_exit(&mut self, seat: usize) -> std::process::ExitStatus {
        let status = self.nodes[seat].wait_exit().await;
        self.network.set_listening(seat, false);
        status
    }

    /// Wipes a stopped node's disk and starts it again, to join with a new identity.
    pub async fn rejoin_wiped(&mut self, seat: usize) {
        self.launch_wiped(seat);
        self.wait_listening(seat).await;
    }

    /// Wipes a stopped node's disk and starts it again, without waiting for it to listen.
    pub fn launch_wiped(&mut self, seat: usize) {
        let others = (0..self.nodes.len()).filter(|other| *other != seat);
        let others = others
            .filter(|other| self.nodes[*other].is_running())
            .collect();
        self.nodes[seat].wipe();
        self.launch(seat, &StartMode::Join(others));
    }

    /// Runs `cloudkv-node admin replace` through the node at `seat`: the lost node never comes
    /// back.
    pub async fn replace_node(&self, seat: usize, lost_id: &NodeId) {
        self.admin_with_retries(seat, &["replace", &lost_id.0])
            .await;
    }

    /// Kills a node, wipes its disk, has it join again, and tells the node at `admin_seat` that the
    /// old one is lost. Returns the ID that is lost.
    pub async fn replace_after_disk_loss(&mut self, seat: usize, admin_seat: usize) -> NodeId {
        let lost_id = self.node_id(seat).await;
        self.kill(seat);
        self.rejoin_wiped(seat).await;
        self.replace_node(admin_seat, &lost_id).await;
        lost_id
    }

    /// Returns an operator's command for the node at `seat`.
    pub fn admin_command(&self, seat: usize, args: &[&str]) -> Command {
        let url = format!("http://{}", self.seat(seat).admin());
        let mut command = node_command();
        command.args(["admin", "--admin", &url]).args(args);
        command
    }

    /// Runs an operator's command through the node at `seat`, and returns what becomes of it.
    pub async fn run_admin(&self, seat: usize, args: &[&str]) -> CommandOutput {
        run_command(self.admin_command(seat, args)).await
    }

    /// Runs an operator's command through the node at `seat`; returns its output, or its error
    /// output.
    pub async fn admin(&self, seat: usize, args: &[&str]) -> Result<String, String> {
        let output = self.run_admin(seat, args).await;
        match output.code {
            Some(0) => Ok(output.stdout),
            _ => Err(output.stderr),
        }
    }

    /// Runs an operator's command, again and again while it fails with 503, as operators do.
    pub async fn admin_with_retries(&self, seat: usize, args: &[&str]) -> String {
        let what = format!("admin {args:?} is carried out");
        let answered = async || match self.admin(seat, args).await {
            Ok(answered) => Some(answered),
            Err(error) if error.contains("answered 503") => None,
            Err(error) if error.contains("is starting, and waits for") => None,
            Err(error) => panic!("admin {args:?}: {error}"),
        };
        eventually(&what, FORM_TIMEOUT, answered).await
    }

    /// Returns the addresses of a node.
    pub fn seat(&self, seat: usize) -> Seat {
        self.network.seats()[seat]
    }

    /// Returns the addresses of the public ports of the nodes at these seats.
    pub fn http_addresses(&self, seats: impl IntoIterator<Item = usize>) -> Vec<SocketAddr> {
        let seats = seats.into_iter();
        seats.map(|seat| self.seat(seat).http()).collect()
    }

    /// Returns the addresses of the rpc ports of the nodes at these seats.
    pub fn rpc_addresses(&self, seats: impl IntoIterator<Item = usize>) -> Vec<SocketAddr> {
        let seats = seats.into_iter();
        seats.map(|seat| self.seat(seat).rpc()).collect()
    }

    /// Returns a client of a node's public port.
    pub fn api(&self, seat: usize) -> ApiClient {
        self.nodes[seat].api()
    }

    /// Returns the seats of nodes that were started and not stopped since.
    pub fn running(&self) -> Vec<usize> {
        let all = 0..self.nodes.len();
        all.filter(|seat| self.nodes[*seat].is_running()).collect()
    }

    /// Returns the nodes' certificates.
    ///
    /// # Panics
    /// Panics if they have none.
    pub fn certificates(&self) -> &Certificates {
        self.certificates.as_ref().expect("a region with TLS")
    }

    /// Returns the number of shards.
    pub fn shards(&self) -> u32 {
        self.options.shards
    }

    /// Returns the folder with all nodes' files.
    pub fn dir(&self) -> &Path {
        &self.dir
    }

    /// Keeps the nodes' files after the end.
    pub fn keep_files(&mut self) {
        for member in &self.nodes {
            member.keep_disk();
        }
        self.temp_dir = self.temp_dir.take().and_then(|temporary| {
            let _ = temporary.keep();
            None
        });
    }
}
