//! Logs changes around the node, once each and by names that operators know: reachability,
//! leadership, lost majorities, catching up.

mod catch_up;
mod leaders;
mod members;

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::{Duration, Instant};

use cloudkv_common::telemetry::presence::{Change, Presence};
use tokio_util::sync::CancellationToken;

use self::catch_up::CatchUp;
use self::leaders::Leaders;
use self::members::Members;
use super::groups::Groups;
use super::readiness::MetadataState;
use super::start_log;
use super::start_log::seconds;
use crate::store::keys::GroupId;

/// Interval between checks for changes.
const INTERVAL: Duration = Duration::from_millis(250);
/// Time after the start for a group to elect a leader, before its lack of one is logged.
const LED_WITHIN: Duration = Duration::from_secs(10);
/// Time without a leader that isn't logged, since ordinary elections take as long.
const ELECTED_WITHIN: Duration = Duration::from_secs(1);
/// Maximum number of names in an event; the rest is only counted.
const NAMED: usize = 8;

/// Logged state, to be compared with the current one.
struct Journal {
    groups: Arc<Groups>,
    began: Instant,
    told_ready: bool,
    led: Presence<GroupId>,
    members: Members,
    leaders: Leaders,
    catch_up: CatchUp,
}

/// Logs changes until `stop`; `started_at` is when the node was started.
pub(super) async fn write(groups: Arc<Groups>, started_at: Instant, stop: CancellationToken) {
    let mut event_log = Journal {
        members: Members::new(groups.clone()),
        leaders: Leaders::new(groups.clone()),
        catch_up: CatchUp::new(groups.clone()),
        led: Presence::new(LED_WITHIN, ELECTED_WITHIN),
        told_ready: false,
        began: started_at,
        groups,
    };
    let mut ticks = tokio::time::interval(INTERVAL);
    ticks.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
    while stop.run_until_cancelled(ticks.tick()).await.is_some() {
        event_log.look().await;
    }
}

impl Journal {
    async fn look(&mut self) {
        let now = Instant::now();
        self.look_at_readiness();
        if self.groups.metadata_state() == MetadataState::Absent {
            return;
        }
        self.members.look(now).await;
        self.leaders.look();
        self.look_at_majorities(now);
        self.catch_up.look(now);
    }

    fn look_at_readiness(&mut self) {
        if !self.told_ready && self.groups.readiness().is_ready() {
            self.told_ready = true;
            start_log::ready(&self.groups, self.began);
        }
    }

    fn look_at_majorities(&mut self, now: Instant) {
        let readiness = self.groups.readiness();
        let shards = (0..).zip(self.groups.shards.iter());
        let parts: BTreeMap<GroupId, Option<String>> = shards
            .filter_map(|(number, shard)| {
                let id = shard.group().id();
                let name = id.to_string();
                let part = readiness.parts.iter().find(|part| part.name == name)?;
                Some((GroupId::shard(number), part.missing.clone()))
            })
            .collect();
        let mut have_majority: BTreeMap<GroupId, bool> = parts
            .iter()
            .map(|(group, missing)| (*group, missing.is_none()))
            .collect();
        let has_majority = self.groups.metadata_state() != MetadataState::NoMajority;
        have_majority.insert(GroupId::META, has_majority);
        let (mut lost, mut restored, mut longest) = (Vec::new(), Vec::new(), Duration::ZERO);
        for change in self.led.look(now, &have_majority) {
            match change {
                Change::Lost(GroupId::META) => tracing::warn!(
                    "the metadata has no majority: buckets and regions can't be changed"
                ),
                Change::Back(GroupId::META, after) => {
                    let after = seconds(after);
                    tracing::info!(after, "the metadata has a majority again");
                }
                Change::Lost(group) => lost.push(group),
                Change::Back(group, after) => {
                    restored.push(group);
                    longest = longest.max(after);
                }
            }
        }
        if let Some(first) = lost.first() {
            let reason = parts.get(first).cloned().flatten().unwrap_or_default();
            let groups = names(&lost);
            tracing::warn!(
                groups,
                reason,
                "no majority: requests for keys of these groups are answered 503"
            );
        }
        if !restored.is_empty() {
            let (groups, after) = (names(&restored), seconds(longest));
            tracing::info!(groups, after, "majority restored");
        }
    }
}

/// Lists the first names, and the number of the others.
fn names(all: &[impl ToString]) -> String {
    let named: Vec<String> = all.iter().take(NAMED).map(ToString::to_string).collect();
    let named = named.join(", ");
    match all.len().saturating_sub(NAMED) {
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
        assert_eq!(names(&groups(2)), "shard-0, shard-1");
        assert!(names(&groups(64)).ends_with("shard-7 and 56 more"));
    }
}
