//! gRPC between nodes. For now a node only says who it is.

mod server;

pub use server::serve;
