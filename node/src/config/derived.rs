//! Values that are derived from settings, and from the machine where a setting leaves it open.

use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::num::NonZero;

use super::memory;
use super::settings::Config;

/// Maximum number of threads for work that is neither for users nor for Raft.
const MAX_MAIN_THREADS: usize = 4;

/// Default address of the rpc port.
const DEFAULT_RPC_ADDRESS: SocketAddr = SocketAddr::new(IpAddr::V4(Ipv4Addr::LOCALHOST), 7070);

impl Config {
    /// Address of the rpc port, if the node listens for other nodes and routers.
    pub fn rpc_address(&self) -> SocketAddr {
        self.rpc.unwrap_or(DEFAULT_RPC_ADDRESS)
    }

    /// Returns whether the node is configured to listen for other nodes and routers: by any setting
    /// that has no other purpose.
    pub fn listens_for_nodes(&self) -> bool {
        self.rpc.is_some()
            || self.init
            || !self.join.is_empty()
            || self.advertise_rpc.is_some()
            || self.rpc_cert.is_some()
    }

    /// Size of the block cache in bytes, with 0 resolved to a quarter of the memory.
    pub fn block_cache_bytes(&self) -> usize {
        match self.block_cache_mib.bytes() {
            0 => memory::memory_limit() / 4,
            bytes => bytes,
        }
    }

    /// Number of threads that serve users, with 0 resolved to one per core.
    pub fn http_workers(&self) -> usize {
        match self.http_threads {
            0 => std::thread::available_parallelism().map_or(1, NonZero::get),
            threads => threads,
        }
    }

    /// Number of threads that only serve users; 1 if all work shares the same threads.
    pub fn user_threads(&self) -> usize {
        match self.raft_threads {
            0 => 1,
            _ => self.http_workers(),
        }
    }

    /// Number of threads for work that is neither for users nor for Raft, or for all work.
    pub fn main_threads(&self) -> usize {
        match self.raft_threads {
            0 => self.http_workers(),
            _ => self.http_workers().min(MAX_MAIN_THREADS),
        }
    }
}
