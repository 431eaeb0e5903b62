//! One node of a region as a process: stopped in any way, and restarted with the same addresses.

use std::fs::{self, File, OpenOptions};
use std::io;
use std::os::unix::fs::FileExt;
use std::os::unix::process::ExitStatusExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitStatus};
use std::time::{Duration, Instant};

use rustix::process::{Pid, Signal, kill_process};

use super::seats::Seat;
use crate::power::{DataLoss, Disk};
use crate::{ApiClient, LogFile, clean_env_command, node_command};

/// Time for a node to stop after SIGTERM.
const STOP_TIMEOUT: Duration = Duration::from_secs(90);

/// The way in which a node gets into a cluster.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum StartMode {
    /// The node bootstraps a cluster.
    Bootstrap,
    /// The node joins those at these seats.
    Join(Vec<usize>),
}

/// Options of a node's command line, besides its addresses.
#[derive(Clone, Debug)]
pub struct NodeFlags {
    /// `--init` or `--join`, with the addresses.
    pub start_args: Vec<String>,
    /// `--rpc-via`.
    pub rpc_via: String,
    /// `--region`; if empty, the flag is omitted.
    pub region: String,
    /// `--shards`.
    pub shards: u32,
    /// Additional arguments.
    pub args: Vec<String>,
    /// Path of the node's binary; `None`: that of this build.
    pub binary: Option<PathBuf>,
    /// Maximum size of a file, in KiB: simulates a disk that is full earlier.
    pub max_file_kib: Option<u64>,
    /// Environment variables; the node gets no other `CLOUDKV_*` and `AWS_*`.
    pub env: Vec<(String, String)>,
}

/// A node's process and its files.
#[derive(Debug)]
pub struct NodeProcess {
    /// Addresses on which it listens.
    pub seat: Seat,
    /// Options of its next start.
    pub flags: NodeFlags,
    pub(super) dir: PathBuf,
    child: Option<Child>,
    pub(super) log: LogFile,
    /// One client for all calls, which keeps its connections.
    admin: ApiClient,
    /// Disk that can lose power, if it has one. Unmounted after the process has exited.
    disk: Option<Disk>,
    /// Length of the log when the node was allowed to exit by itself, if it is.
    pub(super) exit_allowed_from: Option<usize>,
}

impl NodeProcess {
    /// Creates a node that isn't started yet, with its files in `dir`.
    pub(super) fn new(seat: Seat, flags: NodeFlags, dir: PathBuf) -> Self {
        fs::create_dir_all(&dir).expect("make the node's folder");
        Self {
            seat,
            flags,
            child: None,
            admin: ApiClient::new(seat.admin()),
            log: LogFile::new(dir.join("stderr.log")),
            dir,
            disk: None,
            exit_allowed_from: None,
        }
    }

    /// Puts the node's data on a disk that can lose power.
    pub(super) fn mount_disk(&mut self) {
        let disk = Disk::mount(&self.data_dir(), &self.dir.join("disk"));
        self.disk = Some(disk.expect("mount a disk that can lose power"));
    }

    /// Returns the disk with the node's data.
    ///
    /// # Panics
    /// Panics if the node has no disk that can lose power.
    pub fn disk(&self) -> &Disk {
        self.disk.as_ref().expect("a disk that can lose power")
    }

    /// Returns the command that starts the node.
    pub fn command(&self) -> Command {
        let mut command = self.program();
        command
            .arg("--data-dir")
            .arg(self.data_dir())
            .args(["--log-format", "json"])
            // Faults create buckets without end, and all from one address.
            .args(["--address-creations-per-hour", "0"]);
        let addresses = [
            ("--http", self.seat.http()),
            ("--rpc", self.seat.rpc()),
            ("--admin", self.seat.admin()),
        ];
        for (flag, address) in addresses {
            command.args([flag, &address.to_string()]);
        }
        if !self.flags.region.is_empty() {
            command.args(["--region", &self.flags.region]);
        }
        command
            .args(["--shards", &self.flags.shards.to_string()])
            .args(&self.flags.start_args)
            .arg("--clock-file")
            .arg(self.clock_file());
        if !self.flags.rpc_via.is_empty() {
            command.args(["--rpc-via", &self.flags.rpc_via]);
        }
        command.args(&self.flags.args).envs(self.flags.env.clone());
        command
    }

    /// Returns a command of the node's binary, or of a shell that lowers a limit and executes it.
    fn program(&self) -> Command {
        let node = match &self.flags.binary {
            Some(binary) => clean_env_command(binary),
            None => node_command(),
        };
        let Some(limit) = self.flags.max_file_kib else {
            return node;
        };
        let mut shell = Command::new("bash");
        for (name, value) in node.get_envs() {
            match value {
                Some(value) => shell.env(name, value),
                None => shell.env_remove(name),
            };
        }
        // With the signal ignored, a write beyond the limit fails as it does on a full disk.
        let script = format!("trap '' XFSZ; ulimit -f {limit}; exec \"$0\" \"$@\"");
        shell.args(["-c", &script]).arg(node.get_program());
        shell.stdin(std::process::Stdio::null());
        shell
    }

    /// Starts the process.
    ///
    /// # Panics
    /// Panics if it runs.
    pub fn start(&mut self) {
        assert!(!self.is_running(), "the node runs");
        let child = self
            .command()
            .stdout(open_append(&self.dir.join("stdout.log")))
            .stderr(open_append(self.log.path()))
            .spawn();
        self.child = Some(child.expect("start the node"));
        self.exit_allowed_from = None;
    }

    /// Returns whether it was started and not stopped since; it may have exited by itself.
    pub fn is_running(&self) -> bool {
        self.child.is_some()
    }

    /// Returns the process ID, while it runs.
    pub fn pid(&self) -> Option<u32> {
        self.child.as_ref().map(Child::id)
    }

    /// Returns the exit status, if the process has exited by itself.
    pub fn exit_status(&mut self) -> Option<ExitStatus> {
        let child = self.child.as_mut()?;
        child.try_wait().expect("ask for the node")
    }

    /// Kills the process with SIGKILL, as a crash would.
    pub(super) fn kill_9(&mut self) {
        let mut child = self.child.take().expect("a node that runs");
        child.kill().expect("kill the node");
        if let Some(disk) = &self.disk {
            disk.interrupt();
        }
        self.wait_killed(child);
    }

    /// Cuts the power: the process ends, and nothing that was under way reaches the disk.
    /// [`NodeProcess::power_on`] decides what is left.
    pub(super) fn power_off(&mut self) {
        let child = self.child.take();
        assert!(
            child.is_some() || self.is_exit_allowed(),
            "a node that runs"
        );
        match child {
            Some(mut child) => {
                child.kill().expect("kill the node");
                self.disk().power_off();
                self.wait_killed(child);
            }
            None => self.disk().power_off(),
        }
    }

    /// Turns the power on: `seed` decides what is left on the disk of what wasn't synced.
    pub(super) fn power_on(&self, seed: u64) -> DataLoss {
        self.disk().power_on(seed).expect("cut the power of a disk")
    }

    /// Copies the disk's files to a folder beside it, where they stay after the unmount.
    pub(super) fn keep_disk(&self) {
        if let Some(disk) = &self.disk
            && let Err(error) = disk.export(&self.dir.join("kept"))
        {
            eprintln!("copy the disk of {}: {error}", self.dir.display());
        }
    }

    fn wait_killed(&self, mut child: Child) {
        let status = child.wait().expect("wait for the killed node");
        let has_exited = self.is_exit_allowed() && self.check_exit(status).is_ok();
        assert!(
            status.signal() == Some(9) || has_exited,
            "the node had exited before it was killed: {status}\n{}",
            self.log.tail()
        );
    }

    /// Suspends the process with SIGSTOP.
    pub fn pause(&self) {
        self.send_signal(Signal::STOP);
    }

    /// Resumes the process with SIGCONT.
    pub fn resume(&self) {
        self.send_signal(Signal::CONT);
    }

    /// Sends SIGTERM.
    pub fn send_sigterm(&self) {
        self.send_signal(Signal::TERM);
    }

    /// Changes a value that is in one row of the state, on a stopped node's disk and without the
    /// node's knowledge.
    pub fn alter_stored_value(&self, from: &[u8], to: &[u8]) {
        let path = self.data_dir().join("state");
        let db = rocksdb::DB::open_default(path).expect("open the state");
        let rows = db.iterator(rocksdb::IteratorMode::Start).flatten();
        let position = |row: &[u8]| row.windows(from.len()).position(|part| part == from);
        let find = |(key, row): (Box<[u8]>, Box<[u8]>)| Some((key, position(&row)?, row));
        let matches: Vec<_> = rows.filter_map(find).collect();
        let [(key, at, row)] = &matches[..] else {
            panic!("{} rows hold the value, and not one", matches.len());
        };
        db.put(key, [&row[..*at], to, &row[at + from.len()..]].concat())
            .expect("put a row");
        db.flush().expect("flush the state");
    }

    /// Flips a bit in every `spacing` bytes of a part, in percent, of each of the state's files, as
    /// a failing disk might, whether the node runs or not. Returns the number of flips. Rows are in
    /// the first part of a file, the index of its blocks is at its end.
    pub fn damage_state(&self, part: std::ops::Range<u64>, spacing: usize) -> usize {
        let state = self.data_dir().join("state");
        let files = fs::read_dir(state).expect("list the state's files");
        let mut flipped = 0;
        for path in files.map(|file| file.expect("list the state's files").path()) {
            if path.extension().is_none_or(|it| it != "sst") {
                continue;
            }
            // The file may have been removed meanwhile.
            let Ok(file) = OpenOptions::new().read(true).write(true).open(&path) else {
                continue;
            };
            let size = file.metadata().expect("size of a file").len();
            let (from, to) = (size * part.start / 100, size * part.end / 100);
            for offset in (from..to).step_by(spacing) {
                let mut byte = [0];
                file.read_exact_at(&mut byte, offset).expect("read a byte");
                byte[0] ^= 1 << (offset % 8);
                file.write_all_at(&byte, offset).expect("write a byte");
                flipped += 1;
            }
        }
        flipped
    }

    /// Waits for the process to exit.
    ///
    /// # Panics
    /// Panics if it doesn't exit in time.
    pub(super) async fn wait_exit(&mut self) -> ExitStatus {
        let started = Instant::now();
        loop {
            if let Some(status) = self.exit_status() {
                self.child = None;
                return status;
            }
            assert!(
                started.elapsed() < STOP_TIMEOUT,
                "{} did not exit within {STOP_TIMEOUT:?}\n{}",
                self.dir.display(),
                self.log.tail()
            );
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    }

    /// Removes the node's data.
    pub(super) fn wipe(&mut self) {
        assert!(!self.is_running(), "a node that runs keeps its disk");
        match fs::remove_dir_all(self.data_dir()) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => {
                panic!("remove {}: {error}", self.data_dir().display())
            }
            Ok(()) | Err(_) => {}
        }
    }

    /// Sets the offset of the wall clock: a running node slews towards it, and its next start takes
    /// it over at once.
    pub fn set_clock(&self, offset_ms: i64) {
        fs::write(self.clock_file(), offset_ms.to_string()).expect("write the clock's offset");
    }

    /// Returns the data directory.
    pub fn data_dir(&self) -> PathBuf {
        self.dir.join("data")
    }

    fn clock_file(&self) -> PathBuf {
        self.dir.join("clock")
    }

    /// Returns the log.
    pub fn log(&self) -> &LogFile {
        &self.log
    }

    /// Returns a client of the public port.
    pub fn api(&self) -> ApiClient {
        ApiClient::new(self.seat.http())
    }

    /// Returns a client of the admin port.
    pub fn admin_api(&self) -> ApiClient {
        self.admin.clone()
    }

    fn send_signal(&self, signal: Signal) {
        let child = self.child.as_ref().expect("a node that runs");
        let pid = i32::try_from(child.id()).ok().and_then(Pid::from_raw);
        kill_process(pid.expect("a pid"), signal).expect("send a signal");
    }
}

impl Drop for NodeProcess {
    fn drop(&mut self) {
        if let Some(child) = &mut self.child {
            // Fails only if it has exited already. SIGKILL ends a suspended process, too.
            let _ = child.kill();
            if let Some(disk) = &self.disk {
                disk.power_off();
            }
            let _ = child.wait();
        }
    }
}

fn open_append(path: &Path) -> File {
    OpenOptions::new()
        .create(true)
        .append(true)
        .open(path)
        .expect("open a log")
}
