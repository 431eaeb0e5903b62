//! Logs groups that lose their majority or their leader, and get it back.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::time::{Duration, Instant};

use cloudkv_common::telemetry::presence::{PresenceChange, PresenceTracker};

use super::text::{format_seconds, list_names};
use crate::cluster::{LocalGroups, MetadataState, ReadinessProbe, is_majority_alive};
use crate::store::keys::GroupId;

/// Time after the start for a group to elect a leader, before its lack of one is logged.
const FIRST_LEADER_TIMEOUT: Duration = Duration::from_secs(10);
/// Time without a majority that isn't logged.
const NO_MAJORITY_TOLERANCE: Duration = Duration::from_secs(1);
/// Time without a leader that isn't logged, since ordinary elections take as long. It is longer
/// than the failure detector needs to notice that most voters are lost.
const LEADERLESS_TOLERANCE: Duration = Duration::from_secs(2);

/// Groups with a majority and a leader as they were last logged.
pub(super) struct MajorityEvents {
    groups: Arc<LocalGroups>,
    readiness: Arc<ReadinessProbe>,
    majorities: PresenceTracker<GroupId>,
    /// Leaders of groups with a majority.
    leaders: PresenceTracker<GroupId>,
    /// Groups whose majority is lost, as was logged.
    lost: BTreeSet<GroupId>,
}

/// Texts of the events of a loss and of a recovery.
struct EventTexts {
    metadata_lost: &'static str,
    metadata_recovered: &'static str,
    shards_lost: &'static str,
    shards_recovered: &'static str,
}

const MAJORITY_TEXTS: EventTexts = EventTexts {
    metadata_lost: "the metadata has no majority: buckets and regions can't be changed",
    metadata_recovered: "the metadata has a majority again",
    shards_lost: "no majority: requests for keys of these groups are answered 503",
    shards_recovered: "majority restored",
};

const LEADER_TEXTS: EventTexts = EventTexts {
    metadata_lost: "the metadata has no leader: buckets and regions can't be changed until one is \
                    elected",
    metadata_recovered: "the metadata has a leader again",
    shards_lost: "no leader elected yet: requests for keys of these groups are answered 503",
    shards_recovered: "leader elected",
};

impl MajorityEvents {
    /// Creates the state, with nothing logged yet.
    pub(super) fn new(groups: Arc<LocalGroups>, readiness: Arc<ReadinessProbe>) -> Self {
        Self {
            groups,
            readiness,
            majorities: PresenceTracker::new(FIRST_LEADER_TIMEOUT, NO_MAJORITY_TOLERANCE),
            leaders: PresenceTracker::new(FIRST_LEADER_TIMEOUT, LEADERLESS_TOLERANCE),
            lost: BTreeSet::new(),
        }
    }

    /// Logs changes.
    pub(super) fn check(&mut self, now: Instant) {
        let obstacles = self.shard_obstacles();
        let mut have_leader: BTreeMap<GroupId, bool> = obstacles
            .iter()
            .map(|(group, obstacle)| (*group, obstacle.is_none()))
            .collect();
        let has_leader = self.readiness.metadata_state() != MetadataState::NoMajority;
        have_leader.insert(GroupId::META, has_leader);
        let have_majority: BTreeMap<GroupId, bool> = have_leader
            .iter()
            .map(|(group, led)| {
                // A majority that was lost is back once it has elected a leader.
                let may_elect =
                    || !self.lost.contains(group) && is_majority_alive(&self.groups, *group);
                (*group, *led || may_elect())
            })
            .collect();
        // Without a majority there can be no leader: only the former is logged.
        have_leader.retain(|group, _| have_majority.get(group) == Some(&true));
        let changes = self.majorities.update(now, &have_majority);
        for change in &changes {
            match *change {
                PresenceChange::Lost(group) => self.lost.insert(group),
                PresenceChange::Recovered(group, _) => self.lost.remove(&group),
            };
        }
        log_changes(&changes, &obstacles, &MAJORITY_TEXTS);
        let changes = self.leaders.update(now, &have_leader);
        log_changes(&changes, &obstacles, &LEADER_TEXTS);
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

/// Logs changes, those of several shards as one event.
fn log_changes(
    changes: &[PresenceChange<GroupId>],
    obstacles: &BTreeMap<GroupId, Option<String>>,
    texts: &EventTexts,
) {
    let (mut lost, mut restored, mut longest) = (Vec::new(), Vec::new(), Duration::ZERO);
    for change in changes {
        match *change {
            PresenceChange::Lost(GroupId::META) => tracing::warn!("{}", texts.metadata_lost),
            PresenceChange::Recovered(GroupId::META, after) => {
                let after = format_seconds(after);
                tracing::info!(after, "{}", texts.metadata_recovered);
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
        tracing::warn!(groups, reason, "{}", texts.shards_lost);
    }
    if !restored.is_empty() {
        let (groups, after) = (list_names(&restored), format_seconds(longest));
        tracing::info!(groups, after, "{}", texts.shards_recovered);
    }
}
