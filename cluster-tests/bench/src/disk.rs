//! Measures the time that the disk takes to make 4 KiB durable: the lower bound of a single PUT.

use anyhow::{Context, Result};
use rustix::fs::FallocateFlags;
use serde::Serialize;
use std::fs::File;
use std::os::unix::fs::FileExt;
use std::path::Path;
use std::time::{Duration, Instant};

const BLOCK: [u8; 4096] = [0x5a; 4096];
const WRITE_COUNT: u64 = 400;
/// Time after which a slow disk's measurement ends with fewer writes.
const MEASURE_TIMEOUT: Duration = Duration::from_secs(3);

/// Median latency of a 4 KiB write with fdatasync, in microseconds.
#[derive(Debug, Clone, Copy, Serialize)]
pub(crate) struct FsyncLatency {
    /// Appended to a new file: its size and blocks change with every write.
    pub growing: f64,
    /// Into space allocated with `fallocate`: its blocks change from unwritten to written.
    pub allocated: f64,
    /// Over blocks that were written before: only the data changes.
    pub overwriting: f64,
}

impl FsyncLatency {
    /// Measures in `dir`.
    pub(crate) fn measure(dir: &Path) -> Result<Self> {
        let path = dir.join("fsync-probe");
        let open = || File::create(&path).context("create probe file");

        let growing = median_of_writes(&open()?)?;
        let file = open()?;
        let length = BLOCK.len() as u64 * WRITE_COUNT;
        rustix::fs::fallocate(&file, FallocateFlags::empty(), 0, length).context("fallocate")?;
        file.sync_all().context("sync probe file")?;
        let allocated = median_of_writes(&file)?;
        let overwriting = median_of_writes(&file)?;
        std::fs::remove_file(&path).context("remove probe file")?;
        Ok(Self {
            growing,
            allocated,
            overwriting,
        })
    }
}

fn median_of_writes(file: &File) -> Result<f64> {
    let started = Instant::now();
    let mut micros = Vec::new();
    for index in 0..WRITE_COUNT {
        let start = Instant::now();
        file.write_all_at(&BLOCK, index * BLOCK.len() as u64)
            .context("write probe file")?;
        file.sync_data().context("sync probe file")?;
        micros.push(start.elapsed().as_secs_f64() * 1e6);
        if started.elapsed() > MEASURE_TIMEOUT {
            break;
        }
    }
    Ok(crate::report::median(&mut micros))
}
