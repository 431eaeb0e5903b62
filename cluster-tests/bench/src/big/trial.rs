//! The steps of the measurement.

use super::args::Args;
use super::report::Report;
use super::speed::{FEW_KEYS, Speed};
use crate::disk::FsyncLatency;
use crate::engine::LoadResult;
use crate::load_keys::KEY_DIGITS;
use crate::peak_memory::peak_during;
use crate::process::{self, run_load};
use crate::procfs::Machine;
use crate::servers::{Endpoint, Node, restart_timed};
use crate::workload::Operation;
use anyhow::{Context, Result, ensure};
use std::time::Duration;
use tokio::time::sleep;

/// Idle time after which a node's memory is read.
const SETTLE_TIME: Duration = Duration::from_secs(10);
const LOAD_TIMEOUT: Duration = Duration::from_secs(4 * 3600);
/// Number of values that are verified after the restart.
const SAMPLE_SIZE: u64 = 10_000;
/// Seed of the values written just before the kill: any older one would be a lost write.
const LAST_SEED: u64 = 0x0123_4567_89ab_cdef;

/// Runs the measurement; the caller adds the checks.
pub(super) async fn run(args: &Args) -> Result<Report> {
    let dir = process::work_dir(&args.run.data_dir)?;
    let data = dir.path().join("node");
    let fsync_us = FsyncLatency::measure(dir.path())?;
    let mut node = Node::start(&args.node_bin, &data, dir.path()).await?;
    sleep(SETTLE_TIME).await;
    let fresh = node.memory()?;

    let bucket = node.create_bucket().await?;
    let buckets = [(100, bucket.clone())];
    let mut speed = Speed::default();
    load_keys(args, &node, &bucket, FEW_KEYS).await?;
    speed
        .measure_few_alone(&node.endpoint(&buckets), args.seconds)
        .await?;

    let loading = load_keys(args, &node, &bucket, args.keys);
    let (loaded, while_loading) = peak_during(node.child.pid(), loading).await?;
    sleep(SETTLE_TIME).await;
    let idle = node.memory()?;
    let disk_bytes = process::disk_usage(&data)?;
    speed
        .measure_all(&node.endpoint(&buckets), args.keys, args.seconds)
        .await?;

    let sample = Sample::of(args.keys);
    sample.overwrite(&node.endpoint(&buckets)).await?;
    eprintln!("kill -9, restart");
    node.child.kill().await?;
    let first = format!("/kv/{bucket}/k{:0width$}", 0, width = KEY_DIGITS);
    let (node, ready, first_get) = restart_timed(&args.node_bin, &data, dir.path(), &first).await?;
    let values_wrong = sample.count_wrong(&node.endpoint(&buckets)).await?;
    Ok(Report {
        machine: Machine::read(),
        keys: args.keys,
        fsync_us,
        fresh,
        while_loading,
        idle,
        restarted: node.memory()?,
        load_seconds: loaded.seconds,
        load_per_second: loaded.per_second,
        load_retries: loaded.errors.total(),
        disk_bytes,
        speed,
        restart_ready_seconds: ready.as_secs_f64(),
        restart_first_get_seconds: first_get.as_secs_f64(),
        values_checked: 2 * sample.keys,
        values_wrong,
        checks: Vec::new(),
    })
}

async fn load_keys(args: &Args, node: &Node, bucket: &str, keys: u64) -> Result<LoadResult> {
    eprintln!("loading {keys} keys ...");
    let line = [
        "load-keys".to_owned(),
        format!("--addr={}", node.http),
        format!("--bucket={bucket}"),
        format!("--keys={keys}"),
        format!("--connections={}", args.connections),
        format!("--depth={}", args.depth),
        format!("--watch={}", node.child.pid()),
        "--json".to_owned(),
    ];
    let json = process::run_subcommand(&line, LOAD_TIMEOUT).await?;
    serde_json::from_str(&json).context("result of the loader")
}

/// Keys spread evenly over all. Those at a multiple of `stride` are overwritten last; those at a
/// multiple of `stride - 1` (nearly all of them other keys) stay as they were loaded.
struct Sample {
    keys: u64,
    stride: u64,
}

impl Sample {
    fn of(keys: u64) -> Self {
        let taken = SAMPLE_SIZE.min(keys / 2).max(1);
        Self {
            keys: taken,
            stride: keys / taken,
        }
    }

    /// Returns the load over the sample's keys, from the first on.
    fn load(&self, endpoint: &Endpoint, operation: Operation) -> Result<crate::load::Args> {
        let mut load = endpoint
            .load(operation, 100)
            .context("endpoint without 100 B values")?;
        (load.digits, load.keys, load.each) = (KEY_DIGITS, self.keys, Some(self.stride));
        load.seconds = 600.0;
        Ok(load)
    }

    async fn overwrite(&self, endpoint: &Endpoint) -> Result<()> {
        let mut load = self.load(endpoint, Operation::Put)?;
        load.value_seed = Some(LAST_SEED);
        let outcome = run_load(&load).await?;
        ensure!(
            outcome.requests == self.keys,
            "overwriting the sample: {:?}",
            outcome.errors
        );
        Ok(())
    }

    async fn count_wrong(&self, endpoint: &Endpoint) -> Result<u64> {
        eprintln!("checking {} values ...", 2 * self.keys);
        let mut load = self.load(endpoint, Operation::Get)?;
        load.verify = true;
        load.value_seed = Some(LAST_SEED);
        let last_written = run_load(&load).await?;
        // Any value of the right key is valid for the others.
        load.value_seed = None;
        load.each = Some(self.stride - 1);
        let others = run_load(&load).await?;
        for errors in [&last_written.errors, &others.errors] {
            if errors.total() > 0 {
                eprintln!("!!!! WRONG VALUES: {errors:?}");
            }
        }
        Ok(2 * self.keys - last_written.requests - others.requests)
    }
}
