//! One phase: a rate of writes, and a number of watchers, or none.

use super::args::Args;
use super::watchers::Watchers;
use crate::engine::{self, KeyOrder, Latency, LoadResult, LoadSpec, SentTimes};
use crate::http;
use crate::load::random_seed;
use crate::procfs::{MemoryUsage, cpu_seconds};
use crate::servers::create_bucket;
use crate::workload::{Dialect, Operation};
use anyhow::{Context, Result};
use serde::Serialize;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;
use tokio::time::sleep;

const VALUE_BYTES: usize = 100;
const KEY_DIGITS: usize = 7;
/// Time of writes before those that are measured.
const WARMUP: Duration = Duration::from_secs(2);
/// Time after which the memory of nodes is read, and in which they finish deferred work.
const SETTLE_TIME: Duration = Duration::from_secs(3);

/// Rate of the writes, and what watches them.
#[derive(Debug, Clone, Copy)]
pub(super) struct PhasePlan {
    /// Writes per second.
    pub rate: f64,
    /// Number of watchers.
    pub watchers: usize,
}

/// Results of a phase.
#[derive(Debug, Clone, Serialize)]
pub(super) struct Phase {
    /// Wanted writes per second.
    pub rate: f64,
    /// Number of watchers.
    pub watchers: usize,
    /// Writes per second that were acknowledged.
    pub written_per_second: f64,
    /// Number of writes, warm-up included.
    pub writes: u64,
    /// Latency of the writes, in microseconds.
    pub put_us: Latency,
    /// Number of events of all watchers, warm-up included.
    pub events: u64,
    /// Delays of the events, in microseconds.
    pub delay_us: Latency,
    /// User and system time of all nodes, in seconds, warm-up included.
    pub node_cpu_seconds: f64,
    /// User and system time of this process meanwhile, in seconds.
    pub client_cpu_seconds: f64,
    /// Memory of the watched node before its watchers came.
    pub memory_before: MemoryUsage,
    /// Memory of the watched node with all watchers, before the writes.
    pub memory_connected: MemoryUsage,
    /// Memory of the watched node after the writes.
    pub memory_after: MemoryUsage,
}

/// Addresses and processes of the nodes; the first one is watched.
pub(super) struct RegionUnderTest {
    /// Public addresses.
    pub addrs: Vec<SocketAddr>,
    /// Processes.
    pub pids: Vec<u32>,
}

impl RegionUnderTest {
    fn watched(&self) -> Result<SocketAddr> {
        self.addrs.first().copied().context("a node")
    }

    /// Memory of the watched node.
    fn memory(&self) -> Result<MemoryUsage> {
        MemoryUsage::of_process(*self.pids.first().context("a node")?)
    }

    /// User and system time so far, of all nodes and of this process.
    fn cpu_seconds(&self) -> Result<(f64, f64)> {
        let nodes = self.pids.iter().map(|pid| cpu_seconds(*pid));
        let nodes = nodes.sum::<Result<f64>>()?;
        Ok((nodes, cpu_seconds(std::process::id())?))
    }

    /// Measures a phase on a bucket of its own.
    pub(super) async fn measure(&self, args: &Args, plan: PhasePlan) -> Result<Phase> {
        let bucket = create_bucket(self.watched()?).await?;
        let path = format!("/kv/{bucket}/check");
        http::expect_success(self.watched()?, "PUT", &path, b"v".to_vec()).await?;
        let warmup_keys = (plan.rate * WARMUP.as_secs_f64()) as u64;
        // Some more than the rate yields.
        let keys = 2 * warmup_keys + (plan.rate * args.seconds * 1.2) as u64 + 100;
        let sent_times = Arc::new(SentTimes::new(keys));

        let memory_before = self.memory()?;
        let (node, count) = (self.watched()?, plan.watchers);
        let mut watchers = Watchers::start(node, &bucket, count, &sent_times, warmup_keys).await?;
        sleep(SETTLE_TIME).await;
        let memory_connected = self.memory()?;

        let before = self.cpu_seconds()?;
        let spec = self.load(args, plan, &bucket, &sent_times, keys);
        let load = tokio::task::spawn_blocking(move || engine::run(&spec));
        let loaded: LoadResult = tokio::select! {
            loaded = load => loaded.context("client thread")??,
            reason = watchers.next_end() => return Err(reason),
        };
        let writes = sent_times.count();
        watchers.wait_events(writes).await?;
        sleep(SETTLE_TIME).await;
        let after = self.cpu_seconds()?;
        Ok(Phase {
            rate: plan.rate,
            watchers: plan.watchers,
            written_per_second: loaded.per_second,
            writes,
            put_us: loaded.latency_us,
            events: watchers.events(),
            delay_us: watchers.delays(),
            node_cpu_seconds: after.0 - before.0,
            client_cpu_seconds: after.1 - before.1,
            memory_before,
            memory_connected,
            memory_after: self.memory()?,
        })
    }

    /// Returns a load that writes each key once, at a steady rate.
    fn load(
        &self,
        args: &Args,
        plan: PhasePlan,
        bucket: &str,
        sent_times: &Arc<SentTimes>,
        keys: u64,
    ) -> LoadSpec {
        LoadSpec {
            addrs: self.addrs.clone(),
            dialect: Dialect::Paths,
            operation: Operation::Put,
            path_prefix: format!("/kv/{bucket}/"),
            path_suffix: String::new(),
            digits: KEY_DIGITS,
            value_size: VALUE_BYTES,
            text: true,
            batch_size: 1,
            keys: KeyOrder::Each {
                count: keys,
                stride: 1,
            },
            random_seed: random_seed(),
            value_seed: None,
            verify: false,
            connections: if plan.rate < 1000.0 { 16 } else { 64 },
            depth: 1,
            threads: 1,
            warmup: WARMUP,
            measure: Duration::from_secs_f64(args.seconds),
            watch: self.pids.clone(),
            // A write that failed has no event.
            max_errors: 0,
            rate: Some(plan.rate),
            sent_times: Some(sent_times.clone()),
            print_progress: false,
        }
    }
}
