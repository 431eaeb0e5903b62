//! Processes and the machine, as the kernel describes them in `/proc`.

use anyhow::{Context, Result};
use serde::Serialize;
use std::fs;

/// Ticks per second in `/proc/PID/stat` (`USER_HZ`): 100 wherever Linux runs this product.
const TICKS_PER_SECOND: f64 = 100.0;

/// User and system time of a process so far, in seconds.
pub(crate) fn cpu_seconds(pid: u32) -> Result<f64> {
    let path = format!("/proc/{pid}/stat");
    let stat = fs::read_to_string(&path).with_context(|| format!("read {path}"))?;
    parse_cpu_seconds(&stat).with_context(|| format!("parse {path}"))
}

fn parse_cpu_seconds(stat: &str) -> Option<f64> {
    // The name, second, is in parentheses and may hold anything; user and system time are
    // the 14th and 15th field.
    let (_, after_name) = stat.rsplit_once(')')?;
    let mut fields = after_name.split_ascii_whitespace().skip(11);
    let user: f64 = fields.next()?.parse().ok()?;
    let system: f64 = fields.next()?.parse().ok()?;
    Some((user + system) / TICKS_PER_SECOND)
}

/// Memory of a process in bytes.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize)]
pub(crate) struct MemoryUsage {
    /// Resident set size now.
    pub rss: u64,
    /// Peak resident set size.
    pub peak: u64,
    /// Resident memory not backed by a file: allocated by the process itself.
    pub anonymous: u64,
}

impl MemoryUsage {
    /// Reads the memory of a process.
    pub(crate) fn of_process(pid: u32) -> Result<Self> {
        let path = format!("/proc/{pid}/status");
        let status = fs::read_to_string(&path).with_context(|| format!("read {path}"))?;
        Ok(Self {
            rss: kilobytes(&status, "VmRSS:").with_context(|| format!("VmRSS in {path}"))?,
            peak: kilobytes(&status, "VmHWM:").with_context(|| format!("VmHWM in {path}"))?,
            anonymous: kilobytes(&status, "RssAnon:").unwrap_or_default(),
        })
    }
}

fn kilobytes(text: &str, field: &str) -> Option<u64> {
    let value = text.lines().find_map(|line| line.strip_prefix(field))?;
    value
        .trim()
        .trim_end_matches("kB")
        .trim()
        .parse::<u64>()
        .ok()
        .map(|kb| kb * 1024)
}

/// The machine of a run.
#[derive(Debug, Clone, Serialize)]
pub(crate) struct Machine {
    /// Name of the processor.
    pub cpu: String,
    /// Number of processors that this process may use.
    pub cores: usize,
    /// Bytes of memory.
    pub memory: u64,
    /// Release of the kernel.
    pub kernel: String,
    /// Load average of the last minute at the start of the run: above 0.5, others were busy too.
    pub load_at_start: f64,
}

impl Machine {
    /// Reads the machine's description; values that can't be read are left empty.
    pub(crate) fn read() -> Self {
        let read = |path| fs::read_to_string(path).unwrap_or_default();
        let cpu = read("/proc/cpuinfo")
            .lines()
            .find_map(|line| line.strip_prefix("model name")?.split_once(':'))
            .map(|(_, name)| name.trim().to_owned());
        let load = read("/proc/loadavg");
        Self {
            cpu: cpu.unwrap_or_default(),
            cores: std::thread::available_parallelism().map_or(0, usize::from),
            memory: kilobytes(&read("/proc/meminfo"), "MemTotal:").unwrap_or_default(),
            kernel: read("/proc/sys/kernel/osrelease").trim().to_owned(),
            load_at_start: load
                .split(' ')
                .next()
                .and_then(|n| n.parse().ok())
                .unwrap_or_default(),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn cpu_time_is_parsed_after_an_odd_name() {
        let stat = "7 (a b) c) S 1 7 7 0 -1 4194560 1 0 0 0 250 50 0 0 20 0 1 0 5 6 7";
        assert_eq!(parse_cpu_seconds(stat), Some(3.0));
    }

    #[test]
    fn own_memory_is_plausible() {
        let memory = MemoryUsage::of_process(std::process::id()).unwrap();
        assert!(memory.rss > 100_000 && memory.peak >= memory.rss && memory.anonymous > 0);
    }
}
