//! HTTP server of a public port: bounded connections, and a graceful shutdown that fails no
//! request.
//!
//! Users are untrusted, so everything about a connection is bounded here. The meaning of requests
//! is up to the [`RequestHandler`].

mod addresses;
mod answer;
mod conn;
pub mod cors;
mod encryption;
pub mod forwarded;
mod head;
mod listen;
mod memory;
mod metrics;
pub mod percent;
pub mod request_id;
mod serve;
mod settings;
mod workers;

pub use addresses::network_of;
pub use answer::{Answer, Origin, Settled};
pub use conn::body::{BodyError, RequestBody};
pub use encryption::{Encryption, TlsSettings};
pub use head::{HeadError, check_head};
pub use listen::{BindError, Binding, listen};
pub use memory::Memory;
pub use metrics::ConnectionMetrics;
pub use serve::{Port, serve};
pub use settings::HttpSettings;
pub use workers::{Serving, Workers, current_worker, serve_on_workers};
