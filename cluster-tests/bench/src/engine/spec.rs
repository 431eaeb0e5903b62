//! Specification of a run.

use super::keys::KeyOrder;
use super::sent_times::SentTimes;
use crate::workload::{Dialect, Operation};
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

/// Specification of one run of the load generator.
#[derive(Debug, Clone)]
pub(crate) struct LoadSpec {
    /// Addresses of the server; connections are spread over all.
    pub addrs: Vec<SocketAddr>,
    /// API of the server.
    pub dialect: Dialect,
    /// Request to send.
    pub operation: Operation,
    /// Path before the key.
    pub path_prefix: String,
    /// Path after the key.
    pub path_suffix: String,
    /// Decimal digits of a key's number.
    pub digits: usize,
    /// Bytes of a value.
    pub value_size: usize,
    /// Set if values are letters instead of random bytes; such can't be verified.
    pub text: bool,
    /// Number of puts in each request of [`Dialect::Batches`].
    pub batch_size: usize,
    /// Keys to request, and their order; in batches, the batches.
    pub keys: KeyOrder,
    /// Seed of the choice of keys and values.
    pub random_seed: u64,
    /// Fixed seed of all values, if set: written by a PUT, required by a verified GET.
    pub value_seed: Option<u64>,
    /// Set if the bytes of GET responses are verified, not only their number.
    pub verify: bool,
    /// Number of connections.
    pub connections: usize,
    /// Requests in flight on each connection.
    pub depth: usize,
    /// Number of client threads.
    pub threads: usize,
    /// Time before the measurement.
    pub warmup: Duration,
    /// Duration of the measurement.
    pub measure: Duration,
    /// Server processes whose processor time is measured as well.
    pub watch: Vec<u32>,
    /// Number of errors after which the run fails.
    pub max_errors: u64,
    /// Requests per second, all connections together; `None`: as many as are answered.
    pub rate: Option<f64>,
    /// Takes the time at which each request is sent, if set.
    pub sent_times: Option<Arc<SentTimes>>,
    /// Set if the rate is printed every ten seconds.
    pub print_progress: bool,
}
