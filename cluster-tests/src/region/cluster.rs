//! Starting a region, and doing things to its nodes.

use std::path::{Path, PathBuf};
use std::sync::{Condvar, Mutex, PoisonError};
use std::time::Duration;

use futures_util::future::join_all;
use tempfile::TempDir;
use tokio::net::TcpStream;

use super::certificates::Certificates;
use super::member::{Member, MemberFlags, Start};
use super::network::Network;
use super::seats::Seat;
use super::status::NodeId;
use crate::harness::{Api, clean_command, eventually};
use crate::power::Losses;

/// How long a node may take to listen, and a region to form. Debug builds on a busy machine are
/// slow.
const LISTENS_WITHIN: Duration = Duration::from_secs(60);
pub(super) const FORMS_WITHIN: Duration = Duration::from_secs(120);

/// Regions of this process that run now. Nodes have deadlines to keep, and their debug builds need
/// much: with many regions at once on few processors, all of them would be late.
static RUNNING: Mutex<usize> = Mutex::new(0);
static ENDED: Condvar = Condvar::new();

/// A region's place among those that run at once.
#[derive(Debug)]
struct Turn;

impl Turn {
    /// Waits for a place, and blocks: a test has nothing else to do then.
    fn wait() -> Self {
        let places = std::thread::available_parallelism().map_or(2, |cores| cores.get().max(2));
        let running = RUNNING.lock().unwrap_or_else(PoisonError::into_inner);
        let full = |running: &mut usize| *running >= places;
        let running = ENDED.wait_while(running, full);
        *running.unwrap_or_else(PoisonError::into_inner) += 1;
        Self
    }
}

impl Drop for Turn {
    fn drop(&mut self) {
        *RUNNING.lock().unwrap_or_else(PoisonError::into_inner) -= 1;
        ENDED.notify_one();
    }
}

/// How a region is started.
#[derive(Clone, Debug)]
pub struct RegionOptions {
    /// How many nodes are started.
    pub nodes: usize,
    /// How many nodes there can be.
    pub seats: usize,
    /// `--shards`.
    pub shards: u32,
    /// The nodes' binary; `None`: that of this build.
    pub binary: Option<PathBuf>,
    /// More arguments of each node.
    pub args: Vec<String>,
    /// Decides what lossy links lose.
    pub seed: u64,
    /// Where the nodes' files go; `None`: into a temporary directory.
    pub dir: Option<PathBuf>,
    /// Whether nodes show each other certificates.
    pub tls: bool,
    /// Whether nodes reach each other straight, for measurements: the network can't be harmed then.
    pub direct: bool,
    /// Whether each node's data is on a disk that can lose power: see [`crate::power`].
    pub power: bool,
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
            direct: false,
            power: false,
        }
    }
}

/// Nodes, by their seats, and the network between them. Dropping it ends them.
#[derive(Debug)]
pub struct Region {
    /// The nodes, those that aren't started included.
    pub members: Vec<Member>,
    /// What is between them.
    pub network: Network,
    pub(super) options: RegionOptions,
    pub(super) errors_expected: Vec<String>,
    certificates: Option<Certificates>,
    dir: PathBuf,
    /// Removes `dir` at the end, unless somebody wants to look.
    temporary: Option<TempDir>,
    /// Given back when all else has ended.
    _turn: Turn,
}

impl Region {
    /// Three nodes, formed.
    pub async fn start() -> Self {
        Self::start_with(RegionOptions::default()).await
    }

    /// A region with these options, formed.
    pub async fn start_with(options: RegionOptions) -> Self {
        let mut region = Self::prepare(options);
        region.launch(0, &Start::Init);
        region.wait_listening(0).await;
        for seat in 1..region.options.nodes {
            region.launch(seat, &Start::Join(vec![0]));
        }
        let starting = 0..region.options.nodes;
        join_all(starting.map(|seat| region.wait_listening(seat))).await;
        region.wait_formed().await;
        region
    }

    /// Seats, links and folders, without any node running.
    pub fn prepare(options: RegionOptions) -> Self {
        let turn = Turn::wait();
        let seats = options.seats.max(options.nodes);
        let network = Network::start(seats, options.seed);
        let (dir, temporary) = match &options.dir {
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
                args.extend(certificates.of(&network.seats()[seat]));
            }
            let flags = MemberFlags {
                start: vec![],
                via: if options.direct {
                    String::new()
                } else {
                    network.via(seat)
                },
                region: "local".into(),
                shards: options.shards,
                args,
                binary: options.binary.clone(),
                file_limit: None,
            };
            let dir = dir.join(format!("node-{seat}"));
            let mut member = Member::new(network.seats()[seat], flags, dir);
            if options.power {
                member.mount_disk();
            }
            member
        };
        let members = (0..seats).map(member).collect();
        for seat in 0..seats {
            network.set_listening(seat, false);
        }
        Self {
            members,
            network,
            options,
            errors_expected: vec![],
            certificates,
            dir,
            temporary,
            _turn: turn,
        }
    }

    /// Starts a node; [`Region::wait_listening`] comes next.
    pub fn launch(&mut self, seat: usize, start: &Start) {
        self.members[seat].flags.start = match start {
            Start::Init => vec!["--init".into()],
            Start::Join(seats) => {
                let addresses: Vec<String> = seats
                    .iter()
                    .map(|other| self.seat(*other).rpc().to_string())
                    .collect();
                vec!["--join".into(), addresses.join(",")]
            }
        };
        self.members[seat].start();
    }

    /// Starts a node as it was started before, and waits until it listens.
    pub async fn restart(&mut self, seat: usize) {
        self.members[seat].start();
        self.wait_listening(seat).await;
    }

    /// Waits until the others can reach a node, and lets them.
    pub async fn wait_listening(&self, seat: usize) {
        let (rpc, log) = (self.seat(seat).rpc(), self.members[seat].log());
        let what = format!("node {seat} listens; see {}", log.path().display());
        eventually(&what, LISTENS_WITHIN, async || {
            TcpStream::connect(rpc).await.ok()
        })
        .await;
        self.network.set_listening(seat, true);
    }

    /// `kill -9`.
    pub fn kill(&mut self, seat: usize) {
        self.members[seat].kill_9();
        self.network.set_listening(seat, false);
    }

    /// The power of nodes is gone, of all at once; [`Region::power_on`] comes next.
    pub fn power_off(&mut self, seats: &[usize]) {
        for seat in seats {
            self.members[*seat].power_off();
            self.network.set_listening(*seat, false);
        }
    }

    /// The power of a node is back: `seed` decides what its disk has lost of what wasn't synced.
    /// It isn't started yet.
    pub fn power_on(&self, seat: usize, seed: u64) -> Losses {
        self.members[seat].power_on(seed)
    }

    /// SIGTERM; waits for the end, which must come in time and with exit code 0.
    pub async fn terminate(&mut self, seat: usize) {
        self.members[seat].signal_terminate();
        let status = self.members[seat].wait_exit().await;
        self.network.set_listening(seat, false);
        let code = status.code();
        assert_eq!(code, Some(0), "a node that is asked to stop: {status}");
    }

    /// Waits for a node to end by itself.
    pub async fn wait_exit(&mut self, seat: usize) -> std::process::ExitStatus {
        let status = self.members[seat].wait_exit().await;
        self.network.set_listening(seat, false);
        status
    }

    /// Removes what a stopped node had on disk and starts it again, to join under a new identity.
    pub async fn rejoin_wiped(&mut self, seat: usize) {
        self.launch_wiped(seat);
        self.wait_listening(seat).await;
    }

    /// Removes what a stopped node had on disk and starts it again.
    pub fn launch_wiped(&mut self, seat: usize) {
        let others = (0..self.members.len()).filter(|other| *other != seat);
        let others = others.filter(|other| self.members[*other].runs()).collect();
        self.members[seat].wipe();
        self.launch(seat, &Start::Join(others));
    }

    /// `cloudkv-node admin replace`: tells the cluster, through the node at `seat`, that a node
    /// never comes back.
    pub async fn replace(&self, seat: usize, lost: &NodeId) {
        self.insist(seat, &["replace", &lost.0]).await;
    }

    /// An operator's command, through the node at `seat`: what it prints, or what it complains of.
    pub async fn admin(&self, seat: usize, words: &[&str]) -> Result<String, String> {
        let url = format!("http://{}", self.seat(seat).admin());
        let mut command = clean_command();
        command.args(["admin", "--admin", &url]).args(words);
        let output = tokio::process::Command::from(command).output().await;
        let output = output.expect("run the operator's command");
        let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
        if output.status.success() {
            Ok(text(&output.stdout))
        } else {
            Err(text(&output.stderr))
        }
    }

    /// The same, again and again while the metadata elects a leader, as operators do.
    pub async fn insist(&self, seat: usize, words: &[&str]) -> String {
        let what = format!("admin {words:?} is carried out");
        let told = async || match self.admin(seat, words).await {
            Ok(told) => Some(told),
            Err(error) if error.contains("503") => None,
            Err(error) => panic!("admin {words:?}: {error}"),
        };
        eventually(&what, FORMS_WITHIN, told).await
    }

    /// Where a node listens.
    pub fn seat(&self, seat: usize) -> Seat {
        self.network.seats()[seat]
    }

    /// A client of a node's public port.
    pub fn api(&self, seat: usize) -> Api {
        self.members[seat].api()
    }

    /// The seats whose nodes were started and not stopped since.
    pub fn running(&self) -> Vec<usize> {
        let all = 0..self.members.len();
        all.filter(|seat| self.members[*seat].runs()).collect()
    }

    /// The nodes' certificates.
    ///
    /// # Panics
    /// When they show each other none.
    pub fn certificates(&self) -> &Certificates {
        self.certificates.as_ref().expect("a region with TLS")
    }

    /// How many shards there are.
    pub fn shards(&self) -> u32 {
        self.options.shards
    }

    /// The folder with all nodes' files.
    pub fn dir(&self) -> &Path {
        &self.dir
    }

    /// Leaves the nodes' files where they are at the end.
    pub fn keep_files(&mut self) {
        for member in &self.members {
            member.keep_disk();
        }
        self.temporary = self.temporary.take().and_then(|temporary| {
            let _ = temporary.keep();
            None
        });
    }
}
