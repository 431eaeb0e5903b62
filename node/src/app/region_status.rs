//! Status and metrics of the replication to other regions.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use serde_json::{Value, json};

use super::groups::Groups;
use crate::geo::ShardReplication;
use crate::meta::Topology;
use crate::shard::{ReplicationView, ShardHandle};
use crate::telemetry::metrics::Exposition;

/// Time without a message from a region after which it counts as unreachable.
const CONTACT_TIMEOUT: Duration = Duration::from_secs(3);

/// Replication of a shard that this node leads to one other region.
struct OutboundReplication {
    shard: u16,
    region: String,
    status: ShardReplication,
    view: Arc<ReplicationView>,
    watermark: u64,
    is_fenced: bool,
}

impl OutboundReplication {
    /// Changes that the region may lack, counted by position: some keys were written again since.
    fn unacknowledged_changes(&self) -> u64 {
        let last = self.view.header.change_last;
        last.saturating_sub(self.status.acknowledged)
    }

    fn silence(&self) -> Option<Duration> {
        Some(self.status.last_heard?.elapsed())
    }
}

fn led_shards(groups: &Groups) -> impl Iterator<Item = (u16, &Arc<ShardHandle>)> {
    let shards = (0..).zip(groups.shards.iter());
    shards.filter(|(_, shard)| shard.is_leading())
}

fn outbound_replications(groups: &Groups) -> Vec<OutboundReplication> {
    let topology = groups.catalog.topology();
    let statuses: BTreeMap<(u16, u32), ShardReplication> = groups.replication_status.all();
    let mut replications = Vec::new();
    for (shard, handle) in led_shards(groups) {
        let view = handle.view().replication().borrow().clone();
        for peer in &view.header.peers {
            let name = topology.region_name(peer.region).unwrap_or("?");
            replications.push(OutboundReplication {
                shard,
                region: name.to_owned(),
                status: statuses
                    .get(&(shard, peer.region))
                    .cloned()
                    .unwrap_or_default(),
                watermark: peer.watermark,
                is_fenced: peer.fenced,
                view: view.clone(),
            });
        }
    }
    replications
}

/// Status of the cluster's regions, and of this node's replication to each of the others.
pub(super) fn status(groups: &Groups) -> Value {
    let topology = groups.catalog.topology();
    let me = groups.identity.region_number;
    let replications = outbound_replications(groups);
    let millis = |time: Duration| time.as_secs_f64() * 1e3;
    let is_reconciled = |number: u32| topology.reconciled_regions().contains(&number);
    let region = |number: u32, info: &crate::meta::RegionInfo| {
        let to_region = replications.iter().filter(|it| it.region == info.name);
        let shards: Vec<Value> = to_region
            .map(|replication| {
                json!({
                    "shard": replication.shard,
                    "behind": replication.unacknowledged_changes(),
                    "lag_ms": replication.status.lag().map(millis),
                    "silent_ms": replication.silence().map(millis),
                    "watermark": replication.watermark,
                    "alarms": replication.status.disagreements,
                    "fenced": replication.is_fenced,
                })
            })
            .collect();
        json!({
            "number": number,
            "name": info.name,
            "here": number == me,
            "joining": info.is_joining,
            "started_by": (info.bootstrap_node != 0).then(|| groups.node_name(info.bootstrap_node)),
            "leaving": info.is_removing,
            "levelled_by": info.is_removing.then(|| region_names(&topology, is_reconciled)),
            "waits_for": info.is_removing.then(|| region_names(&topology, |it| !is_reconciled(it))),
            "lag_ms": groups.replication_status.inbound_lag(number).map(millis),
            "shards": shards,
        })
    };
    let all = topology.all_regions().iter();
    all.map(|(number, info)| region(*number, info)).collect()
}

/// Names of the remaining regions that `choose` selects.
fn region_names(topology: &Topology, choose: impl Fn(u32) -> bool) -> Vec<String> {
    let regions = topology.all_regions().iter();
    let chosen = regions.filter(|(number, region)| !region.is_removing && choose(**number));
    chosen.map(|(_, region)| region.name.clone()).collect()
}

/// Backlog of another region, over the shards that this node leads.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct RegionBacklog {
    /// Changes that the region may lack.
    pub changes: u64,
    /// Age of the oldest one that was sent last.
    pub lag: Duration,
}

/// Backlogs of the reachable regions.
pub(super) fn backlogs(groups: &Groups) -> BTreeMap<String, RegionBacklog> {
    let mut backlogs: BTreeMap<String, RegionBacklog> = BTreeMap::new();
    let is_reachable = |it: &OutboundReplication| {
        it.silence()
            .is_some_and(|silence| silence < CONTACT_TIMEOUT)
    };
    for replication in outbound_replications(groups)
        .into_iter()
        .filter(is_reachable)
    {
        let behind = replication.unacknowledged_changes();
        let lag = replication.status.lag().unwrap_or_default();
        let backlog = backlogs.entry(replication.region).or_default();
        backlog.changes += behind;
        backlog.lag = backlog.lag.max(lag);
    }
    backlogs
}

/// Status of the changes that this node retains for other regions, and their budget.
pub(super) fn retained_status(groups: &Groups) -> Value {
    let budget = &groups.retention_budget;
    json!({
        "bytes": budget.retained_bytes(),
        "budget_bytes": budget.limit_bytes(),
        "stage": budget.stage().name(),
    })
}

/// Writes the metrics of replication.
pub(super) fn write_metrics(groups: &Groups, text: &mut Exposition) {
    let (retained, limit) = (
        groups.retention_budget.retained_bytes() as f64,
        groups.retention_budget.limit_bytes() as f64,
    );
    let help = "Used share of the budget for changes retained for other regions.";
    text.gauge("cloudkv_geo_budget_used_ratio", help, &[], retained / limit);
    let leaving = groups.catalog.topology();
    let leaving = leaving
        .all_regions()
        .values()
        .filter(|region| region.is_removing);
    let help = "Regions that are being removed.";
    text.gauge("cloudkv_regions_leaving", help, &[], leaving.count() as f64);
    for (shard, handle) in led_shards(groups) {
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
                "Changes of other regions that arrived after a watermark that these had announced.",
                view.header.guarded,
            ),
        ];
        for (name, help, value) in gauges {
            text.gauge(name, help, &labels, value as f64);
        }
    }
    for replication in outbound_replications(groups) {
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
                "Replication lag to another region: half of the time from sending to \
                 acknowledgement, or the age of changes while the region is behind.",
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
}

/// Replication lag from other regions to this one, as the value of a response header.
pub(super) fn format_lag(groups: &Groups) -> String {
    if !groups.catalog.has_several_regions() {
        return String::new();
    }
    groups.replication_status.clear_inbound_lag(|shard| {
        let shard = groups.shards.iter().nth(usize::from(shard));
        shard.is_some_and(|shard| shard.is_leading())
    });
    let topology = groups.catalog.topology();
    let regions = topology.region_names();
    let lags = regions.filter_map(|(number, name)| {
        let lag = groups.replication_status.inbound_lag(number)?;
        Some(format!("{name};ms={}", lag.as_millis()))
    });
    lags.collect::<Vec<_>>().join(", ")
}
