//! Status and metrics of the replication to other regions.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use serde_json::{Value, json};

use super::groups::Groups;
use crate::geo::Line;
use crate::meta::Topology;
use crate::shard::{Peering, ShardHandle};
use crate::telemetry::metrics::Exposition;

/// Time without a message from a region after which it counts as unreachable.
const SILENCE: Duration = Duration::from_secs(3);

/// Replication of a shard that this node leads to one other region.
struct Way {
    shard: u16,
    region: String,
    line: Line,
    peering: Arc<Peering>,
    watermark: u64,
    fenced: bool,
}

impl Way {
    /// Changes that the region may lack, counted by position: some keys were written again since.
    fn behind(&self) -> u64 {
        let last = self.peering.header.change_last;
        last.saturating_sub(self.line.confirmed)
    }

    fn silent_for(&self) -> Option<Duration> {
        Some(self.line.heard?.elapsed())
    }
}

fn led(groups: &Groups) -> impl Iterator<Item = (u16, &Arc<ShardHandle>)> {
    let shards = (0..).zip(groups.shards.iter());
    shards.filter(|(_, shard)| shard.leads())
}

fn ways(groups: &Groups) -> Vec<Way> {
    let topology = groups.catalog.topology();
    let statuses: BTreeMap<(u16, u32), Line> = groups.ledger.lines();
    let mut replications = Vec::new();
    for (shard, handle) in led(groups) {
        let view = handle.view().peering().borrow().clone();
        for peer in &view.header.peers {
            let name = topology.region_name(peer.region).unwrap_or("?");
            replications.push(Way {
                shard,
                region: name.to_owned(),
                line: statuses
                    .get(&(shard, peer.region))
                    .cloned()
                    .unwrap_or_default(),
                watermark: peer.watermark,
                fenced: peer.fenced,
                peering: view.clone(),
            });
        }
    }
    replications
}

/// Status of the cluster's regions, and of this node's replication to each of the others.
pub(super) fn status(groups: &Groups) -> Value {
    let topology = groups.catalog.topology();
    let me = groups.identity.region_number;
    let replications = ways(groups);
    let millis = |time: Duration| time.as_secs_f64() * 1e3;
    let is_reconciled = |number: u32| topology.levelled_in().contains(&number);
    let region = |number: u32, info: &crate::meta::RegionInfo| {
        let to_region = replications.iter().filter(|it| it.region == info.name);
        let shards: Vec<Value> = to_region
            .map(|replication| {
                json!({
                    "shard": replication.shard,
                    "behind": replication.behind(),
                    "lag_ms": replication.line.lag().map(millis),
                    "silent_ms": replication.silent_for().map(millis),
                    "watermark": replication.watermark,
                    "alarms": replication.line.alarms,
                    "fenced": replication.fenced,
                })
            })
            .collect();
        json!({
            "number": number,
            "name": info.name,
            "here": number == me,
            "joining": info.joining,
            "started_by": (info.founder != 0).then(|| groups.node_name(info.founder)),
            "leaving": info.leaving,
            "levelled_by": info.leaving.then(|| named(&topology, is_reconciled)),
            "waits_for": info.leaving.then(|| named(&topology, |it| !is_reconciled(it))),
            "lag_ms": groups.ledger.inbound_lag(number).map(millis),
            "shards": shards,
        })
    };
    let all = topology.all_regions().iter();
    all.map(|(number, info)| region(*number, info)).collect()
}

/// Names of the remaining regions that `choose` selects.
fn named(topology: &Topology, choose: impl Fn(u32) -> bool) -> Vec<String> {
    let regions = topology.all_regions().iter();
    let chosen = regions.filter(|(number, region)| !region.leaving && choose(**number));
    chosen.map(|(_, region)| region.name.clone()).collect()
}

/// Backlog of another region, over the shards that this node leads.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Backlog {
    /// Changes that the region may lack.
    pub changes: u64,
    /// Age of the oldest one that was sent last.
    pub lag: Duration,
}

/// Backlogs of the reachable regions.
pub(super) fn backlogs(groups: &Groups) -> BTreeMap<String, Backlog> {
    let mut backlogs: BTreeMap<String, Backlog> = BTreeMap::new();
    let is_reachable = |it: &Way| it.silent_for().is_some_and(|silence| silence < SILENCE);
    for replication in ways(groups).into_iter().filter(is_reachable) {
        let behind = replication.behind();
        let lag = replication.line.lag().unwrap_or_default();
        let backlog = backlogs.entry(replication.region).or_default();
        backlog.changes += behind;
        backlog.lag = backlog.lag.max(lag);
    }
    backlogs
}

/// Status of the changes that this node retains for other regions, and their budget.
pub(super) fn held(groups: &Groups) -> Value {
    let budget = &groups.budget;
    json!({
        "bytes": budget.held(),
        "budget_bytes": budget.limit(),
        "stage": budget.stage().name(),
    })
}

/// Writes the metrics of replication.
pub(super) fn write_metrics(groups: &Groups, text: &mut Exposition) {
    let (retained, limit) = (groups.budget.held() as f64, groups.budget.limit() as f64);
    let help = "Used share of the budget for changes retained for other regions.";
    text.gauge("cloudkv_geo_budget_used_ratio", help, &[], retained / limit);
    let leaving = groups.catalog.topology();
    let leaving = leaving
        .all_regions()
        .values()
        .filter(|region| region.leaving);
    let help = "Regions that are being removed.";
    text.gauge("cloudkv_regions_leaving", help, &[], leaving.count() as f64);
    for (shard, handle) in led(groups) {
        let view = handle.view().peering().borrow().clone();
        let shard = shard.to_string();
        let labels = [("shard", shard.as_str())];
        let gauges = [
            (
                "cloudkv_geo_held_changes",
                "Retained changes, which some other region lacks.",
                view.header.held_changes,
            ),
            (
                "cloudkv_geo_held_bytes",
                "Bytes of retained changes, which some other region lacks.",
                view.header.held_bytes,
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
    for replication in ways(groups) {
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
                replication.behind() as f64,
            ),
            (
                "cloudkv_geo_lag_seconds",
                "Replication lag to another region: half of the time from sending to \
                 acknowledgement, or the age of changes while the region is behind.",
                seconds(replication.line.lag()),
            ),
            (
                "cloudkv_geo_silent_seconds",
                "Time since the last message of another region.",
                seconds(replication.silent_for()),
            ),
        ];
        for (name, help, value) in gauges {
            text.gauge(name, help, &labels, value);
        }
        let counters = [
            (
                "cloudkv_geo_sent_changes_total",
                "Changes sent to another region.",
                replication.line.sent_records,
            ),
            (
                "cloudkv_geo_sent_bytes_total",
                "Bytes sent to another region, before compression.",
                replication.line.sent_bytes,
            ),
            (
                "cloudkv_geo_ahead_total",
                "Batches of another region's changes that were too far ahead in time.",
                replication.line.held_ahead,
            ),
            (
                "cloudkv_geo_alarms_total",
                "Number of times that another region and this one disagreed on the sent changes.",
                replication.line.alarms,
            ),
        ];
        for (name, help, value) in counters {
            text.counter(name, help, &labels, value);
        }
    }
}

/// Replication lag from other regions to this one, as the value of a response header.
pub(super) fn lag(groups: &Groups) -> String {
    if !groups.catalog.has_regions() {
        return String::new();
    }
    groups.ledger.forget_unled(|shard| {
        let shard = groups.shards.iter().nth(usize::from(shard));
        shard.is_some_and(|shard| shard.leads())
    });
    let topology = groups.catalog.topology();
    let regions = topology.regions();
    let lags = regions.filter_map(|(number, name)| {
        let lag = groups.ledger.inbound_lag(number)?;
        Some(format!("{name};ms={}", lag.as_millis()))
    });
    lags.collect::<Vec<_>>().join(", ")
}
