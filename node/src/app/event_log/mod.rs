//! Logs changes around the node, once each and by names that operators know: reachability,
//! leadership, lost majorities, catching up.

mod catch_up;
mod leaders;
mod members;

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::{Duration, Instant};

use cloudkv_common::telemetry::presence::{PresenceChange, PresenceTracker};
use tokio_util::sync::CancellationToken;

use self::catch_up::CatchUpEvents;
use self::leaders::LeadershipEvents;
use self::members::MembershipEvents;
use super::groups::Groups;
use super::readiness::MetadataState;
use super::start_log;
use super::start_log::format_seconds;
use crate::store::keys::GroupId;

/// Interval between checks for changes.
const CHECK_INTERVAL: Duration = Duration::from_millis(250);
/// Time after the start for a group to elect a leader, before its lack of one is logged.
const FIRST_LEADER_TIMEOUT: Duration = Duration::from_secs(10);
/// Time without a leader that isn't logged, since ordinary elections take as long.
const LEADERLESS_TOLERANCE: Duration = Duration::from_secs(1);
/// Maximum number of names in an event; the rest is only counted.
const MAX_LISTED_NAMES: usize = 8;

/// Logged state, to be compared with the current one.
struct EventLog {
    groups: Arc<Groups>,
    started_at: Instant,
    has_logged_ready: bool,
    majorities: PresenceTracker<GroupId>,
    members: MembershipEvents,
    leaders: LeadershipEvents,
    catch_up: CatchUpEvents,
}

/// Logs changes until `stop`; `started_at` is when the node was started.
pub(super) async fn run(groups: Arc<Groups>, started_at: Instant, stop: CancellationToken) {
    let mut event_log = EventLog {
        members: MembershipEvents::new(groups.clone()),
        leaders: LeadershipEvents::new(groups.clone()),
        catch_up: CatchUpEvents::new(groups.clone()),
        majorities: PresenceTracker::new(FIRST_LEADER_TIMEOUT, LEADERLESS_TOLERANCE),
        has_logged_ready: false,
        started_at,
        groups,
    };
    let mut ticks = tokio::time::interval(CHECK_INTERVAL);
    ticks.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
    while stop.run_until_cancelled(ticks.tick()).await.is_some() {
        event_log.check();
    }
}

impl EventLog {
    fn check(&mut self) {
        let now = Instant::now();
        self.check_readiness();
        if self.groups.metadata_state() == MetadataState::Absent {
            return;
        }
        self.members.check(now);
        self.leaders.check();
        self.check_majorities(now);
        self.catch_up.check(now);
    }

    fn check_readiness(&mut self) {
        if !self.has_logged_ready && self.groups.readiness().is_ready() {
            self.has_logged_ready = true;
            start_log::log_ready(&self.groups, self.started_at);
        }
    }

    fn check_majorities(&mut self, now: Instant) {
        let readiness = self.groups.readiness();
        let shards = (0..).zip(self.groups.shards.iter());
        let parts: BTreeMap<GroupId, Option<String>> = shards
            .filter_map(|(number, shard)| {
                let id = shard.group().id();
                let name = id.to_string();
                let part = readiness.components.iter().find(|part| part.name == name)?;
                Some((GroupId::shard(number), part.waiting_for.clone()))
            })
            .collect();
        let mut have_majority: BTreeMap<GroupId, bool> = parts
            .iter()
            .map(|(group, missing)| (*group, missing.is_none()))
            .collect();
        let has_majority = self.groups.metadata_state() != MetadataState::NoMajority;
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
            let reason = parts.get(first).cloned().flatten().unwrap_or_default();
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
}

/// Lists the first names, and the number of the others.
fn list_names(all: &[impl ToString]) -> String {
    let named: Vec<String> = all
        .iter()
        .take(MAX_LISTED_NAMES)
        .map(ToString::to_string)
        .collect();
    let named = named.join(", ");
    match all.len().saturating_sub(MAX_LISTED_NAMES) {
        0 => named,
        more => format!("{named} and {more} more"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_event_lists_some_names_and_counts_the_rest() {
        let groups = |count| (0..count).map(GroupId::shard).collect::<Vec<_>>();
        assert_eq!(list_names(&groups(2)), "shard-0, shard-1");
        assert!(list_names(&groups(64)).ends_with("shard-7 and 56 more"));
    }
}
