//! Baseline of storage: RocksDB alone, without network, HTTP or consensus.
//!
//! Puts go in batches of 64 with one fdatasync each, as 64 connections would let a node do; gets
//! are served by the block cache. It runs in a process of its own, so that nothing of it remains.

use crate::process;
use crate::workload::{Random, fill_value};
use anyhow::{Context, Result, ensure};
use rocksdb::{BlockBasedOptions, Cache, DB, Options, WriteBatch, WriteOptions};
use serde::{Deserialize, Serialize};
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

const KEY_COUNT: u64 = 10_000;
const BATCH_SIZE: u64 = 64;
const CACHE_BYTES: usize = 256 << 20;

/// Options of `rocksdb`.
#[derive(Debug, clap::Args)]
pub(crate) struct Args {
    /// Directory for the data.
    #[arg(long)]
    pub data_dir: PathBuf,
    /// Seconds of measurement for each number.
    #[arg(long, default_value_t = 4.0)]
    pub seconds: f64,
    /// Bytes of a value; may be repeated.
    #[arg(long, default_values_t = [100, 4096])]
    pub value_size: Vec<usize>,
}

/// Throughput of RocksDB with values of one size.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub(crate) struct Throughput {
    /// Bytes of a value.
    pub value_size: usize,
    /// Puts per second, in batches of 64 with one fdatasync each.
    pub puts_per_second: f64,
    /// Gets per second from the block cache, with one thread.
    pub gets_per_second_1: f64,
    /// Gets per second from the block cache, with two threads.
    pub gets_per_second_2: f64,
}

/// Measures and prints JSON.
pub(crate) fn run(args: &Args) -> Result<()> {
    ensure!(
        (0.1..=600.0).contains(&args.seconds),
        "--seconds: 0.1 to 600"
    );
    let dir = process::work_dir(&args.data_dir)?;
    let limit = Duration::from_secs_f64(args.seconds);
    let numbers = args.value_size.iter().map(|size| {
        ensure!((1..=1 << 20).contains(size), "--value-size: 1 to 1048576");
        measure(&dir.path().join(size.to_string()), *size, limit)
    });
    println!(
        "{}",
        serde_json::to_string(&numbers.collect::<Result<Vec<_>>>()?)?
    );
    Ok(())
}

fn measure(dir: &Path, value_size: usize, limit: Duration) -> Result<Throughput> {
    let db = open(dir)?;
    let puts_per_second = puts(&db, value_size, limit)?;
    db.flush().context("flush")?;
    db.compact_range::<&[u8], &[u8]>(None, None);
    gets(&db, value_size, 1, limit.min(Duration::from_millis(500)))?; // fills the cache
    Ok(Throughput {
        value_size,
        puts_per_second,
        gets_per_second_1: gets(&db, value_size, 1, limit)?,
        gets_per_second_2: gets(&db, value_size, 2, limit)?,
    })
}

fn open(dir: &Path) -> Result<DB> {
    let mut table = BlockBasedOptions::default();
    table.set_block_cache(&Cache::new_lru_cache(CACHE_BYTES));
    table.set_bloom_filter(10.0, false);
    let mut options = Options::default();
    options.create_if_missing(true);
    options.set_block_based_table_factory(&table);
    DB::open(&options, dir).with_context(|| format!("open RocksDB in {}", dir.display()))
}

fn puts(db: &DB, value_size: usize, limit: Duration) -> Result<f64> {
    let mut sync = WriteOptions::default();
    sync.set_sync(true);
    let mut random = Random::new(1);
    let mut value = vec![0; value_size];
    let started = Instant::now();
    let mut next = 0;
    // Every key at least once, even on a slow disk: the gets need them.
    while next < KEY_COUNT || started.elapsed() < limit {
        let mut batch = WriteBatch::default();
        for _ in 0..BATCH_SIZE {
            let key = if next < KEY_COUNT {
                next
            } else {
                random.below(KEY_COUNT)
            };
            fill_value(&mut value, key, random.next());
            batch.put(key_name(key), &value);
            next += 1;
        }
        db.write_opt(batch, &sync).context("write")?;
    }
    Ok(next as f64 / started.elapsed().as_secs_f64())
}

fn gets(db: &DB, value_size: usize, threads: u64, limit: Duration) -> Result<f64> {
    let stop = AtomicBool::new(false);
    let started = Instant::now();
    let total = std::thread::scope(|scope| -> Result<u64> {
        let start = |seed| {
            let stop = &stop;
            scope.spawn(move || read_until(db, value_size, seed, stop))
        };
        let readers: Vec<_> = (0..threads).map(start).collect();
        std::thread::sleep(limit);
        stop.store(true, Ordering::Relaxed);
        let join = |reader: std::thread::ScopedJoinHandle<'_, Result<u64>>| {
            reader
                .join()
                .map_err(|_| anyhow::anyhow!("a reading thread panicked"))?
        };
        readers.into_iter().map(join).sum()
    })?;
    Ok(total as f64 / started.elapsed().as_secs_f64())
}

fn read_until(db: &DB, value_size: usize, seed: u64, stop: &AtomicBool) -> Result<u64> {
    let mut random = Random::new(seed);
    let mut count = 0;
    while !stop.load(Ordering::Relaxed) {
        let key = random.below(KEY_COUNT);
        let value = db.get_pinned(key_name(key)).context("get")?;
        ensure!(
            value.is_some_and(|value| value.len() == value_size),
            "key {key} has no value of {value_size} bytes"
        );
        count += 1;
    }
    Ok(count)
}

fn key_name(key: u64) -> [u8; 8] {
    let mut name = *b"k0000000";
    let mut rest = key;
    for digit in name[1..].iter_mut().rev() {
        *digit = b'0' + (rest % 10) as u8;
        rest /= 10;
    }
    name
}
