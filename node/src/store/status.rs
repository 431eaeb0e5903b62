//! Status and metrics of the storage and its disk.

use std::sync::atomic::Ordering;

use cloudkv_common::telemetry::metrics::Exposition;
use serde_json::{Value, json};

use super::{DiskSpace, Engine};

/// Describes the storage: fields of the node's status.
pub(crate) fn storage_status(engine: &Engine, disk_space: &DiskSpace) -> Value {
    json!({
        "disk_free_bytes": disk_space.free_bytes(),
        "disk_low_water_bytes": disk_space.low_water_bytes(),
        "disk_state": disk_space.state().name(),
        "log_disk_bytes": engine.log.disk_bytes(),
        "state_disk_bytes": engine.state.disk_bytes(),
    })
}

/// Writes the metrics of the storage.
pub(crate) fn write_storage_metrics(
    engine: &Engine,
    disk_space: &DiskSpace,
    text: &mut Exposition,
) {
    write_sync_counts(engine, text);
    let gauges = [
        (
            "cloudkv_disk_free_bytes",
            "Free bytes of the data directory's disk.",
            disk_space.free_bytes(),
        ),
        (
            "cloudkv_disk_low",
            "1 if free disk space is below the low-water mark, 2 if below a quarter of it.",
            disk_space.state() as u64,
        ),
        (
            "cloudkv_log_disk_bytes",
            "Bytes of the log's files, including those that are kept for reuse.",
            engine.log.disk_bytes(),
        ),
        (
            "cloudkv_state_disk_bytes",
            "Bytes of the state's files.",
            engine.state.disk_bytes(),
        ),
        (
            "cloudkv_state_unflushed_bytes",
            "Bytes of the state that are only in memory, and in the log.",
            engine.state.unflushed_bytes(),
        ),
        (
            "cloudkv_block_cache_bytes",
            "Bytes of cached blocks.",
            engine.cache_usage() as u64,
        ),
    ];
    for (name, help, value) in gauges {
        text.gauge(name, help, &[], value as f64);
    }
}

fn write_sync_counts(engine: &Engine, text: &mut Exposition) {
    let syncs = engine.log.sync_stats();
    let counters = [
        (
            "cloudkv_log_syncs_total",
            "Fsyncs of the Raft logs.",
            &syncs.syncs,
        ),
        (
            "cloudkv_log_appends_total",
            "Appends that these fsyncs made durable.",
            &syncs.appends,
        ),
        (
            "cloudkv_log_sync_microseconds_total",
            "Time that fsyncs of the Raft logs took.",
            &syncs.micros,
        ),
    ];
    for (name, help, value) in counters {
        text.counter(name, help, &[], value.load(Ordering::Relaxed));
    }
}
