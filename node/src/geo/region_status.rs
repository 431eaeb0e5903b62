//! Status of the replication to other regions.

use std::time::Duration;

use serde_json::{Value, json};

use super::region_monitor::OutboundReplication;
use super::{RegionMonitor, RetentionBudget};
use crate::meta::{RegionInfo, Topology};

impl RegionMonitor {
    /// Describes the cluster's regions, and this node's replication to each of the others: fields
    /// of the node's status.
    pub(crate) fn status(&self, budget: &RetentionBudget) -> Value {
        json!({
            "regions": self.region_rows(),
            "held_for_regions": {
                "bytes": budget.retained_bytes(),
                "budget_bytes": budget.limit_bytes(),
                "stage": budget.stage().name(),
            },
        })
    }

    fn region_rows(&self) -> Vec<Value> {
        let topology = self.groups.catalog.topology();
        let replications = self.outbound_replications();
        let all = topology.all_regions().iter();
        all.map(|(number, region)| self.region_row(&topology, *number, region, &replications))
            .collect()
    }

    fn region_row(
        &self,
        topology: &Topology,
        number: u32,
        region: &RegionInfo,
        replications: &[OutboundReplication],
    ) -> Value {
        let to_region = replications.iter().filter(|it| it.region == region.name);
        let shards: Vec<Value> = to_region.map(shard_row).collect();
        let starter = region.bootstrap_node.and_then(|node| topology.node(node));
        let started_by = starter.map(|node| self.groups.node_name(node.id));
        let is_reconciled = |number: u32| topology.reconciled_regions().contains(&number);
        let others = |reconciled: bool| {
            let names = || region_names(topology, |it| is_reconciled(it) == reconciled);
            region.is_removing.then(names)
        };
        json!({
            "number": number,
            "name": region.name,
            "here": number == self.groups.identity.region_number,
            "joining": region.is_joining,
            "started_by": started_by,
            "leaving": region.is_removing,
            "levelled_by": others(true),
            "waits_for": others(false),
            "lag_ms": self.replication.inbound_lag(number).map(millis),
            "shards": shards,
        })
    }
}

fn shard_row(replication: &OutboundReplication) -> Value {
    json!({
        "shard": replication.shard,
        "behind": replication.unacknowledged_changes(),
        "lag_ms": replication.status.lag().map(millis),
        "silent_ms": replication.silence().map(millis),
        "watermark": replication.watermark,
        "alarms": replication.status.disagreements,
        "fenced": replication.is_fenced,
    })
}

fn millis(time: Duration) -> f64 {
    time.as_secs_f64() * 1e3
}

/// Names of the remaining regions that `choose` selects.
fn region_names(topology: &Topology, choose: impl Fn(u32) -> bool) -> Vec<String> {
    let regions = topology.all_regions().iter();
    let chosen = regions.filter(|(number, region)| !region.is_removing && choose(**number));
    chosen.map(|(_, region)| region.name.clone()).collect()
}
