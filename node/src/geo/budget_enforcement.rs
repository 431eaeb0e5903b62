//! Bounds the changes that this node retains for regions that lack them.
//!
//! Half of the retention budget raises an alarm. If all of it stays used for a while, the absent
//! region that lacks most is removed as an operator would remove it: the others fence it, and it
//! can come back by joining anew. A region of which any node is alive is never removed: it catches
//! up, and the alarm remains.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::{Duration, Instant};

use cloudkv_proto::v1::{self as pb, meta_command};

use super::replication::GeoReplication;
use super::retention_budget::{BudgetStage, RetentionBudget};
use super::status::ShardReplication;

/// Interval between two measurements.
const CHECK_INTERVAL: Duration = Duration::from_secs(1);
/// Time for which the budget must be used up, and a region silent, before the region is removed.
const ABSENCE_TIMEOUT: Duration = Duration::from_secs(10);

/// Enforces the budget until dropped.
pub(super) async fn run(geo: Arc<GeoReplication>) {
    let mut stage = BudgetStage::Fine;
    let mut full_since: Option<Instant> = None;
    let mut interval = tokio::time::interval(CHECK_INTERVAL);
    interval.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
    loop {
        interval.tick().await;
        let now = geo.retention_budget.measure(&geo.shards);
        if now != stage {
            log_stage_change(&geo.retention_budget, stage, now);
            stage = now;
        }
        if now != BudgetStage::Full {
            full_since = None;
        } else if full_since.get_or_insert_with(Instant::now).elapsed() > ABSENCE_TIMEOUT {
            remove_absent_region(&geo).await;
            full_since = None;
        }
    }
}

fn log_stage_change(budget: &RetentionBudget, before: BudgetStage, now: BudgetStage) {
    let (retained, limit) = (budget.retained_bytes(), budget.limit_bytes());
    if now > before {
        tracing::error!(
            retained,
            limit,
            stage = now.name(),
            "retained changes use half of the disk budget or more: bring back the region that \
             lacks them, or remove it; once the budget is used up, an absent region is removed"
        );
    } else {
        let stage = now.name();
        tracing::info!(
            retained,
            limit,
            stage,
            "retained changes use less of the disk budget"
        );
    }
}

/// Proposes to remove the absent region that lacks most.
async fn remove_absent_region(geo: &GeoReplication) {
    let topology = geo.catalog.topology();
    let replications = geo.status.all();
    let mut lacking: BTreeMap<u32, u64> = BTreeMap::new();
    for (number, shard) in (0..)
        .zip(&geo.shards)
        .filter(|(_, shard)| shard.is_leading())
    {
        let replication = shard.view().replication().borrow().clone();
        let last = replication.header.change_last;
        for peer in replication.header.peers.iter().filter(|peer| !peer.fenced) {
            if is_absent(replications.get(&(number, peer.region))) {
                *lacking.entry(peer.region).or_default() += last.saturating_sub(peer.acknowledged);
            }
        }
    }
    // A newly elected leader of a shard has no acknowledgement yet: the failure detector knows
    // more.
    let is_alive = |region: u32| {
        let mut nodes = topology.nodes_of(region);
        nodes.any(|node| geo.failure_detector.is_alive(node.id))
    };
    lacking.retain(|region, _| !is_alive(*region));
    let furthest_behind = lacking.into_iter().max_by_key(|(_, lacking)| *lacking);
    let Some(name) = furthest_behind.and_then(|(region, _)| topology.region_name(region)) else {
        return;
    };
    tracing::error!(
        region = name,
        "retained changes use up the disk budget: removing the absent region that lacks most of \
         them, which can only come back by joining anew"
    );
    let name = name.to_owned();
    let remove = meta_command::Kind::RemoveRegion(pb::RemoveRegion { name });
    if let Err(declined) = (geo.propose)(remove).await {
        tracing::warn!(reason = declined.reason, "region removal failed, retrying");
    }
}

fn is_absent(replication: Option<&ShardReplication>) -> bool {
    let last_heard = replication.and_then(|replication| replication.last_heard);
    last_heard.is_none_or(|last_heard| last_heard.elapsed() > ABSENCE_TIMEOUT)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_region_without_recent_answers_is_absent() {
        assert!(is_absent(None));
        assert!(is_absent(Some(&ShardReplication::default())));
        let mut replication = ShardReplication::default();
        replication.last_heard = Some(Instant::now());
        assert!(!is_absent(Some(&replication)));
    }
}
