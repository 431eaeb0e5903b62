//! Runtimes on which streams are served, and clients run.

use tokio::runtime::Handle;

/// Runtimes on which streams are served: a connection for Raft on its own threads from its first
/// byte on.
#[derive(Clone, Debug)]
pub struct RpcRuntimes {
    /// Raft's streams.
    pub raft: Handle,
    /// Streams of users' requests: the threads that serve users, one at least.
    pub workers: Vec<Handle>,
    /// Propagation between regions, and everything else.
    pub general: Handle,
}

impl RpcRuntimes {
    /// Serves all streams on one runtime.
    pub fn all_on(runtime: &Handle) -> Self {
        Self {
            raft: runtime.clone(),
            workers: vec![runtime.clone()],
            general: runtime.clone(),
        }
    }
}
