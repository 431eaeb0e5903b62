//! Memory that the process may use: the limit of its container, if it has one, or the machine's.

use std::fs;

/// Assumed memory in bytes where the system doesn't report it.
const DEFAULT_MEMORY_BYTES: usize = 1 << 30;

/// Memory that the process may use, in bytes.
pub(super) fn memory_limit() -> usize {
    let machine = fs::read_to_string("/proc/meminfo")
        .ok()
        .and_then(|text| total_memory(&text));
    let container = [
        "/sys/fs/cgroup/memory.max",
        "/sys/fs/cgroup/memory/memory.limit_in_bytes",
    ]
    .into_iter()
    .find_map(|path| fs::read_to_string(path).ok()?.trim().parse().ok());
    match (machine, container) {
        (Some(machine), Some(container)) => machine.min(container),
        (Some(bytes), None) | (None, Some(bytes)) => bytes,
        (None, None) => DEFAULT_MEMORY_BYTES,
    }
}

/// `MemTotal` of `/proc/meminfo`, which is given in KiB.
fn total_memory(meminfo: &str) -> Option<usize> {
    let line = meminfo
        .lines()
        .find_map(|line| line.strip_prefix("MemTotal:"))?;
    let kib: usize = line.trim().strip_suffix("kB")?.trim().parse().ok()?;
    kib.checked_mul(1024)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn total_memory_is_parsed_from_meminfo() {
        assert_eq!(
            total_memory("MemFree: 1 kB\nMemTotal:       2048 kB\n"),
            Some(2 << 20)
        );
        assert_eq!(total_memory("MemFree: 1 kB\n"), None);
        assert!(memory_limit() >= 64 << 20);
    }
}
