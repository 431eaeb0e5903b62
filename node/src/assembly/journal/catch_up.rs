//! Logs when something lags, its progress, and when it has caught up: this node behind its leaders,
//! members that receive snapshots, other regions behind this one.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::{Duration, Instant};

use super::names;
use crate::assembly::groups::Groups;
use crate::assembly::start_log::seconds;
use crate::assembly::{regions, snapshots};
use crate::raft::{Direction, NodeId, TransferStatus, Transfers};
use crate::store::keys::GroupId;

/// Interval at which progress is logged.
const INTERVAL: Duration = Duration::from_secs(10);
/// Replication lag from which on a region counts as behind.
const BEHIND: Duration = Duration::from_secs(5);

/// Logged state of everything that lags.
pub(super) struct CatchUp {
    groups: Arc<Groups>,
    /// Lag of this node behind its leaders.
    here: Option<Told>,
    /// Set if it was behind at the previous check: a few entries take less than the time between
    /// two.
    was_behind: bool,
    regions: BTreeMap<String, Option<Told>>,
    transfers: BTreeMap<(GroupId, NodeId, Direction), Option<Told>>,
}

/// Times at which something began to lag, and was last logged.
#[derive(Clone, Copy)]
struct Told {
    since: Instant,
    last: Instant,
}

/// Event to be logged.
enum Step {
    Begun,
    GoesOn,
    Over(Duration),
}

/// Returns the next event of a lag's state; `None` if there is nothing to log.
fn step(state: &mut Option<Told>, lags: bool, now: Instant) -> Option<Step> {
    match state {
        None if lags => {
            let (since, last) = (now, now);
            *state = Some(Told { since, last });
            Some(Step::Begun)
        }
        None => None,
        Some(lag) if !lags => {
            let took = now.duration_since(lag.since);
            *state = None;
            Some(Step::Over(took))
        }
        Some(lag) if now.duration_since(lag.last) >= INTERVAL => {
            lag.last = now;
            Some(Step::GoesOn)
        }
        Some(_) => None,
    }
}

impl CatchUp {
    /// Creates the state, with nothing logged yet.
    pub fn new(groups: Arc<Groups>) -> Self {
        Self {
            groups,
            here: None,
            was_behind: false,
            regions: BTreeMap::new(),
            transfers: BTreeMap::new(),
        }
    }

    /// Logs changes, and progress from time to time.
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
            Some(Step::Begun) => tracing::info!(groups, entries, "catching up started"),
            Some(Step::GoesOn) => tracing::info!(groups, entries, "catching up in progress"),
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
            let state = self.transfers.entry(key).or_default();
            // Its start and end are logged where it is carried out.
            if let Some(Step::GoesOn) = step(state, true, now) {
                let node = self.groups.node_name(status.node);
                let (group, direction) = (status.group, status.direction.name());
                let mib = status.bytes >> 20;
                tracing::info!(%group, direction, node, mib, "snapshot transfer in progress");
            }
        }
    }

    fn look_at_regions(&mut self, now: Instant) {
        let backlogs = regions::backlogs(&self.groups);
        for (region, backlog) in &backlogs {
            let is_behind = backlog.changes > 0 && backlog.lag > BEHIND;
            let (changes, lag) = (backlog.changes, seconds(backlog.lag));
            let state = self.regions.entry(region.clone()).or_default();
            match step(state, is_behind, now) {
                Some(Step::Begun) => {
                    tracing::info!(
                        region,
                        changes,
                        lag,
                        "region is behind, sending its backlog"
                    );
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
    fn lag_is_logged_at_its_start_periodically_and_at_its_end() {
        let (mut state, start) = (None, Instant::now());
        let at = |seconds| start + Duration::from_secs(seconds);
        assert!(step(&mut state, false, at(0)).is_none());
        assert!(matches!(step(&mut state, true, at(1)), Some(Step::Begun)));
        assert!(step(&mut state, true, at(10)).is_none());
        assert!(matches!(step(&mut state, true, at(11)), Some(Step::GoesOn)));
        assert!(step(&mut state, true, at(12)).is_none());
        let Some(Step::Over(took)) = step(&mut state, false, at(13)) else {
            panic!("its end is logged");
        };
        assert_eq!(took, Duration::from_secs(12));
        assert!(step(&mut state, false, at(14)).is_none());
    }
}
