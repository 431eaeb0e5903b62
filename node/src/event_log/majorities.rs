//! Logs groups that lose their majority, and get it back.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::{Duration, Instant};

use cloudkv_common::telemetry::presence::{PresenceChange, PresenceTracker};

use super::text::{format_seconds, list_names};
use crate::cluster::{LocalGroups, MetadataState, ReadinessProbe};
use crate::store::keys::GroupId;

/// Time after the start for a group to elect a leader, before its lack of one is logged.
const FIRST_LEADER_TIMEOUT: Duration = Duration::from_secs(10);
/// Time without a leader that isn't logged, since ordinary elections take as long.
const LEADERLESS_TOLERANCE: Duration = Duration::from_secs(1);

/// Groups with a majority as they were last logged.
pub(super) struct MajorityEvents {
    groups: Arc<LocalGroups>,
    readiness: Arc<ReadinessProbe>,
    majorities: PresenceTracker<GroupId>,
}

impl MajorityEvents {
    /// Creates the state, with nothing logged yet.
    pub(super) fn new(groups: Arc<LocalGroups>, readiness: Arc<ReadinessProbe>) -> Self {
        Self {
            groups,
            readiness,
            majorities: PresenceTracker::new(FIRST_LEADER_TIMEOUT, LEADERLESS_TOLERANCE),
        }
    }

    /// Logs changes.
    pub(super) fn check(&mut self, now: Instant) {
        let obstacles = self.shard_obstacles();
        let mut have_majority: BTreeMap<GroupId, bool> = obstacles
            .iter()
            .map(|(group, obstacle)| (*group, obstacle.is_none()))
            .collect();
        let has_majority = self.readiness.metadata_state() != MetadataState::NoMajority;
        have_majority.insert(GroupId::META, has_majority);
        let (mut lost, mut restored, mut longest) = (Vec::new(), Vec::new(), Duration::ZERO);
        for change in self.majorities.update(now, &have_majority) {
            match change {
                PresenceChange::Lost(GroupId::META) => tracing::warn!(
                    "the metadata has no majority: buckets and regions can't be changed"
                ),
                PresenceChange::Recovered(GroupId::META, after) => {
                    let after = format_seconds(after);
                    tracing::info!(after, "the metadata has a majority again");
                }
                PresenceChange::Lost(group) => lost.push(group),
                PresenceChange::Recovered(group, after) => {
                    restored.push(group);
                    longest = longest.max(after);
                }
            }
        }
        if let Some(first) = lost.first() {
            let reason = obstacles.get(first).cloned().flatten().unwrap_or_default();
            let groups = list_names(&lost);
            tracing::warn!(
                groups,
                reason,
                "no majority: requests for keys of these groups are answered 503"
            );
        }
        if !restored.is_empty() {
            let (groups, after) = (list_names(&restored), format_seconds(longest));
            tracing::info!(groups, after, "majority restored");
        }
    }

    /// Reasons for which shards don't answer requests; `None` for those that do.
    fn shard_obstacles(&self) -> BTreeMap<GroupId, Option<String>> {
        let readiness = self.readiness.check();
        let shards = (0..).zip(self.groups.shards.iter());
        shards
            .filter_map(|(number, shard)| {
                let name = shard.group().id().to_string();
                let part = readiness.components.iter().find(|part| part.name == name)?;
                Some((GroupId::shard(number), part.waiting_for.clone()))
            })
            .collect()
    }
}
