//! The load generator: closed loop, HTTP/1.1 keep-alive, with as little work per request as
//! possible.
//!
//! Each connection sends a request, waits for its response and sends the next (with a depth above
//! one: keeps as many in flight). mio's plain epoll loop was chosen over tokio tasks because
//! nothing lies between readiness and the two system calls.

mod batch_answer;
mod connection;
mod keys;
mod pacer;
mod response;
mod run;
mod sent_times;
mod spec;
mod stats;
mod window;
mod worker;

pub(crate) use keys::KeyOrder;
pub(crate) use run::{LoadResult, run};
pub(crate) use sent_times::SentTimes;
pub(crate) use spec::LoadSpec;
pub(crate) use stats::{Latency, Stats};
