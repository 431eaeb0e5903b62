//! `geo`: measures the time from a write's acknowledgement in one region until another region shows
//! it, with a delay between the two, while the first one is written at a steady rate; and the
//! highest rate at which that stays bounded.

use std::path::PathBuf;
use std::time::{Duration, Instant};

use anyhow::{Result, ensure};
use cloudkv_test_harness::Bucket;
use cloudkv_test_harness::load::{LoadPattern, PlainLoad};
use cloudkv_test_harness::region::{MultiRegionCluster, RegionOptions};
use hdrhistogram::Histogram;
use serde::Serialize;

use crate::process;
use crate::procfs::Machine;
use crate::report::{self, Check, Table, Target};

/// Options of `geo`.
#[derive(Debug, clap::Args)]
pub(crate) struct Args {
    /// Writes per second.
    #[arg(long, default_value_t = 2000)]
    pub rate: u64,
    /// One-way delay between the regions, in milliseconds.
    #[arg(long, default_value_t = 40)]
    pub delay_ms: u64,
    /// Seconds of measurement.
    #[arg(long, default_value_t = 20)]
    pub seconds: u64,
    /// JSON file for the results; a Markdown table is written next to it.
    #[arg(long, default_value = "bench-geo.json")]
    pub out: PathBuf,
}

/// Number of writing clients.
const CLIENT_COUNT: usize = 64;
/// Higher rates to measure, as long as the lag is bounded.
const HIGHER_RATES: [u64; 6] = [4000, 8000, 12_000, 16_000, 20_000, 24_000];
/// Seconds of measurement at each of them.
const HIGHER_SECONDS: u64 = 8;
/// Bounds of a sustained rate: share of the writes that are acknowledged, and p99 of the
/// propagation in ms.
const SUSTAINED_LIMITS: (f64, f64) = (0.95, 250.0);
/// Interval between two writes that are read in the other region.
const PROBE_INTERVAL: Duration = Duration::from_millis(25);
/// Time after which a write counts as lost.
const PROBE_TIMEOUT: Duration = Duration::from_secs(30);
/// All results, as written to the JSON file.
#[derive(Debug, Serialize)]
struct Report {
    machine: Machine,
    delay_ms: u64,
    /// The judged rate first, then higher ones.
    rates: Vec<RateResult>,
    checks: Vec<Check>,
}

/// Results at one rate of writes.
#[derive(Debug, Serialize)]
struct RateResult {
    wanted: u64,
    written_per_second: f64,
    samples: u64,
    /// Propagation beyond the delay, in milliseconds.
    median_ms: f64,
    p99_ms: f64,
    max_ms: f64,
}

impl RateResult {
    fn is_bounded(&self) -> bool {
        let written = self.written_per_second / self.wanted as f64;
        written >= SUSTAINED_LIMITS.0 && self.p99_ms <= SUSTAINED_LIMITS.1
    }
}

/// Measures, prints and writes the results.
pub(crate) fn run(args: &Args) -> Result<()> {
    ensure!((1..=1000).contains(&args.delay_ms), "--delay-ms: 1 to 1000");
    ensure!((100..=50_000).contains(&args.rate), "--rate: 100 to 50000");
    let report = process::block_on_until_signal(measure(args))?;
    let mut table = Table::new(
        &format!(
            "Propagation between two regions, {} ms apart",
            args.delay_ms
        ),
        &[
            "writes/s", "written", "samples", "median", "p99", "max", "bounded",
        ],
    );
    for at in &report.rates {
        table.add(vec![
            at.wanted.to_string(),
            format!("{:.0}", at.written_per_second),
            at.samples.to_string(),
            format!("+{:.1} ms", at.median_ms),
            format!("+{:.1} ms", at.p99_ms),
            format!("+{:.1} ms", at.max_ms),
            if at.is_bounded() { "yes" } else { "no" }.to_owned(),
        ]);
    }
    let tables = [table, Table::of_checks(&report.checks)];
    report::publish(&args.out, &report, &report::render(&tables, &[]))
}

async fn measure(args: &Args) -> Result<Report> {
    let machine = Machine::read();
    let judged = measure_at(args, args.rate, args.seconds).await?;
    let most = |what, value, limit| Check::new(what, Some(value), "ms", Target::AtMost(limit));
    let checks = vec![
        most(
            "propagation beyond the delay, median",
            judged.median_ms,
            5.0,
        ),
        most(
            "propagation beyond the delay, 99th percentile",
            judged.p99_ms,
            25.0,
        ),
    ];
    let mut rates = vec![judged];
    for rate in HIGHER_RATES.into_iter().filter(|rate| *rate > args.rate) {
        if rates.last().is_some_and(RateResult::is_bounded) {
            rates.push(measure_at(args, rate, HIGHER_SECONDS).await?);
        }
    }
    Ok(Report {
        machine,
        delay_ms: args.delay_ms,
        rates,
        checks,
    })
}

async fn measure_at(args: &Args, rate: u64, seconds: u64) -> Result<RateResult> {
    let options = RegionOptions {
        shards: 3,
        ..RegionOptions::default()
    };
    let world = MultiRegionCluster::start_with(&["eu", "us"], 1, 2, options).await;
    let bucket = world.api(0).create_bucket_with(&[("plan", "pro")]).await;
    let delay = Duration::from_millis(args.delay_ms);
    world.delay_regions(delay);
    let target = [world.seat(0).http()];
    let load = PlainLoad::start(
        &target,
        &bucket,
        CLIENT_COUNT,
        LoadPattern::NewKeys,
        Some(rate as f64),
    );
    // Until the rate is steady nothing is measured.
    tokio::time::sleep(Duration::from_secs(2)).await;
    let (started, before) = (Instant::now(), load.requests());
    let mut beyond = Histogram::<u64>::new(3)?;
    while started.elapsed() < Duration::from_secs(seconds) {
        let elapsed = probe(&world, &bucket, beyond.len()).await?;
        beyond.record(micros(elapsed.saturating_sub(delay)))?;
        tokio::time::sleep(PROBE_INTERVAL).await;
    }
    let written_per_second = (load.requests() - before) as f64 / started.elapsed().as_secs_f64();
    let outcome = load.stop().await;
    ensure!(outcome.errors == 0, "{}", outcome.first_errors.join("\n"));
    let millis = |micros: u64| micros as f64 / 1e3;
    Ok(RateResult {
        wanted: rate,
        written_per_second,
        samples: beyond.len(),
        median_ms: millis(beyond.value_at_quantile(0.5)),
        p99_ms: millis(beyond.value_at_quantile(0.99)),
        max_ms: millis(beyond.max()),
    })
}

/// Measures the time from a write's acknowledgement in one region until the other one shows it.
async fn probe(world: &MultiRegionCluster, bucket: &Bucket, number: u64) -> Result<Duration> {
    let path = bucket.key_path(&format!("probe-{number}"));
    let (source, target) = (world.api(0), world.api(1));
    let put = source.put(&path, "v").unchecked().try_send().await?;
    ensure!(put.status == 200, "a write got status {}", put.status);
    let acknowledged = Instant::now();
    loop {
        let got = target.get(&path).unchecked().try_send().await?;
        let elapsed = acknowledged.elapsed();
        if got.status == 200 {
            return Ok(elapsed);
        }
        ensure!(
            elapsed < PROBE_TIMEOUT,
            "a write was not visible within {PROBE_TIMEOUT:?}"
        );
    }
}

fn micros(time: Duration) -> u64 {
    u64::try_from(time.as_micros()).unwrap_or(u64::MAX)
}
