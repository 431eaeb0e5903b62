//! Checks for changes that are logged.

use std::sync::Arc;
use std::time::{Duration, Instant};

use tokio_util::sync::CancellationToken;

use super::catch_up::CatchUpEvents;
use super::leaders::LeadershipEvents;
use super::majorities::MajorityEvents;
use super::members::MembershipEvents;
use super::ready::log_ready;
use crate::cluster::{LocalGroups, MetadataState, ReadinessProbe};
use crate::geo::RegionMonitor;

/// Interval between checks for changes.
const CHECK_INTERVAL: Duration = Duration::from_millis(250);

/// Logged state, to be compared with the current one.
pub(crate) struct EventWatcher {
    groups: Arc<LocalGroups>,
    readiness: Arc<ReadinessProbe>,
    started_at: Instant,
    has_logged_ready: bool,
    majorities: MajorityEvents,
    members: MembershipEvents,
    leaders: LeadershipEvents,
    catch_up: CatchUpEvents,
}

impl EventWatcher {
    /// Creates the state of a node that was started at `started_at`, with nothing logged yet.
    pub(crate) fn new(
        groups: Arc<LocalGroups>,
        readiness: Arc<ReadinessProbe>,
        regions: RegionMonitor,
        started_at: Instant,
    ) -> Self {
        Self {
            members: MembershipEvents::new(groups.clone()),
            leaders: LeadershipEvents::new(groups.clone()),
            catch_up: CatchUpEvents::new(groups.clone(), regions),
            majorities: MajorityEvents::new(groups.clone(), readiness.clone()),
            has_logged_ready: false,
            started_at,
            readiness,
            groups,
        }
    }

    /// Logs changes until `stop`.
    pub(crate) async fn run(mut self, stop: CancellationToken) {
        let mut ticks = tokio::time::interval(CHECK_INTERVAL);
        ticks.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
        while stop.run_until_cancelled(ticks.tick()).await.is_some() {
            self.check();
        }
    }

    fn check(&mut self) {
        let now = Instant::now();
        self.check_readiness();
        let metadata = self.readiness.metadata_state();
        if metadata == MetadataState::Absent {
            return;
        }
        self.members.check(now, metadata);
        self.leaders.check();
        self.majorities.check(now);
        self.catch_up.check(now);
    }

    fn check_readiness(&mut self) {
        if !self.has_logged_ready && self.readiness.check().is_ready() {
            self.has_logged_ready = true;
            log_ready(
                &self.groups,
                self.readiness.metadata_state(),
                self.started_at,
            );
        }
    }
}
