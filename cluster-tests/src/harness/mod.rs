//! Test harness: starts nodes and routers, calls them, and waits for conditions.

mod answer;
mod binary;
mod http;
mod log;
mod memory;
mod node;
pub mod prometheus;
mod raw;
mod raw_h2;
mod recorder;
mod refusal;
mod router;
mod shared;
mod small_disk;
mod target;
mod wait;

pub use answer::Answer;
pub use http::{Api, Bucket, Call};
pub use log::Log;
pub use memory::resident_bytes;
pub(crate) use node::clean;
pub use node::{Node, NodeOptions, clean_command};
pub use raw::{Connection, Ending, RawRequest, chunk};
pub use raw_h2::{Event, H2Connection};
pub use recorder::Recorder;
pub use refusal::{Refusal, run_to_exit};
pub use router::{Router, clean_router_command};
pub use shared::{Lease, SharedNode};
pub use small_disk::SmallDisk;
pub use target::Target;
pub use wait::{eventually, try_eventually};
