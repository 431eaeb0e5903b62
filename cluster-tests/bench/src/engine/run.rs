//! Runs the client threads, and sums up their results.

use super::spec::LoadSpec;
use super::stats::{Errors, Latency, Stats};
use super::window::MeasureWindow;
use super::worker::Worker;
use crate::procfs;
use anyhow::{Context, Result, anyhow};
use serde::{Deserialize, Serialize};
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

/// Results of a run.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub(crate) struct LoadResult {
    /// Number of valid responses.
    pub requests: u64,
    /// Duration of the measurement.
    pub seconds: f64,
    /// Valid responses per second.
    pub per_second: f64,
    /// Latencies in microseconds.
    pub latency_us: Latency,
    /// Failed requests.
    pub errors: Errors,
    /// Processor time per request in the measured servers, in microseconds.
    pub server_cpu_us: f64,
    /// Processor time per request in the client, in microseconds.
    pub client_cpu_us: f64,
}

/// Runs `spec` to completion.
pub(crate) fn run(spec: &LoadSpec) -> Result<LoadResult> {
    let started = Instant::now();
    let start = started + spec.warmup;
    let window = MeasureWindow {
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
                    let _guard = RunningGuard(running);
                    Worker::connect(spec, window, index, progress)?.run()
                })
            })
            .collect();
        let is_running = || running.load(Ordering::Acquire) > 0;
        sleep_until(window.start, is_running);
        let before = CpuTimes::read(&spec.watch)?;
        let measured_from = Instant::now();
        report_progress(spec, window, &progress, is_running);
        let after = CpuTimes::read(&spec.watch)?;
        let elapsed = measured_from.elapsed();

        let mut stats = Stats::new()?;
        for worker in workers {
            let result = worker
                .join()
                .map_err(|_| anyhow!("a client thread panicked"))?;
            stats.merge(result.context("client thread")?)?;
        }
        Ok(load_result(stats, elapsed.min(spec.measure), before, after))
    })
}

fn load_result(stats: Stats, elapsed: Duration, before: CpuTimes, after: CpuTimes) -> LoadResult {
    let seconds = elapsed.as_secs_f64();
    let per_request = |cpu: f64| {
        if stats.done == 0 {
            0.0
        } else {
            cpu * 1e6 / stats.done as f64
        }
    };
    LoadResult {
        requests: stats.done,
        seconds,
        per_second: stats.done as f64 / seconds,
        latency_us: stats.latency(),
        server_cpu_us: per_request(after.servers - before.servers),
        client_cpu_us: per_request(after.client - before.client),
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

/// Signals that a thread has ended, even if it panicked.
struct RunningGuard<'a>(&'a AtomicU64);

impl Drop for RunningGuard<'_> {
    fn drop(&mut self) {
        self.0.fetch_sub(1, Ordering::Release);
    }
}

const POLL_INTERVAL: Duration = Duration::from_millis(5);
const PROGRESS_INTERVAL: Duration = Duration::from_secs(10);

fn sleep_until(at: Instant, is_running: impl Fn() -> bool) {
    while Instant::now() < at && is_running() {
        std::thread::sleep(POLL_INTERVAL.min(at.saturating_duration_since(Instant::now())));
    }
}

fn report_progress(
    spec: &LoadSpec,
    window: MeasureWindow,
    done: &AtomicU64,
    is_running: impl Fn() -> bool,
) {
    let (mut at, mut count) = (window.start, 0);
    while Instant::now() < window.end && is_running() {
        let next = (at + PROGRESS_INTERVAL).min(window.end);
        sleep_until(next, &is_running);
        let now = done.load(Ordering::Relaxed);
        if spec.print_progress {
            let rate = (now - count) as f64 / at.elapsed().as_secs_f64();
            eprintln!("{now} done, {rate:.0}/s");
        }
        (at, count) = (Instant::now(), now);
    }
}
