//! Test harness: starts nodes and routers, calls them, and waits for conditions.

mod binary;
mod http;
mod log_file;
mod memory;
mod node;
pub mod prometheus;
mod public_endpoint;
mod raw_h2;
mod raw_http1;
mod recorder;
mod response;
mod router;
mod shared_node;
mod small_disk;
mod startup_failure;
mod wait;

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
pub use router::{Router, router_command};
pub use shared_node::{NodeLease, SharedNode};
pub use small_disk::SmallDisk;
pub use startup_failure::{StartupFailure, run_to_exit};
pub use wait::{eventually, try_eventually};
