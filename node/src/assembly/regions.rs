//! What the operator's port tells of other regions.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use serde_json::{Value, json};

use super::groups::Groups;
use crate::geo::Line;
use crate::meta::Topology;
use crate::shard::{Peering, ShardHandle};
use crate::telemetry::metrics::Exposition;

/// A region from which nothing came for this long isn't reached.
const SILENCE: Duration = Duration::from_secs(3);

/// A shard that this node leads, on its way to one other region.
struct Way {
    shard: u16,
    region: String,
    line: Line,
    peering: Arc<Peering>,
    watermark: u64,
    fenced: bool,
}

impl Way {
    /// Changes that the region may lack: positions, some of which were written again since.
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
    let lines: BTreeMap<(u16, u32), Line> = groups.ledger.lines();
    let mut ways = Vec::new();
    for (shard, handle) in led(groups) {
        let peering = handle.view().peering().borrow().clone();
        for peer in &peering.header.peers {
            let name = topology.region_name(peer.region).unwrap_or("?");
            ways.push(Way {
                shard,
                region: name.to_owned(),
                line: lines
                    .get(&(shard, peer.region))
                    .cloned()
                    .unwrap_or_default(),
                watermark: peer.watermark,
                fenced: peer.fenced,
                peering: peering.clone(),
            });
        }
    }
    ways
}

/// The regions of the cluster, and how this node's shards stand with each of the others.
pub(super) fn status(groups: &Groups) -> Value {
    let topology = groups.catalog.topology();
    let me = groups.identity.region_number;
    let ways = ways(groups);
    let millis = |time: Duration| time.as_secs_f64() * 1e3;
    let levelled = |number: u32| topology.levelled_in().contains(&number);
    let region = |number: u32, info: &crate::meta::RegionInfo| {
        let of = ways.iter().filter(|way| way.region == info.name);
        let shards: Vec<Value> = of
            .map(|way| {
                json!({
                    "shard": way.shard,
                    "behind": way.behind(),
                    "lag_ms": way.line.lag().map(millis),
                    "silent_ms": way.silent_for().map(millis),
                    "watermark": way.watermark,
                    "alarms": way.line.alarms,
                    "fenced": way.fenced,
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
            "levelled_by": info.leaving.then(|| named(&topology, levelled)),
            "waits_for": info.leaving.then(|| named(&topology, |it| !levelled(it))),
            "lag_ms": groups.ledger.inbound_lag(number).map(millis),
            "shards": shards,
        })
    };
    let all = topology.all_regions().iter();
    all.map(|(number, info)| region(*number, info)).collect()
}

/// The regions that stay for which `choose` holds.
fn named(topology: &Topology, choose: impl Fn(u32) -> bool) -> Vec<String> {
    let regions = topology.all_regions().iter();
    let stay = regions.filter(|(number, region)| !region.leaving && choose(**number));
    stay.map(|(_, region)| region.name.clone()).collect()
}

/// What another region lacks of the shards that this node leads.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Backlog {
    /// Changes that it may lack.
    pub changes: u64,
    /// How old the oldest of them is that was sent last.
    pub lag: Duration,
}

/// The regions that are reached, and what each of them lacks.
pub(super) fn backlogs(groups: &Groups) -> BTreeMap<String, Backlog> {
    let mut backlogs: BTreeMap<String, Backlog> = BTreeMap::new();
    let reached = |way: &Way| way.silent_for().is_some_and(|silence| silence < SILENCE);
    for way in ways(groups).into_iter().filter(reached) {
        let (behind, lag) = (way.behind(), way.line.lag().unwrap_or_default());
        let backlog = backlogs.entry(way.region).or_default();
        backlog.changes += behind;
        backlog.lag = backlog.lag.max(lag);
    }
    backlogs
}

/// What is held back on this node for other regions, and how much may be.
pub(super) fn held(groups: &Groups) -> Value {
    let budget = &groups.budget;
    json!({
        "bytes": budget.held(),
        "budget_bytes": budget.limit(),
        "stage": budget.stage().name(),
    })
}

pub(super) fn write_metrics(groups: &Groups, text: &mut Exposition) {
    let (held, limit) = (groups.budget.held() as f64, groups.budget.limit() as f64);
    let help = "How much of what may be held back on this node for other regions is.";
    text.gauge("cloudkv_geo_budget_used_ratio", help, &[], held / limit);
    let leaving = groups.catalog.topology();
    let leaving = leaving
        .all_regions()
        .values()
        .filter(|region| region.leaving);
    let help = "Regions that are being removed.";
    text.gauge("cloudkv_regions_leaving", help, &[], leaving.count() as f64);
    for (shard, handle) in led(groups) {
        let peering = handle.view().peering().borrow().clone();
        let shard = shard.to_string();
        let labels = [("shard", shard.as_str())];
        let gauges = [
            (
                "cloudkv_geo_held_changes",
                "Changes that some other region lacks.",
                peering.header.held_changes,
            ),
            (
                "cloudkv_geo_held_bytes",
                "Bytes of changes that some other region lacks.",
                peering.header.held_bytes,
            ),
            (
                "cloudkv_geo_guarded",
                "Changes of others that came after a watermark that they had announced.",
                peering.header.guarded,
            ),
        ];
        for (name, help, value) in gauges {
            text.gauge(name, help, &labels, value as f64);
        }
    }
    for way in ways(groups) {
        let shard = way.shard.to_string();
        let labels = [("shard", shard.as_str()), ("region", way.region.as_str())];
        let seconds = |time: Option<Duration>| time.map_or(f64::NAN, |time| time.as_secs_f64());
        let gauges = [
            (
                "cloudkv_geo_behind",
                "Changes that another region has not acknowledged.",
                way.behind() as f64,
            ),
            (
                "cloudkv_geo_lag_seconds",
                "Time that changes take to another region: half of sending to acknowledgement, or their age while it is behind.",
                seconds(way.line.lag()),
            ),
            (
                "cloudkv_geo_silent_seconds",
                "Time since another region was last heard of.",
                seconds(way.silent_for()),
            ),
        ];
        for (name, help, value) in gauges {
            text.gauge(name, help, &labels, value);
        }
        let counters = [
            (
                "cloudkv_geo_sent_changes_total",
                "Changes sent to another region.",
                way.line.sent_records,
            ),
            (
                "cloudkv_geo_sent_bytes_total",
                "Bytes sent to another region, before compression.",
                way.line.sent_bytes,
            ),
            (
                "cloudkv_geo_ahead_total",
                "Parts of another region's changes that were too far ahead in time.",
                way.line.held_ahead,
            ),
            (
                "cloudkv_geo_alarms_total",
                "Times that another region and this one disagreed on what was sent.",
                way.line.alarms,
            ),
        ];
        for (name, help, value) in counters {
            text.counter(name, help, &labels, value);
        }
    }
}

/// How long changes take from other regions to this one, as answers to users tell it.
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
