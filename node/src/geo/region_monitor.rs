//! The replication to and from the other regions, as this node sees it.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use super::{ReplicationStatus, ShardReplication};
use crate::cluster::LocalGroups;
use crate::shard::{ReplicationView, ShardHandle};

/// Time without a message from a region after which it counts as unreachable.
const CONTACT_TIMEOUT: Duration = Duration::from_secs(3);

/// Source of the status, metrics and events of the replication between regions. Cheap to clone.
#[derive(Clone)]
pub(crate) struct RegionMonitor {
    /// Groups of this node.
    pub groups: Arc<LocalGroups>,
    /// Progress and lag of each other region.
    pub replication: Arc<ReplicationStatus>,
}

/// Replication of a shard that this node leads to one other region.
pub(super) struct OutboundReplication {
    pub shard: u16,
    pub region: String,
    pub status: ShardReplication,
    view: Arc<ReplicationView>,
    pub watermark: u64,
    pub is_fenced: bool,
}

impl OutboundReplication {
    /// Changes that the region may lack, counted by position: some keys were written again since.
    pub(super) fn unacknowledged_changes(&self) -> u64 {
        let last = self.view.header.change_last;
        last.saturating_sub(self.status.acknowledged)
    }

    pub(super) fn silence(&self) -> Option<Duration> {
        Some(self.status.last_heard?.elapsed())
    }
}

/// Backlog of another region, over the shards that this node leads.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct RegionBacklog {
    /// Changes that the region may lack.
    pub changes: u64,
    /// Age of the oldest one that was sent last.
    pub lag: Duration,
}

impl RegionMonitor {
    /// Shards that this node leads, with their numbers.
    pub(super) fn led_shards(&self) -> impl Iterator<Item = (u16, &Arc<ShardHandle>)> {
        let shards = (0..).zip(self.groups.shards.iter());
        shards.filter(|(_, shard)| shard.is_leading())
    }

    /// Replications of the shards that this node leads, to each other region.
    pub(super) fn outbound_replications(&self) -> Vec<OutboundReplication> {
        let topology = self.groups.catalog.topology();
        let statuses: BTreeMap<(u16, u32), ShardReplication> = self.replication.all();
        let mut replications = Vec::new();
        for (shard, handle) in self.led_shards() {
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

    /// Backlogs of the reachable regions, by name.
    pub(crate) fn backlogs(&self) -> BTreeMap<String, RegionBacklog> {
        let mut backlogs: BTreeMap<String, RegionBacklog> = BTreeMap::new();
        let is_reachable = |it: &OutboundReplication| {
            it.silence()
                .is_some_and(|silence| silence < CONTACT_TIMEOUT)
        };
        for replication in self
            .outbound_replications()
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

    /// Replication lag from other regions to this one, as the value of a response header; empty if
    /// there is no other region.
    pub(crate) fn format_inbound_lag(&self) -> String {
        let groups = &self.groups;
        if !groups.catalog.has_several_regions() {
            return String::new();
        }
        self.replication.clear_inbound_lag(|shard| {
            let shard = groups.shards.get(usize::from(shard));
            shard.is_some_and(|shard| shard.is_leading())
        });
        let topology = groups.catalog.topology();
        let regions = topology.region_names();
        let lags = regions.filter_map(|(number, name)| {
            let lag = self.replication.inbound_lag(number)?;
            Some(format!("{name};ms={}", lag.as_millis()))
        });
        lags.collect::<Vec<_>>().join(", ")
    }
}
