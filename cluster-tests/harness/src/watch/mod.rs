//! Clients that watch a bucket: server-sent events by the HTML standard's rules, and a model of a
//! client that keeps a copy of the bucket.
//!
//! From the bottom up:
//!
//! - [`EventParser`] turns the bytes of a body into events.
//! - [`EventStream`] is one request and its events, for tests that look at each of them.
//! - [`WatchModel`] is what a client knows of a bucket, by the rules of `docs/api.md`. It reports
//!   what no server may send.
//! - [`WatchClient`] reconnects as a browser's `EventSource` does, feeds a model, and compares it
//!   with the bucket:
//!
//! ```ignore
//! let watcher = WatchClient::start(WatchOptions {
//!     is_initial: true,
//!     ..WatchOptions::new(&[router.http()], &bucket)
//! });
//! // Writes, and faults.
//! let counts = watcher.wait_equal(&router.api(), TIMEOUT).await?;
//! ```

mod bucket_copy;
mod client;
mod client_state;
mod client_task;
mod event_stream;
mod key_event;
mod key_version;
mod listing;
mod model;
mod options;
mod parser;

pub use bucket_copy::{BucketCopy, describe_difference};
pub use client::WatchClient;
pub use event_stream::{EventClient, EventRequest, EventStream, OpenError, StreamStep};
pub use key_event::KeyEvent;
pub use key_version::KeyVersion;
pub use listing::list_bucket;
pub use model::{ModelStep, WatchModel};
pub use options::{WatchCounts, WatchOptions};
pub use parser::{EventParser, ServerSentEvent, SseItem};
