//! Memory usage of a process.

use std::fs;

/// Returns the resident bytes of a process.
///
/// # Panics
/// Panics if there is no such process.
pub fn resident_bytes(pid: u32) -> usize {
    let status = fs::read_to_string(format!("/proc/{pid}/status")).expect("a process");
    let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:"));
    let kib = line.and_then(|line| line.trim().strip_suffix("kB"));
    let kib: usize = kib.and_then(|kib| kib.trim().parse().ok()).expect("VmRSS");
    kib << 10
}
