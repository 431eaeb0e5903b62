//! The node's threads, by what they are for, so that load on one can't delay the other.

use cloudkv_common::server::Workers;
use tokio::runtime::{Builder, Handle, Runtime};

use super::run::RunError;
use crate::config::Config;
use crate::rpc::Runtimes;

/// The threads that replicate and those that serve users; none if the caller's do both.
pub(super) struct Threads(Option<(Runtime, Workers)>);

impl Threads {
    /// Starts as many as the configuration says.
    pub fn start(config: &Config) -> Result<Self, RunError> {
        if config.raft_threads == 0 {
            return Ok(Self(None));
        }
        // Not of a single thread each: a write that waits for the disk leaves the others to another.
        let raft = Builder::new_multi_thread()
            .worker_threads(config.raft_threads)
            .thread_name("raft")
            .enable_all()
            .build();
        let raft = raft.map_err(|source| RunError::System {
            verb: "start the Raft threads",
            source,
        })?;
        let workers = Workers::start(config.http_workers());
        let workers = workers.map_err(|source| RunError::System {
            verb: "start the threads that serve users",
            source,
        })?;
        Ok(Self(Some((raft, workers))))
    }

    /// Which is for what; all else is the caller's.
    pub fn runtimes(&self) -> Runtimes {
        match &self.0 {
            Some((raft, workers)) => Runtimes {
                raft: raft.handle().clone(),
                workers: workers.handles().to_vec(),
                rest: Handle::current(),
            },
            None => Runtimes::all_on(&Handle::current()),
        }
    }

    /// Ends them.
    pub fn stop(self) {
        if let Some((raft, workers)) = self.0 {
            raft.shutdown_background();
            workers.stop();
        }
    }
}
