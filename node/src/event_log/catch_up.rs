//! Logs when something lags, its progress, and when it has caught up: this node behind its leaders,
//! members that receive snapshots, other regions behind this one.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::{Duration, Instant};

use super::text::{format_seconds, list_names};
use crate::cluster::LocalGroups;
use crate::geo::RegionMonitor;
use crate::raft::{TransferDirection, TransferStatus};
use crate::store::keys::GroupId;
use crate::types::NodeId;

/// Interval at which progress is logged.
const PROGRESS_INTERVAL: Duration = Duration::from_secs(10);
/// Replication lag from which on a region counts as behind.
const LAG_THRESHOLD: Duration = Duration::from_secs(5);

/// Logged state of everything that lags.
pub(super) struct CatchUpEvents {
    groups: Arc<LocalGroups>,
    monitor: RegionMonitor,
    /// Lag of this node behind its leaders.
    local: Option<LagState>,
    /// Set if it was behind at the previous check: a few entries take less than the time between
    /// two.
    was_behind: bool,
    regions: BTreeMap<String, Option<LagState>>,
    transfers: BTreeMap<(GroupId, NodeId, TransferDirection), Option<LagState>>,
}

/// Times at which something began to lag, and was last logged.
#[derive(Clone, Copy)]
struct LagState {
    since: Instant,
    last_logged: Instant,
}

/// Event to be logged.
enum LagEvent {
    Started,
    Ongoing,
    CaughtUp(Duration),
}

/// Returns the next event of a lag's state; `None` if there is nothing to log.
fn next_event(state: &mut Option<LagState>, lags: bool, now: Instant) -> Option<LagEvent> {
    match state {
        None if lags => {
            let (since, last) = (now, now);
            *state = Some(LagState {
                since,
                last_logged: last,
            });
            Some(LagEvent::Started)
        }
        None => None,
        Some(lag) if !lags => {
            let took = now.duration_since(lag.since);
            *state = None;
            Some(LagEvent::CaughtUp(took))
        }
        Some(lag) if now.duration_since(lag.last_logged) >= PROGRESS_INTERVAL => {
            lag.last_logged = now;
            Some(LagEvent::Ongoing)
        }
        Some(_) => None,
    }
}

impl CatchUpEvents {
    /// Creates the state, with nothing logged yet.
    pub(super) fn new(groups: Arc<LocalGroups>, monitor: RegionMonitor) -> Self {
        Self {
            groups,
            monitor,
            local: None,
            was_behind: false,
            regions: BTreeMap::new(),
            transfers: BTreeMap::new(),
        }
    }

    /// Logs changes, and progress from time to time.
    pub(super) fn check(&mut self, now: Instant) {
        self.check_local(now);
        self.check_transfers(now);
        self.check_regions(now);
    }

    fn check_local(&mut self, now: Instant) {
        let shards = self.groups.hosted_shards();
        let shards = shards.map(|shard| (shard.group().id(), shard.group().catch_up_lag()));
        let all = std::iter::once((GroupId::META, self.groups.meta.catch_up_lag())).chain(shards);
        let behind = all.filter_map(|(group, behind)| Some((group, behind?)));
        let behind: Vec<(GroupId, u64)> = behind.filter(|(_, entries)| *entries > 0).collect();
        let entries: u64 = behind.iter().map(|(_, entries)| entries).sum();
        let groups: Vec<GroupId> = behind.into_iter().map(|(group, _)| group).collect();
        let groups = list_names(&groups);
        let was_behind = std::mem::replace(&mut self.was_behind, entries > 0);
        let lags = entries > 0 && (was_behind || self.local.is_some());
        match next_event(&mut self.local, lags, now) {
            Some(LagEvent::Started) => tracing::info!(groups, entries, "catching up started"),
            Some(LagEvent::Ongoing) => tracing::info!(groups, entries, "catching up in progress"),
            Some(LagEvent::CaughtUp(took)) => {
                tracing::info!(took = format_seconds(took), "caught up")
            }
            None => {}
        }
    }

    fn check_transfers(&mut self, now: Instant) {
        let groups = self.groups.all();
        let all = groups.iter().flat_map(|group| group.transfers().statuses());
        let running = all.filter(|it| it.state() == "running" && it.bytes > 0);
        let running: BTreeMap<_, TransferStatus> = running
            .map(|it| ((it.group, it.node, it.direction), it))
            .collect();
        self.transfers.retain(|key, _| running.contains_key(key));
        for (key, status) in running {
            let state = self.transfers.entry(key).or_default();
            // Its start and end are logged where it is carried out.
            if let Some(LagEvent::Ongoing) = next_event(state, true, now) {
                let node = self.groups.node_name(status.node);
                let (group, direction) = (status.group, status.direction.as_str());
                let mib = status.bytes >> 20;
                tracing::info!(%group, direction, node, mib, "snapshot transfer in progress");
            }
        }
    }

    fn check_regions(&mut self, now: Instant) {
        let backlogs = self.monitor.backlogs();
        for (region, backlog) in &backlogs {
            let is_behind = backlog.changes > 0 && backlog.lag > LAG_THRESHOLD;
            let (changes, lag) = (backlog.changes, format_seconds(backlog.lag));
            let state = self.regions.entry(region.clone()).or_default();
            match next_event(state, is_behind, now) {
                Some(LagEvent::Started) => {
                    tracing::info!(
                        region,
                        changes,
                        lag,
                        "region is behind, sending its backlog"
                    );
                }
                Some(LagEvent::Ongoing) => {
                    tracing::info!(region, changes, lag, "region is still behind");
                }
                Some(LagEvent::CaughtUp(took)) => {
                    tracing::info!(region, took = format_seconds(took), "region has caught up");
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
        assert!(next_event(&mut state, false, at(0)).is_none());
        assert!(matches!(
            next_event(&mut state, true, at(1)),
            Some(LagEvent::Started)
        ));
        assert!(next_event(&mut state, true, at(10)).is_none());
        assert!(matches!(
            next_event(&mut state, true, at(11)),
            Some(LagEvent::Ongoing)
        ));
        assert!(next_event(&mut state, true, at(12)).is_none());
        let Some(LagEvent::CaughtUp(took)) = next_event(&mut state, false, at(13)) else {
            panic!("its end is logged");
        };
        assert_eq!(took, Duration::from_secs(12));
        assert!(next_event(&mut state, false, at(14)).is_none());
    }
}
