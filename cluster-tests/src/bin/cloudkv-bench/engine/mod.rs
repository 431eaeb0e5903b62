//! The load generator: closed loop, HTTP/1.1 keep-alive, as little work a request as can be.
//!
//! Each connection sends a request, waits for its answer and sends the next (with a depth
//! above one: keeps so many under way). mio's plain epoll loop was chosen over tokio tasks
//! because nothing lies between readiness and the two system calls.

mod connection;
mod keys;
mod pace;
mod response;
mod stats;
mod worker;

pub use keys::KeyOrder;
pub use stats::{Errors, Latency, Stats};

use crate::procfs;
use crate::workload::{Dialect, Operation};
use anyhow::{Context, Result, anyhow};
use serde::{Deserialize, Serialize};
use std::net::SocketAddr;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};
use worker::Worker;

/// One run of the load generator.
#[derive(Debug, Clone)]
pub struct Spec {
    /// Where the server listens; connections are spread over all.
    pub addrs: Vec<SocketAddr>,
    /// Whose API is spoken.
    pub dialect: Dialect,
    /// What is asked.
    pub operation: Operation,
    /// Path before the key.
    pub path_prefix: String,
    /// Path after the key.
    pub path_suffix: String,
    /// Decimal digits of a key's number.
    pub digits: usize,
    /// Bytes of a value.
    pub value_size: usize,
    /// Which keys, in which order.
    pub keys: KeyOrder,
    /// Seed of the choice of keys and values.
    pub random_seed: u64,
    /// When set, the one seed of all values: written by a PUT, demanded by a verified GET.
    pub value_seed: Option<u64>,
    /// Whether the bytes of answers to GET are checked, not only their number.
    pub verify: bool,
    /// Number of connections.
    pub connections: usize,
    /// Requests under way on each connection.
    pub depth: usize,
    /// Client threads.
    pub threads: usize,
    /// Time before counting begins.
    pub warmup: Duration,
    /// Time of counting.
    pub measure: Duration,
    /// Server processes whose CPU time is measured along.
    pub watch: Vec<u32>,
    /// After more errors the run ends: something is broken.
    pub max_errors: u64,
    /// Requests a second, all connections together; `None`: as many as are answered.
    pub rate: Option<f64>,
    /// Whether the rate is printed every ten seconds.
    pub print_progress: bool,
}

/// When answers count.
#[derive(Debug, Clone, Copy)]
pub struct Window {
    start: Instant,
    end: Instant,
}

impl Window {
    fn contains(&self, at: Instant) -> bool {
        self.start <= at && at < self.end
    }

    fn is_over(&self, at: Instant) -> bool {
        at >= self.end
    }
}

/// What a run measured.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct Outcome {
    /// Right answers.
    pub requests: u64,
    /// Length of the measured window.
    pub seconds: f64,
    /// Right answers a second.
    pub per_second: f64,
    /// Latencies in microseconds.
    pub latency_us: Latency,
    /// What went wrong.
    pub errors: Errors,
    /// Processor time a request in the watched servers, microseconds.
    pub server_cpu_us: f64,
    /// Processor time a request in the client, microseconds.
    pub client_cpu_us: f64,
}

/// Runs `spec` to its end.
pub fn run(spec: &Spec) -> Result<Outcome> {
    let begin = Instant::now();
    let start = begin + spec.warmup;
    let window = Window {
        start,
        end: start + spec.measure,
    };
    let progress = AtomicU64::new(0);
    let running = AtomicU64::new(spec.threads as u64);
    std::thread::scope(|scope| {
        let workers: Vec<_> = (0..spec.threads)
            .map(|index| {
                let (progress, running) = (&progress, &running);
                scope.spawn(move || {
                    let _guard = CountDown(running);
                    Worker::connect(spec, window, index, progress)?.run()
                })
            })
            .collect();
        let is_running = || running.load(Ordering::Acquire) > 0;
        sleep_until(window.start, is_running);
        let before = CpuTimes::read(&spec.watch)?;
        let since = Instant::now();
        watch_progress(spec, window, &progress, is_running);
        let after = CpuTimes::read(&spec.watch)?;
        let elapsed = since.elapsed();

        let mut stats = Stats::new()?;
        for worker in workers {
            let seen = worker
                .join()
                .map_err(|_| anyhow!("a client thread panicked"))?;
            stats.merge(seen.context("client thread")?)?;
        }
        Ok(outcome(stats, elapsed.min(spec.measure), before, after))
    })
}

fn outcome(stats: Stats, elapsed: Duration, before: CpuTimes, after: CpuTimes) -> Outcome {
    let seconds = elapsed.as_secs_f64();
    let each = |cpu: f64| {
        if stats.done == 0 {
            0.0
        } else {
            cpu * 1e6 / stats.done as f64
        }
    };
    Outcome {
        requests: stats.done,
        seconds,
        per_second: stats.done as f64 / seconds,
        latency_us: stats.latency(),
        server_cpu_us: each(after.servers - before.servers),
        client_cpu_us: each(after.client - before.client),
        errors: stats.errors,
    }
}

/// Processor seconds used so far.
#[derive(Debug, Clone, Copy)]
struct CpuTimes {
    servers: f64,
    client: f64,
}

impl CpuTimes {
    fn read(servers: &[u32]) -> Result<Self> {
        let servers = servers
            .iter()
            .map(|pid| procfs::cpu_seconds(*pid))
            .sum::<Result<f64>>()?;
        Ok(Self {
            servers,
            client: procfs::cpu_seconds(std::process::id())?,
        })
    }
}

/// Tells that a thread ended, however it did.
struct CountDown<'a>(&'a AtomicU64);

impl Drop for CountDown<'_> {
    fn drop(&mut self) {
        self.0.fetch_sub(1, Ordering::Release);
    }
}

const NAP: Duration = Duration::from_millis(5);
const PROGRESS_EVERY: Duration = Duration::from_secs(10);

fn sleep_until(at: Instant, go_on: impl Fn() -> bool) {
    while Instant::now() < at && go_on() {
        std::thread::sleep(NAP.min(at.saturating_duration_since(Instant::now())));
    }
}

fn watch_progress(spec: &Spec, window: Window, done: &AtomicU64, go_on: impl Fn() -> bool) {
    let (mut at, mut count) = (window.start, 0);
    while Instant::now() < window.end && go_on() {
        let next = (at + PROGRESS_EVERY).min(window.end);
        sleep_until(next, &go_on);
        let now = done.load(Ordering::Relaxed);
        if spec.print_progress {
            let rate = (now - count) as f64 / at.elapsed().as_secs_f64();
            eprintln!("{now} done, {rate:.0}/s");
        }
        (at, count) = (Instant::now(), now);
    }
}
