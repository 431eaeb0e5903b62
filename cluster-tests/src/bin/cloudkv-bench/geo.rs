//! `geo`: how long a write takes from its acknowledgement in one region until another region shows
//! it, with a delay between the two, while the first one is written at a steady rate.

use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

use anyhow::{Result, ensure};
use cloudkv_cluster_tests::region::{RegionOptions, World};
use cloudkv_cluster_tests::{Api, Bucket};
use hdrhistogram::Histogram;
use serde::Serialize;
use tokio::time::MissedTickBehavior;

use crate::process;
use crate::procfs::Machine;
use crate::report::{self, Check, Table, Target};

/// Options of `geo`.
#[derive(Debug, clap::Args)]
pub struct Args {
    /// Writes per second.
    #[arg(long, default_value_t = 2000)]
    pub rate: u64,
    /// One way between the regions, in milliseconds.
    #[arg(long, default_value_t = 40)]
    pub delay_ms: u64,
    /// Seconds of measuring.
    #[arg(long, default_value_t = 20)]
    pub seconds: u64,
    /// Results as JSON; a Markdown table goes beside it.
    #[arg(long, default_value = "bench-geo.json")]
    pub out: PathBuf,
}

/// Writers, each with a part of the rate.
const WRITERS: u64 = 16;
/// Between two writes that are looked for in the other region.
const PROBE_EVERY: Duration = Duration::from_millis(25);
/// A write that isn't seen for this long is lost.
const LOST_AFTER: Duration = Duration::from_secs(30);
/// Keys of each writer.
const KEYS: u64 = 500;

/// Everything that was found.
#[derive(Debug, Serialize)]
struct Report {
    machine: Machine,
    delay_ms: u64,
    wanted_rate: u64,
    written_per_second: f64,
    samples: u64,
    /// Beyond the delay, in milliseconds.
    median_ms: f64,
    p99_ms: f64,
    max_ms: f64,
    checks: Vec<Check>,
}

/// Measures, prints and writes.
pub fn run(args: &Args) -> Result<()> {
    ensure!((1..=1000).contains(&args.delay_ms), "--delay-ms: 1 to 1000");
    ensure!((100..=50_000).contains(&args.rate), "--rate: 100 to 50000");
    let mut report = process::block_on_until_signal(measure(args))?;
    let most = |what, value, most| Check::new(what, Some(value), "ms", Target::AtMost(most));
    report.checks = vec![
        most(
            "propagation beyond the delay, median",
            report.median_ms,
            5.0,
        ),
        most(
            "propagation beyond the delay, 99th percentile",
            report.p99_ms,
            25.0,
        ),
    ];
    let mut table = Table::new(
        "Propagation between two regions",
        &["one way", "writes/s", "samples", "median", "p99", "max"],
    );
    table.add(vec![
        format!("{} ms", report.delay_ms),
        format!("{:.0}", report.written_per_second),
        report.samples.to_string(),
        format!("+{:.1} ms", report.median_ms),
        format!("+{:.1} ms", report.p99_ms),
        format!("+{:.1} ms", report.max_ms),
    ]);
    let checks = Table::of_checks(&report.checks);
    let markdown = format!("{}\n{}", table.render(), checks.render());
    report::publish(&args.out, &report, &markdown)
}

async fn measure(args: &Args) -> Result<Report> {
    let machine = Machine::read();
    let options = RegionOptions {
        shards: 8,
        ..RegionOptions::default()
    };
    let world = World::start_with(&["here", "there"], 1, 2, options).await;
    let bucket = world.api(0).bucket_with(&[("plan", "pro")]).await;
    let delay = Duration::from_millis(args.delay_ms);
    world.delay(delay);
    let written = Arc::new(AtomicU64::new(0));
    let every = Duration::from_secs_f64(WRITERS as f64 / args.rate as f64);
    let writers: Vec<_> = (0..WRITERS)
        .map(|writer| {
            let (api, bucket, written) = (world.api(0), bucket.clone(), written.clone());
            tokio::spawn(async move { write(api, bucket, writer, every, &written).await })
        })
        .collect();
    // What was there before the rate is steady says nothing.
    tokio::time::sleep(Duration::from_secs(2)).await;
    let (began, before) = (Instant::now(), written.load(Ordering::Relaxed));
    let mut beyond = Histogram::<u64>::new(3)?;
    while began.elapsed() < Duration::from_secs(args.seconds) {
        let took = probe(&world, &bucket, beyond.len()).await?;
        beyond.record(micros(took.saturating_sub(delay)))?;
        tokio::time::sleep(PROBE_EVERY).await;
    }
    let per_second =
        (written.load(Ordering::Relaxed) - before) as f64 / began.elapsed().as_secs_f64();
    writers.iter().for_each(tokio::task::JoinHandle::abort);
    let millis = |micros: u64| micros as f64 / 1e3;
    Ok(Report {
        machine,
        delay_ms: args.delay_ms,
        wanted_rate: args.rate,
        written_per_second: per_second,
        samples: beyond.len(),
        median_ms: millis(beyond.value_at_quantile(0.5)),
        p99_ms: millis(beyond.value_at_quantile(0.99)),
        max_ms: millis(beyond.max()),
        checks: vec![],
    })
}

/// Writes at a steady pace until it is aborted.
async fn write(api: Api, bucket: Bucket, writer: u64, every: Duration, written: &AtomicU64) {
    let mut tick = tokio::time::interval(every);
    tick.set_missed_tick_behavior(MissedTickBehavior::Delay);
    let value = vec![b'v'; 100];
    for number in 0_u64.. {
        tick.tick().await;
        let path = bucket.key(&format!("w{writer}-{}", number % KEYS));
        let put = api.put(&path, value.clone()).unchecked();
        if put
            .try_send()
            .await
            .is_ok_and(|answer| answer.status == 200)
        {
            written.fetch_add(1, Ordering::Relaxed);
        }
    }
}

/// Time from a write's acknowledgement in one region until the other one shows it.
async fn probe(world: &World, bucket: &Bucket, number: u64) -> Result<Duration> {
    let path = bucket.key(&format!("probe-{number}"));
    let (here, there) = (world.api(0), world.api(1));
    let put = here.put(&path, "v").unchecked().try_send().await?;
    ensure!(put.status == 200, "a write was answered {}", put.status);
    let acknowledged = Instant::now();
    loop {
        let got = there.get(&path).unchecked().try_send().await?;
        let took = acknowledged.elapsed();
        if got.status == 200 {
            return Ok(took);
        }
        ensure!(
            took < LOST_AFTER,
            "a write was not seen within {LOST_AFTER:?}"
        );
    }
}

fn micros(time: Duration) -> u64 {
    u64::try_from(time.as_micros()).unwrap_or(u64::MAX)
}
