//! The node's threads, separated by purpose, so that load on some can't delay the others.

use cloudkv_common::process::SystemError;
use cloudkv_common::server::Workers;
use tokio::runtime::{Builder, Handle, Runtime};

use super::errors::RunError;
use crate::config::Config;
use crate::rpc::RpcRuntimes;

/// Threads for Raft and threads that serve users; none if the caller's threads do both. They end
/// when this is dropped.
pub(super) struct Threads {
    raft: Option<Runtime>,
    workers: Option<Workers>,
}

impl Threads {
    /// Starts as many threads as configured.
    pub(super) fn start(config: &Config) -> Result<Self, RunError> {
        if config.raft_threads == 0 {
            return Ok(Self {
                raft: None,
                workers: None,
            });
        }
        // A multi-thread runtime even with one thread: while that blocks on the disk, another takes
        // its place.
        let raft = Builder::new_multi_thread()
            .worker_threads(config.raft_threads)
            .thread_name("raft")
            .enable_all()
            .build();
        let raft = raft.map_err(SystemError::while_doing("start the Raft threads"))?;
        let mut threads = Self {
            raft: Some(raft),
            workers: None,
        };
        let workers = Workers::start(config.http_workers());
        let starting = SystemError::while_doing("start the threads that serve users");
        threads.workers = Some(workers.map_err(starting)?);
        Ok(threads)
    }

    /// Runtimes by purpose; everything else runs on the caller's.
    pub(super) fn runtimes(&self) -> RpcRuntimes {
        match (&self.raft, &self.workers) {
            (Some(raft), Some(workers)) => RpcRuntimes {
                raft: raft.handle().clone(),
                workers: workers.handles().to_vec(),
                general: Handle::current(),
            },
            _ => RpcRuntimes::all_on(&Handle::current()),
        }
    }
}

impl Drop for Threads {
    fn drop(&mut self) {
        // A plain drop would block here, which a thread of another runtime may not.
        if let Some(raft) = self.raft.take() {
            raft.shutdown_background();
        }
        if let Some(workers) = self.workers.take() {
            workers.stop();
        }
    }
}
