//! Logs changes of the topology, once each: whether any node responds, and which regions can be
//! served.

use std::collections::BTreeMap;
use std::time::{Duration, Instant};

use cloudkv_common::telemetry::presence::{PresenceChange, PresenceTracker};

use super::region_choice::RegionDecision;
use super::view::RegionView;

/// Interval at which it is logged that no node responds.
const SILENCE_INTERVAL: Duration = Duration::from_secs(10);
/// Time for a region to become available after it was first seen.
const FIRST_SERVED_TIMEOUT: Duration = Duration::from_secs(5);
/// Unavailability of a region that isn't logged, since ordinary elections take as long.
const UNAVAILABILITY_TOLERANCE: Duration = Duration::from_secs(1);

/// Logged state.
pub(super) struct EventLog {
    started_at: Instant,
    /// Reason of the last failure per address.
    failures: BTreeMap<String, String>,
    silence: Option<Silence>,
    availability: PresenceTracker<u32>,
    has_logged_ready: bool,
}

/// Times since when no node responds, and of the last event about it.
struct Silence {
    since: Instant,
    last_logged: Instant,
}

impl EventLog {
    /// Creates the state, with nothing logged yet.
    pub(super) fn new() -> Self {
        Self {
            started_at: Instant::now(),
            failures: BTreeMap::new(),
            silence: None,
            availability: PresenceTracker::new(FIRST_SERVED_TIMEOUT, UNAVAILABILITY_TOLERANCE),
            has_logged_ready: false,
        }
    }

    /// Records that the node at an address couldn't be watched.
    pub(super) fn record_failure(&mut self, address: String, reason: String) {
        self.failures.insert(address, reason);
    }

    /// Records a report of the node at an address.
    pub(super) fn record_report(&mut self, address: &str) {
        self.failures.remove(address);
    }

    /// Logs if no node reports, with the reason for each watched address.
    pub(super) fn check_silence(&mut self, now: Instant, has_report: bool, watched: &[String]) {
        self.failures.retain(|address, _| watched.contains(address));
        if has_report {
            if let Some(silence) = self.silence.take() {
                let after = format_seconds(now.duration_since(silence.since));
                tracing::info!(after, "a node responds");
            }
            return;
        }
        // Nothing is logged before all addresses were tried.
        let are_tried = watched.iter().all(|it| self.failures.contains_key(it));
        let is_over = |logged: Instant| now.duration_since(logged) >= SILENCE_INTERVAL;
        let is_due = self
            .silence
            .as_ref()
            .is_none_or(|it| is_over(it.last_logged));
        if watched.is_empty() || !are_tried || !is_due {
            return;
        }
        let since = self.silence.as_ref().map_or(now, |it| it.since);
        self.silence = Some(Silence {
            since,
            last_logged: now,
        });
        let silent_for = format_seconds(now.duration_since(since));
        let reasons = self.failures.iter();
        let reasons: Vec<String> = reasons
            .map(|(address, reason)| format!("{address}: {reason}"))
            .collect();
        tracing::warn!(
            silent_for,
            reasons = reasons.join("; "),
            "no node answers, retrying: seeds must be the rpc addresses of running nodes"
        );
    }

    /// Logs regions that become unavailable, or available again.
    pub(super) fn check_regions(&mut self, now: Instant, regions: &[RegionView]) {
        let all: BTreeMap<u32, bool> = regions
            .iter()
            .map(|region| (region.number, region.is_healthy()))
            .collect();
        if !self.has_logged_ready && all.values().any(|is_healthy| *is_healthy) {
            self.has_logged_ready = true;
            let names: Vec<&str> = regions.iter().map(|region| region.name.as_str()).collect();
            let nodes: usize = regions.iter().map(|region| region.nodes.len()).sum();
            let (after, regions) = (
                format_seconds(now.duration_since(self.started_at)),
                names.join(", "),
            );
            tracing::info!(after, regions, nodes, "ready");
        }
        let name = |number: u32| {
            let region = regions.iter().find(|region| region.number == number);
            region.map(|region| region.name.as_str())
        };
        for change in self.availability.update(now, &all) {
            match change {
                PresenceChange::Lost(number) => {
                    let region = regions.iter().find(|region| region.number == number);
                    let reason = region.map(unavailability_reason).unwrap_or_default();
                    tracing::warn!(region = name(number), reason, "region can't be served");
                }
                PresenceChange::Recovered(number, after) => {
                    let after = format_seconds(after);
                    tracing::info!(region = name(number), after, "region is served again");
                }
            }
        }
    }
}

/// Logs the choice of the current region, which the global name selects.
pub(super) fn log_region_decision<'a>(
    decision: &RegionDecision,
    name_of: impl Fn(u32) -> Option<&'a str>,
) {
    let (reason, to) = (decision.reason, name_of(decision.to));
    match decision.from.map(name_of) {
        None => tracing::info!(region = to, %reason, "current region chosen"),
        Some(from) => tracing::warn!(from, to, %reason, "current region changed"),
    }
}

/// Reason for which not all of a region can be served.
fn unavailability_reason(region: &RegionView) -> String {
    let up = region.nodes.iter().filter(|node| node.is_up()).count();
    let nodes = region.nodes.len();
    if up == 0 {
        return format!("none of its {nodes} nodes answers");
    }
    let is_led = |leader: &Option<usize>| {
        let node = leader.and_then(|index| region.nodes.get(index));
        node.is_some_and(|node| node.is_up())
    };
    let led_shards = region.leaders.iter().filter(|it| is_led(it)).count();
    let shards = region.leaders.len();
    format!(
        "{up} of its {nodes} nodes answer, and {led_shards} of its {shards} shards have a leader \
         among them"
    )
}

fn format_seconds(time: Duration) -> String {
    format!("{:.1} s", time.as_secs_f64())
}
