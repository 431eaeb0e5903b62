//! Other users of the region: few requests at a steady rate, whose latency is measured.

use crate::engine::{Latency, LoadResult};
use crate::load;
use crate::process::{self, run_load};
use crate::report::{Check, Table, Target};
use crate::servers::create_bucket;
use crate::workload::Operation;
use anyhow::{Context, Result};
use serde::Serialize;
use std::net::SocketAddr;

/// Number of keys that users read and write.
const KEY_COUNT: u64 = 10_000;
const CONNECTION_COUNT: usize = 16;
const VALUE_BYTES: usize = 100;

/// Latencies of other users at one time.
#[derive(Debug, Clone, Serialize)]
pub(crate) struct UserLatency {
    /// Work that went on meanwhile.
    pub during: &'static str,
    /// Number of times that it was carried out, the last time not to its end.
    pub repetitions: u64,
    /// Latency of reads, in microseconds.
    pub get: Latency,
    /// Latency of writes, in microseconds.
    pub put: Latency,
    /// Requests that failed.
    pub errors: u64,
}

/// Requests of other users.
#[derive(Debug, Clone, Copy)]
pub(crate) struct UserRequests {
    /// Requests per second, as many reads and as many writes.
    pub rate: f64,
    /// Seconds for which their latency is measured, each time.
    pub seconds: f64,
}

/// The users' bucket, and the nodes that they call.
pub(crate) struct Users {
    requests: UserRequests,
    nodes: Vec<SocketAddr>,
    bucket: String,
}

impl Users {
    /// Creates the bucket, and writes each of its keys.
    pub(crate) async fn start(requests: UserRequests, nodes: &[SocketAddr]) -> Result<Self> {
        let users = Self {
            requests,
            nodes: nodes.to_vec(),
            bucket: create_bucket(*nodes.first().context("a node")?).await?,
        };
        let mut load = users.load(Operation::Put)?;
        load.rate = None;
        process::fill(&load).await?;
        Ok(users)
    }

    /// Measures latencies while nothing else goes on.
    pub(crate) async fn measure_alone(&self) -> Result<UserLatency> {
        let loads = self.run_loads().await?;
        Ok(user_latency("nothing else", 0, loads))
    }

    /// Measures latencies while `work` is carried out, again and again.
    pub(crate) async fn measure_during(
        &self,
        during: &'static str,
        work: impl AsyncFn() -> Result<()>,
    ) -> Result<UserLatency> {
        let mut loads = std::pin::pin!(self.run_loads());
        let mut repetitions = 0;
        loop {
            repetitions += 1;
            tokio::select! {
                loads = &mut loads => return Ok(user_latency(during, repetitions, loads?)),
                done = work() => done?,
            }
        }
    }

    /// Runs reads and writes at once.
    async fn run_loads(&self) -> Result<(LoadResult, LoadResult)> {
        let (get, put) = (self.load(Operation::Get)?, self.load(Operation::Put)?);
        tokio::try_join!(run_load(&get), run_load(&put))
    }

    fn load(&self, operation: Operation) -> Result<load::Args> {
        let (addr, others) = self.nodes.split_first().context("a node")?;
        let mut load = load::Args::new(*addr, operation, &format!("/kv/{}/", self.bucket));
        load.also = others.to_vec();
        load.keys = KEY_COUNT;
        load.value_size = VALUE_BYTES;
        load.connections = CONNECTION_COUNT;
        load.rate = Some(self.requests.rate);
        load.seconds = self.requests.seconds;
        Ok(load)
    }
}

fn user_latency(
    during: &'static str,
    repetitions: u64,
    (get, put): (LoadResult, LoadResult),
) -> UserLatency {
    let (of_get, of_put) = (get.latency_us, put.latency_us);
    eprintln!(
        "users during {during}: GET p99 {:.0} µs, PUT p99 {:.0} µs",
        of_get.p99, of_put.p99
    );
    get.errors.print();
    put.errors.print();
    UserLatency {
        during,
        repetitions,
        get: of_get,
        put: of_put,
        errors: get.errors.total() + put.errors.total(),
    }
}

/// Checks that background work leaves users their latency but for what it may take. The first
/// measurement is that without any.
pub(crate) fn latency_checks(users: &[UserLatency]) -> Vec<Check> {
    let Some((alone, others)) = users.split_first() else {
        return Vec::new();
    };
    let of = |users: &UserLatency| {
        let during = users.during;
        let latencies = [
            ("GET", users.get.p99, alone.get.p99),
            ("PUT", users.put.p99, alone.put.p99),
        ];
        latencies.map(|(method, p99, before)| {
            let what = format!("p99 of {method} during {during} / before");
            Check::new(what, Some(p99 / before), "x", Target::AtMost(5.0))
        })
    };
    others.iter().flat_map(of).collect()
}

/// Renders latencies of other users.
pub(crate) fn latency_table(users: &[UserLatency]) -> Table {
    let head = [
        "ms, during",
        "GET p50",
        "GET p99",
        "PUT p50",
        "PUT p99",
        "repeated",
    ];
    let mut table = Table::new("Latency of other users", &head);
    for users in users {
        let numbers = [users.get.p50, users.get.p99, users.put.p50, users.put.p99];
        let mut row = vec![users.during.to_owned()];
        row.extend(numbers.map(|micros| format!("{:.2}", micros / 1000.0)));
        row.push(users.repetitions.to_string());
        table.add(row);
    }
    table
}
