//! Child processes that don't outlive this one, and the directory they work in.
//!
//! Every child is killed when its guard is dropped. The subcommands race their work against Ctrl-C
//! and SIGTERM, so that guards are dropped then, too.

use crate::engine::LoadResult;
use crate::load;
use anyhow::{Context, Result, bail, ensure};
use cloudkv_test_harness::run_until_signal;
use std::ffi::OsStr;
use std::fs::File;
use std::future::Future;
use std::path::{Path, PathBuf};
use std::process::Stdio;
use std::time::Duration;
use tempfile::TempDir;
use tokio::net::TcpListener;
use tokio::process::Command;
use tokio::time::{Instant, sleep, timeout};

/// A running server; killed when dropped.
#[derive(Debug)]
pub(crate) struct ChildProcess {
    name: String,
    child: tokio::process::Child,
    pid: u32,
}

impl ChildProcess {
    /// Starts a program whose output is written to `<dir>/<name>.log`.
    pub(crate) fn start<S: AsRef<OsStr>>(
        name: &str,
        program: &Path,
        args: impl IntoIterator<Item = S>,
        dir: &Path,
    ) -> Result<Self> {
        let log = File::create(dir.join(format!("{name}.log"))).context("create log file")?;
        let child = Command::new(program)
            .args(args)
            .stdin(Stdio::piped())
            .stdout(log.try_clone().context("share log file")?)
            .stderr(log)
            .kill_on_drop(true)
            .spawn()
            .with_context(|| format!("start {}", program.display()))?;
        let pid = child
            .id()
            .with_context(|| format!("{name} exited at once"))?;
        Ok(Self {
            name: name.to_owned(),
            child,
            pid,
        })
    }

    /// Process id.
    pub(crate) fn pid(&self) -> u32 {
        self.pid
    }

    /// Sends SIGKILL, and waits until the process has exited.
    pub(crate) async fn kill(&mut self) -> Result<()> {
        self.child
            .kill()
            .await
            .with_context(|| format!("kill {}", self.name))
    }

    /// Returns an error if the process has exited.
    pub(crate) fn check_alive(&mut self) -> Result<()> {
        match self
            .child
            .try_wait()
            .with_context(|| format!("check process {}", self.name))?
        {
            None => Ok(()),
            Some(status) => bail!("{} exited: {status}; see its log", self.name),
        }
    }

    /// Calls `probe` every 2 ms until it returns a value, the process exits or `limit` has passed.
    pub(crate) async fn wait_for<T, F>(
        &mut self,
        what: &str,
        limit: Duration,
        mut probe: impl FnMut() -> F,
    ) -> Result<T>
    where
        F: Future<Output = Option<T>>,
    {
        let deadline = Instant::now() + limit;
        loop {
            if let Some(value) = probe().await {
                return Ok(value);
            }
            self.check_alive()?;
            ensure!(
                Instant::now() < deadline,
                "{}: no {what} within {limit:?}",
                self.name
            );
            sleep(Duration::from_millis(2)).await;
        }
    }
}

/// Runs one of this program's subcommands and returns its standard output.
pub(crate) async fn run_subcommand(args: &[String], limit: Duration) -> Result<String> {
    let own = std::env::current_exe().context("find own program")?;
    let child = Command::new(own)
        .args(args)
        .stdin(Stdio::null())
        .stdout(Stdio::piped())
        .stderr(Stdio::inherit())
        .kill_on_drop(true)
        .spawn()
        .context("start own subcommand")?;
    let output = timeout(limit, child.wait_with_output())
        .await
        .with_context(|| format!("{args:?} took longer than {limit:?}"))?
        .context("wait for own subcommand")?;
    ensure!(
        output.status.success(),
        "{args:?} failed: {}",
        output.status
    );
    String::from_utf8(output.stdout).context("output of own subcommand")
}

/// Runs the load generator in a process of its own.
pub(crate) async fn run_load(args: &load::Args) -> Result<LoadResult> {
    let limit = Duration::from_secs_f64(args.seconds + args.warmup + 60.0);
    let json = run_subcommand(&args.to_command_line(), limit).await?;
    serde_json::from_str(&json).context("result of the load generator")
}

/// Maximum seconds of a load that writes each key once.
const FILL_SECONDS: f64 = 300.0;

/// Writes each key of a load once; fails unless all are acknowledged.
pub(crate) async fn fill(load: &load::Args) -> Result<LoadResult> {
    let load = load::Args {
        each: Some(1),
        seconds: FILL_SECONDS,
        ..load.clone()
    };
    let outcome = run_load(&load).await?;
    let (done, keys) = (outcome.requests, load.keys);
    ensure!(
        done == keys,
        "{done} of {keys} keys loaded: {:?}",
        outcome.errors
    );
    Ok(outcome)
}

/// Runs `work` on a runtime of this thread; a signal drops it and with it all children.
pub(crate) fn block_on_until_signal<T>(work: impl Future<Output = Result<T>>) -> Result<T> {
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()?;
    runtime.block_on(run_until_signal(work))?
}

/// Returns the file of an installed program, by the `PATH`.
pub(crate) fn find_program(program: &str) -> Option<PathBuf> {
    let path = std::env::var_os("PATH")?;
    std::env::split_paths(&path)
        .map(|dir| dir.join(program))
        .find(|file| file.is_file())
}

/// Returns a port that was free a moment ago, for programs that can't choose one themselves.
pub(crate) async fn free_port() -> Result<u16> {
    let listener = TcpListener::bind(("127.0.0.1", 0))
        .await
        .context("find a free port")?;
    Ok(listener.local_addr()?.port())
}

/// Creates a directory below `parent`, removed when dropped. It must be on a real disk: on tmpfs an
/// fsync costs nothing and every measurement of writes would be worthless.
pub(crate) fn work_dir(parent: &Path) -> Result<TempDir> {
    const TMPFS_MAGIC: u64 = 0x0102_1994;
    std::fs::create_dir_all(parent).with_context(|| format!("create {}", parent.display()))?;
    let kind = rustix::fs::statfs(parent).context("statfs")?.f_type;
    ensure!(
        kind as u64 != TMPFS_MAGIC,
        "create data directory: {} is on tmpfs; set --data-dir to a real disk",
        parent.display()
    );
    let parent = parent.canonicalize().context("resolve data directory")?;
    tempfile::Builder::new()
        .prefix("run-")
        .tempdir_in(parent)
        .context("create data directory")
}

/// Bytes of disk space used by the files below `dir`.
pub(crate) fn disk_usage(dir: &Path) -> Result<u64> {
    use std::os::unix::fs::MetadataExt;
    let mut total = 0;
    for entry in std::fs::read_dir(dir).with_context(|| format!("list {}", dir.display()))? {
        let entry = entry?;
        // Files appear and disappear under a running node.
        let Ok(metadata) = entry.metadata() else {
            continue;
        };
        total += if metadata.is_dir() {
            disk_usage(&entry.path())?
        } else {
            metadata.blocks() * 512
        };
    }
    Ok(total)
}
