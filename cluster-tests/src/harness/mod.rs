//! Test harness: starts nodes and routers, calls them, and waits for conditions.

mod response;
mod binary;
mod http;
mod log_file;
mod memory;
mod node;
pub mod prometheus;
mod raw_http1;
mod raw_h2;
mod recorder;
mod startup_failure;
mod router;
mod shared_node;
mod small_disk;
mod public_endpoint;
mod wait;

pub use response::HttpResponse;
pub use http::{ApiClient, Bucket, ApiRequest};
pub use log_file::LogFile;
pub use memory::resident_bytes;
pub(crate) use node::clean_env_command;
pub use node::{Node, NodeOptions, node_command};
pub use raw_http1::{RawConnection, RawOutcome, RawRequest, encode_chunk};
pub use raw_h2::{H2Event, H2Connection};
pub use recorder::TrafficRecorder;
pub use startup_failure::{StartupFailure, run_to_exit};
pub use router::{Router, router_command};
pub use shared_node::{NodeLease, SharedNode};
pub use small_disk::SmallDisk;
pub use public_endpoint::PublicEndpoint;
pub use wait::{eventually, try_eventually};
