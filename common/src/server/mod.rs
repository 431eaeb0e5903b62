//! HTTP server of a public port: bounded connections, and a graceful shutdown that fails no
//! request.
//!
//! Users are untrusted, so everything about a connection is bounded here. The meaning of requests
//! is up to the [`RequestHandler`].

mod client_addresses;
mod conn;
mod encryption;
pub mod forwarded;
mod handler;
mod head;
mod listen;
mod memory_budget;
mod metrics;
pub mod percent;
pub mod request_id;
mod serve;
mod settings;
mod workers;

pub use client_addresses::network_of;
pub use conn::body::{BodyError, RequestBody};
pub use encryption::{Encryption, SharedTlsConfig};
pub use handler::{Authoritative, RequestHandler, RequestOrigin};
pub use head::{HeadError, check_head};
pub use listen::{BindError, PortBinder, listen};
pub use memory_budget::MemoryBudget;
pub use metrics::ConnectionMetrics;
pub use serve::{Port, serve};
pub use settings::HttpSettings;
pub use workers::{WorkerPort, Workers, current_worker, serve_on_workers};
