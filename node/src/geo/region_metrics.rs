//! Metrics of the replication between regions.

use std::time::Duration;

use cloudkv_common::telemetry::metrics::Exposition;

use super::region_monitor::OutboundReplication;
use super::{RegionMonitor, RetentionBudget};

impl RegionMonitor {
    /// Writes the metrics of the replication, and of the budget for retained changes.
    pub(crate) fn write_metrics(&self, budget: &RetentionBudget, text: &mut Exposition) {
        let used = budget.retained_bytes() as f64 / budget.limit_bytes() as f64;
        let help = "Used share of the budget for changes retained for other regions.";
        text.gauge("cloudkv_geo_budget_used_ratio", help, &[], used);
        let topology = self.groups.catalog.topology();
        let leaving = topology
            .all_regions()
            .values()
            .filter(|region| region.is_removing);
        let help = "Regions that are being removed.";
        text.gauge("cloudkv_regions_leaving", help, &[], leaving.count() as f64);
        self.write_retained_changes(text);
        for replication in self.outbound_replications() {
            write_progress(&replication, text);
            write_traffic(&replication, text);
        }
    }

    fn write_retained_changes(&self, text: &mut Exposition) {
        for (shard, handle) in self.led_shards() {
            let view = handle.view().replication().borrow().clone();
            let shard = shard.to_string();
            let labels = [("shard", shard.as_str())];
            let gauges = [
                (
                    "cloudkv_geo_held_changes",
                    "Retained changes, which some other region lacks.",
                    view.header.retained_changes,
                ),
                (
                    "cloudkv_geo_held_bytes",
                    "Bytes of retained changes, which some other region lacks.",
                    view.header.retained_bytes,
                ),
                (
                    "cloudkv_geo_guarded",
                    "Changes of other regions that arrived after a watermark that these had \
                     announced.",
                    view.header.guarded,
                ),
            ];
            for (name, help, value) in gauges {
                text.gauge(name, help, &labels, value as f64);
            }
        }
    }
}

fn write_progress(replication: &OutboundReplication, text: &mut Exposition) {
    let shard = replication.shard.to_string();
    let labels = [
        ("shard", shard.as_str()),
        ("region", replication.region.as_str()),
    ];
    let seconds = |time: Option<Duration>| time.map_or(f64::NAN, |time| time.as_secs_f64());
    let gauges = [
        (
            "cloudkv_geo_behind",
            "Changes that another region has not acknowledged.",
            replication.unacknowledged_changes() as f64,
        ),
        (
            "cloudkv_geo_lag_seconds",
            "Replication lag to another region: half of the time from sending to acknowledgement, \
             or the age of changes while the region is behind.",
            seconds(replication.status.lag()),
        ),
        (
            "cloudkv_geo_silent_seconds",
            "Time since the last message of another region.",
            seconds(replication.silence()),
        ),
    ];
    for (name, help, value) in gauges {
        text.gauge(name, help, &labels, value);
    }
}

fn write_traffic(replication: &OutboundReplication, text: &mut Exposition) {
    let shard = replication.shard.to_string();
    let labels = [
        ("shard", shard.as_str()),
        ("region", replication.region.as_str()),
    ];
    let counters = [
        (
            "cloudkv_geo_sent_changes_total",
            "Changes sent to another region.",
            replication.status.sent_records,
        ),
        (
            "cloudkv_geo_sent_bytes_total",
            "Bytes sent to another region, before compression.",
            replication.status.sent_bytes,
        ),
        (
            "cloudkv_geo_ahead_total",
            "Batches of another region's changes that were too far ahead in time.",
            replication.status.refused_ahead,
        ),
        (
            "cloudkv_geo_alarms_total",
            "Number of times that another region and this one disagreed on the sent changes.",
            replication.status.disagreements,
        ),
    ];
    for (name, help, value) in counters {
        text.counter(name, help, &labels, value);
    }
}
