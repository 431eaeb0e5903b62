//! Admin port: its server, its authentication, the routes that all programs have, and a client.
//!
//! It is separate from the public port, so that health checks, metrics and operations can be kept
//! off the users' network, and keep working when the public port is full.

mod auth;
mod client;
mod client_stream;
mod errors;
mod program;
mod readiness;
mod routes;
mod server;

pub use auth::{AdminAuth, authenticate};
pub use client::{ClientError, call};
pub use client_stream::{LineResponse, call_lines};
pub use errors::error_response;
pub use program::Program;
pub use readiness::{Component, Readiness};
pub use routes::{AdminState, router};
pub use server::serve;
