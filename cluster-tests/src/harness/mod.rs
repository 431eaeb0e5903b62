//! Starting nodes, talking to them, and waiting for what they do.

mod answer;
mod binary;
mod http;
mod log;
mod node;
pub mod prometheus;
mod raw;
mod recorder;
mod refusal;
mod router;
mod shared;
mod small_disk;
mod wait;

pub use answer::Answer;
pub use http::{Api, Bucket, Call};
pub use log::Log;
pub(crate) use node::clean;
pub use node::{Node, NodeOptions, clean_command};
pub use raw::{Connection, Ending, RawRequest, chunk};
pub use recorder::Recorder;
pub use refusal::{Refusal, run_to_exit};
pub use router::Router;
pub use shared::{Lease, SharedNode};
pub use small_disk::SmallDisk;
pub use wait::{eventually, try_eventually};
