//! Metrics of the process, under the names that Prometheus's own clients use.

use super::exposition::Exposition;

/// Adds resident memory and open files of this process, where the system reports them (Linux).
pub fn write_process(text: &mut Exposition) {
    if let Some(bytes) = resident_bytes() {
        text.gauge(
            "process_resident_memory_bytes",
            "Resident memory.",
            &[],
            bytes as f64,
        );
    }
    if let Some(files) = open_files() {
        text.gauge(
            "process_open_fds",
            "Open file descriptors.",
            &[],
            files as f64,
        );
    }
}

fn resident_bytes() -> Option<u64> {
    let status = std::fs::read_to_string("/proc/self/status").ok()?;
    let line = status
        .lines()
        .find_map(|line| line.strip_prefix("VmRSS:"))?;
    let kib: u64 = line.trim().strip_suffix(" kB")?.parse().ok()?;
    Some(kib * 1024)
}

fn open_files() -> Option<usize> {
    Some(std::fs::read_dir("/proc/self/fd").ok()?.count())
}

#[cfg(test)]
#[cfg(target_os = "linux")]
mod tests {
    use super::*;

    #[test]
    fn the_process_has_memory_and_files() {
        assert!(resident_bytes().unwrap() > 100_000);
        assert!(open_files().unwrap() > 2);
    }
}
