//! Tells when something lags, how far it is, and when it has caught up: this node behind its
//! leaders, members behind snapshots, other regions behind this one.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::{Duration, Instant};

use super::names;
use crate::assembly::groups::Groups;
use crate::assembly::start_log::seconds;
use crate::assembly::{regions, snapshots};
use crate::raft::{Direction, NodeId, TransferStatus, Transfers};
use crate::store::keys::GroupId;

/// How often progress is told.
const INTERVAL: Duration = Duration::from_secs(10);
/// A region whose changes arrive later than that is behind.
const BEHIND: Duration = Duration::from_secs(5);

/// What was told of what lags.
pub(super) struct CatchUp {
    groups: Arc<Groups>,
    /// This node behind its leaders.
    here: Option<Told>,
    /// Whether it was behind at the look before: a few entries take less than the time between two.
    was_behind: bool,
    regions: BTreeMap<String, Option<Told>>,
    transfers: BTreeMap<(GroupId, NodeId, Direction), Option<Told>>,
}

/// When something began to lag, and when that was told last.
#[derive(Clone, Copy)]
struct Told {
    since: Instant,
    last: Instant,
}

/// What is to be told now.
enum Step {
    Begun,
    GoesOn,
    Over(Duration),
}

/// The next step of what lags, or doesn't; `None`: there is nothing to tell.
fn step(told: &mut Option<Told>, lags: bool, now: Instant) -> Option<Step> {
    match told {
        None if lags => {
            let (since, last) = (now, now);
            *told = Some(Told { since, last });
            Some(Step::Begun)
        }
        None => None,
        Some(it) if !lags => {
            let took = now.duration_since(it.since);
            *told = None;
            Some(Step::Over(took))
        }
        Some(it) if now.duration_since(it.last) >= INTERVAL => {
            it.last = now;
            Some(Step::GoesOn)
        }
        Some(_) => None,
    }
}

impl CatchUp {
    /// Nothing told yet.
    pub fn new(groups: Arc<Groups>) -> Self {
        Self {
            groups,
            here: None,
            was_behind: false,
            regions: BTreeMap::new(),
            transfers: BTreeMap::new(),
        }
    }

    /// Tells what has changed, and how far it is now and then.
    pub fn look(&mut self, now: Instant) {
        self.look_here(now);
        self.look_at_transfers(now);
        self.look_at_regions(now);
    }

    fn look_here(&mut self, now: Instant) {
        let shards = self.groups.shards.iter().filter(|shard| shard.is_hosted());
        let shards = shards.map(|shard| (shard.group().id(), shard.group().behind()));
        let all = std::iter::once((GroupId::META, self.groups.meta.behind())).chain(shards);
        let behind = all.filter_map(|(group, behind)| Some((group, behind?)));
        let behind: Vec<(GroupId, u64)> = behind.filter(|(_, entries)| *entries > 0).collect();
        let entries: u64 = behind.iter().map(|(_, entries)| entries).sum();
        let groups: Vec<GroupId> = behind.into_iter().map(|(group, _)| group).collect();
        let groups = names(&groups);
        let was_behind = std::mem::replace(&mut self.was_behind, entries > 0);
        let lags = entries > 0 && (was_behind || self.here.is_some());
        match step(&mut self.here, lags, now) {
            Some(Step::Begun) => tracing::info!(groups, entries, "catching up begun"),
            Some(Step::GoesOn) => tracing::info!(groups, entries, "catching up: entries are left"),
            Some(Step::Over(took)) => tracing::info!(took = seconds(took), "caught up"),
            None => {}
        }
    }

    fn look_at_transfers(&mut self, now: Instant) {
        let all = snapshots::of_groups(&self.groups).flat_map(Transfers::statuses);
        let running = all.filter(|it| it.state() == "running" && it.bytes > 0);
        let running: BTreeMap<_, TransferStatus> = running
            .map(|it| ((it.group, it.node, it.direction), it))
            .collect();
        self.transfers.retain(|key, _| running.contains_key(key));
        for (key, status) in running {
            let told = self.transfers.entry(key).or_default();
            // That one has begun, and has ended, is told by those who carry it out.
            if let Some(Step::GoesOn) = step(told, true, now) {
                let node = self.groups.node_name(status.node);
                let (group, direction) = (status.group, status.direction.name());
                let mib = status.bytes >> 20;
                tracing::info!(%group, direction, node, mib, "snapshot transfer goes on");
            }
        }
    }

    fn look_at_regions(&mut self, now: Instant) {
        let backlogs = regions::backlogs(&self.groups);
        for (region, backlog) in &backlogs {
            let is_behind = backlog.changes > 0 && backlog.lag > BEHIND;
            let (changes, lag) = (backlog.changes, seconds(backlog.lag));
            let told = self.regions.entry(region.clone()).or_default();
            match step(told, is_behind, now) {
                Some(Step::Begun) => {
                    tracing::info!(region, changes, lag, "sending a region what it has missed");
                }
                Some(Step::GoesOn) => {
                    tracing::info!(region, changes, lag, "region is still behind");
                }
                Some(Step::Over(took)) => {
                    tracing::info!(region, took = seconds(took), "region has caught up");
                }
                None => {}
            }
        }
        self.regions
            .retain(|region, _| backlogs.contains_key(region));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_lags_is_told_at_its_beginning_now_and_then_and_at_its_end() {
        let (mut told, begin) = (None, Instant::now());
        let at = |seconds| begin + Duration::from_secs(seconds);
        assert!(step(&mut told, false, at(0)).is_none());
        assert!(matches!(step(&mut told, true, at(1)), Some(Step::Begun)));
        assert!(step(&mut told, true, at(10)).is_none());
        assert!(matches!(step(&mut told, true, at(11)), Some(Step::GoesOn)));
        assert!(step(&mut told, true, at(12)).is_none());
        let Some(Step::Over(took)) = step(&mut told, false, at(13)) else {
            panic!("its end is told");
        };
        assert_eq!(took, Duration::from_secs(12));
        assert!(step(&mut told, false, at(14)).is_none());
    }
}
