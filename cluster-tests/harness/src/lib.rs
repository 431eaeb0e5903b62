//! Starts real CloudKV processes, calls them from outside, and waits for conditions.
//!
//! Nothing here depends on the node's code: a test sees what a user sees, which is the binary, its
//! flags, its ports and its data directory.
//!
//! A helper that can't go on panics with the state that it saw, as an assertion in a test would:
//! the caller would only unwrap a `Result` one line later, with less to report.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

pub mod backup;
pub mod batches;
mod binary;
mod command;
mod http;
pub mod load;
mod log_file;
mod memory;
pub mod moto;
mod node;
pub mod power;
pub mod prometheus;
mod public_endpoint;
mod raw_h2;
mod raw_http1;
mod recorder;
pub mod region;
mod response;
pub mod rng;
mod routed_region;
mod routed_regions;
mod router;
mod shared_node;
mod signals;
mod small_disk;
mod startup_failure;
mod tcp_gate;
pub mod transfer;
mod wait;
pub mod watch;

pub use command::{CommandOutput, RunningCommand, run_command};
pub use http::{ApiClient, ApiRequest, Bucket};
pub use log_file::LogFile;
pub use memory::resident_bytes;
pub(crate) use node::clean_env_command;
pub use node::{Node, NodeOptions, node_command};
pub use public_endpoint::PublicEndpoint;
pub use raw_h2::{H2Connection, H2Event};
pub use raw_http1::{RawConnection, RawOutcome, RawRequest, encode_chunk};
pub use recorder::TrafficRecorder;
pub use response::HttpResponse;
pub use routed_region::RoutedRegion;
pub use routed_regions::RoutedRegions;
pub use router::{Router, router_command};
pub use shared_node::{NodeLease, SharedNode};
pub use signals::run_until_signal;
pub use small_disk::SmallDisk;
pub use startup_failure::{StartupFailure, run_to_exit};
pub use tcp_gate::TcpGate;
pub use wait::{eventually, try_eventually};
