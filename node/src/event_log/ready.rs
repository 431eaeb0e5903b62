//! Logs that the node is ready.

use std::time::Instant;

use super::text::format_seconds;
use crate::cluster::{LocalGroups, MetadataState};
use crate::meta::NodeState;

/// Logs that the node, which was started at `started_at`, is ready for the first time.
pub(super) fn log_ready(groups: &LocalGroups, metadata: MetadataState, started_at: Instant) {
    let topology = groups.catalog.topology();
    let nodes = topology.nodes().iter();
    let nodes = nodes
        .filter(|node| node.state != NodeState::Removed)
        .count();
    let regions: Vec<&str> = topology.region_names().map(|(_, name)| name).collect();
    let led_shards = groups.shards.iter().filter(|shard| shard.is_leading());
    let leads: Vec<String> = led_shards
        .map(|shard| shard.group().id().to_string())
        .collect();
    tracing::info!(
        after = format_seconds(started_at.elapsed()),
        cluster = groups.identity.cluster_id,
        nodes,
        regions = regions.join(", "),
        leads = leads.join(", "),
        %metadata,
        "ready"
    );
}
