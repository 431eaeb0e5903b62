//! One node of a region as a process: stopped in any way, and started again where it was.

use std::fs::{self, File, OpenOptions};
use std::io;
use std::os::unix::fs::FileExt;
use std::os::unix::process::ExitStatusExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitStatus};
use std::time::{Duration, Instant};

use rustix::process::{Pid, Signal, kill_process};

use super::seats::Seat;
use crate::harness::{Api, Log, clean, clean_command};
use crate::power::{Disk, Losses};

/// How long a node may take to stop when it is asked to.
const STOPS_WITHIN: Duration = Duration::from_secs(90);

/// How a node finds its cluster.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Start {
    /// It founds one.
    Init,
    /// It joins the nodes at these seats.
    Join(Vec<usize>),
}

/// What decides a node's command line, beside its seat.
#[derive(Clone, Debug)]
pub struct MemberFlags {
    /// `--init` or `--join`, with the addresses.
    pub start: Vec<String>,
    /// `--rpc-via`.
    pub via: String,
    /// `--region`; empty leaves the flag away.
    pub region: String,
    /// `--shards`.
    pub shards: u32,
    /// More arguments.
    pub args: Vec<String>,
    /// The node's binary; `None`: that of this build.
    pub binary: Option<PathBuf>,
    /// The longest file that it may write, in KiB: a disk that is full sooner.
    pub file_limit: Option<u64>,
}

/// A node and what it leaves on disk.
#[derive(Debug)]
pub struct Member {
    /// Where it listens.
    pub seat: Seat,
    /// How it is started the next time.
    pub flags: MemberFlags,
    pub(super) dir: PathBuf,
    child: Option<Child>,
    pub(super) log: Log,
    /// Asked often, so its connections are kept.
    admin: Api,
    /// What its data is on, if that can lose power. Unmounted when the process has ended.
    disk: Option<Disk>,
    /// Length of its log when it was allowed to end by itself, if it is.
    pub(super) may_end: Option<usize>,
}

impl Member {
    /// A node that isn't started yet, with its files in `dir`.
    pub(super) fn new(seat: Seat, flags: MemberFlags, dir: PathBuf) -> Self {
        fs::create_dir_all(&dir).expect("make the node's folder");
        Self {
            seat,
            flags,
            child: None,
            admin: Api::new(seat.admin()),
            log: Log::new(dir.join("stderr.log")),
            dir,
            disk: None,
            may_end: None,
        }
    }

    /// Puts its data on a disk that can lose power.
    pub(super) fn mount_disk(&mut self) {
        let disk = Disk::mount(&self.data_dir(), &self.dir.join("disk"));
        self.disk = Some(disk.expect("mount a disk that can lose power"));
    }

    /// The disk that its data is on.
    ///
    /// # Panics
    /// When it is none that can lose power.
    pub fn disk(&self) -> &Disk {
        self.disk.as_ref().expect("a disk that can lose power")
    }

    /// The command that starts it.
    pub fn command(&self) -> Command {
        let mut command = self.program();
        command
            .arg("--data-dir")
            .arg(self.data_dir())
            .args(["--log-format", "json"])
            // Faults create buckets without an end, and all from one address.
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
            .args(&self.flags.start)
            .arg("--clock-file")
            .arg(self.clock_file());
        if !self.flags.via.is_empty() {
            command.args(["--rpc-via", &self.flags.via]);
        }
        command.args(&self.flags.args);
        command
    }

    /// The node's binary, or a shell that becomes it after lowering a limit.
    fn program(&self) -> Command {
        let node = match &self.flags.binary {
            Some(binary) => clean(binary),
            None => clean_command(),
        };
        let Some(limit) = self.flags.file_limit else {
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
    /// When it runs.
    pub fn start(&mut self) {
        assert!(!self.runs(), "the node runs");
        let child = self
            .command()
            .stdout(append(&self.dir.join("stdout.log")))
            .stderr(append(self.log.path()))
            .spawn();
        self.child = Some(child.expect("start the node"));
        self.may_end = None;
    }

    /// Whether it was started and not stopped since; it may have ended by itself.
    pub fn runs(&self) -> bool {
        self.child.is_some()
    }

    /// The process's ID, while it runs.
    pub fn pid(&self) -> Option<u32> {
        self.child.as_ref().map(Child::id)
    }

    /// How the process ended, if it did so by itself.
    pub fn ended(&mut self) -> Option<ExitStatus> {
        let child = self.child.as_mut()?;
        child.try_wait().expect("ask for the node")
    }

    /// Ends the process as a crash would.
    pub(super) fn kill_9(&mut self) {
        let mut child = self.child.take().expect("a node that runs");
        child.kill().expect("kill the node");
        if let Some(disk) = &self.disk {
            disk.interrupt();
        }
        self.wait_killed(child);
    }

    /// Its power is gone: the process ends, and nothing that was under way reaches the disk.
    /// [`Member::power_on`] decides what is left.
    pub(super) fn power_off(&mut self) {
        let child = self.child.take();
        assert!(child.is_some() || self.may_end(), "a node that runs");
        match child {
            Some(mut child) => {
                child.kill().expect("kill the node");
                self.disk().power_off();
                self.wait_killed(child);
            }
            None => self.disk().power_off(),
        }
    }

    /// Its power is back: `seed` decides what is left on its disk of what wasn't synced.
    pub(super) fn power_on(&self, seed: u64) -> Losses {
        self.disk().cut(seed).expect("cut the power of a disk")
    }

    /// Copies what is on its disk beside it, where it stays when the disk is unmounted.
    pub(super) fn keep_disk(&self) {
        if let Some(disk) = &self.disk
            && let Err(error) = disk.export(&self.dir.join("kept"))
        {
            eprintln!("copy the disk of {}: {error}", self.dir.display());
        }
    }

    fn wait_killed(&self, mut child: Child) {
        let status = child.wait().expect("wait for the killed node");
        let has_ended = self.may_end() && self.judge_end(status).is_ok();
        assert!(
            status.signal() == Some(9) || has_ended,
            "the node had ended before it was killed: {status}\n{}",
            self.log.tail()
        );
    }

    /// SIGSTOP: the process stands still and knows nothing of it.
    pub fn pause(&self) {
        self.signal(Signal::STOP);
    }

    /// SIGCONT.
    pub fn resume(&self) {
        self.signal(Signal::CONT);
    }

    /// SIGTERM.
    pub fn signal_terminate(&self) {
        self.signal(Signal::TERM);
    }

    /// Changes a value on a stopped node's disk, of one key, behind the node's back.
    pub fn alter(&self, from: &[u8], to: &[u8]) {
        let path = self.data_dir().join("state");
        let db = rocksdb::DB::open_default(path).expect("open the state");
        let rows = db.iterator(rocksdb::IteratorMode::Start).flatten();
        let holds_it: Vec<_> = rows.filter(|(_, row)| row.ends_with(from)).collect();
        let [(key, row)] = &holds_it[..] else {
            panic!("{} records hold the value, and not one", holds_it.len());
        };
        let kept = row.len() - from.len();
        db.put(key, [&row[..kept], to].concat()).expect("put a row");
        db.flush().expect("flush the state");
    }

    /// Flips a bit in every `spacing` bytes of a part, in hundredths, of each of the state's files,
    /// as a disk might that goes bad, whether the node runs or not. Returns how many. Rows are in
    /// the first part of a file, the index of its blocks is at its end.
    pub fn damage_state(&self, part: std::ops::Range<u64>, spacing: usize) -> usize {
        let state = self.data_dir().join("state");
        let files = fs::read_dir(state).expect("list the state's files");
        let mut flipped = 0;
        for path in files.map(|file| file.expect("list the state's files").path()) {
            if path.extension().is_none_or(|it| it != "sst") {
                continue;
            }
            // A file that was removed meanwhile is none.
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

    /// Waits for the process to end.
    ///
    /// # Panics
    /// When it doesn't.
    pub(super) async fn wait_exit(&mut self) -> ExitStatus {
        let started = Instant::now();
        loop {
            if let Some(status) = self.ended() {
                self.child = None;
                return status;
            }
            assert!(
                started.elapsed() < STOPS_WITHIN,
                "{} did not end within {STOPS_WITHIN:?}\n{}",
                self.dir.display(),
                self.log.tail()
            );
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    }

    /// Loses all that is on its disk.
    pub(super) fn wipe(&mut self) {
        assert!(!self.runs(), "a node that runs keeps its disk");
        match fs::remove_dir_all(self.data_dir()) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => {
                panic!("remove {}: {error}", self.data_dir().display())
            }
            Ok(()) | Err(_) => {}
        }
    }

    /// Moves its wall clock, as seen from its next start on at once.
    pub fn set_clock(&self, offset_ms: i64) {
        fs::write(self.clock_file(), offset_ms.to_string()).expect("write the clock's offset");
    }

    /// Where its data is.
    pub fn data_dir(&self) -> PathBuf {
        self.dir.join("data")
    }

    fn clock_file(&self) -> PathBuf {
        self.dir.join("clock")
    }

    /// What it logs.
    pub fn log(&self) -> &Log {
        &self.log
    }

    /// A client of its public port.
    pub fn api(&self) -> Api {
        Api::new(self.seat.http())
    }

    /// A client of its operator's port.
    pub fn admin_api(&self) -> Api {
        self.admin.clone()
    }

    fn signal(&self, signal: Signal) {
        let child = self.child.as_ref().expect("a node that runs");
        let pid = i32::try_from(child.id()).ok().and_then(Pid::from_raw);
        kill_process(pid.expect("a pid"), signal).expect("send a signal");
    }
}

impl Drop for Member {
    fn drop(&mut self) {
        if let Some(child) = &mut self.child {
            // Fails only if it has ended already. SIGKILL ends a paused process, too.
            let _ = child.kill();
            if let Some(disk) = &self.disk {
                disk.power_off();
            }
            let _ = child.wait();
        }
    }
}

fn append(path: &Path) -> File {
    OpenOptions::new()
        .create(true)
        .append(true)
        .open(path)
        .expect("open a log")
}
