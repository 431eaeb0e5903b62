//! Load on nodes that records rates and latencies, and no history.

pub mod incompressible;
mod node_connection;
mod plain_client;
mod plain_load;

pub use node_connection::{ExchangeOutcome, NodeConnection};
pub use plain_client::{PlainClient, PlainError, PlainResult};
pub use plain_load::{LoadPattern, PlainLoad, PlainLoadResult, fill};
