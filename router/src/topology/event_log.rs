//! Logs changes of the topology, once each: whether any node responds, and which regions can be
//! served.

use std::collections::BTreeMap;
use std::time::{Duration, Instant};

use cloudkv_common::telemetry::presence::{PresenceChange, PresenceTracker};

use super::region_choice::RegionDecision;
use super::view::RegionView;
use crate::upstream::ReasonLog;

/// Interval at which it is logged that no node responds.
const SILENCE_INTERVAL: Duration = Duration::from_secs(10);
/// Time for a region to become available after it was first seen.
const FIRST_SERVED_TIMEOUT: Duration = Duration::from_secs(5);
/// Unavailability of a region that isn't logged, since ordinary elections take as long.
const UNAVAILABILITY_TOLERANCE: Duration = Duration::from_secs(1);

/// Logged state.
pub(super) struct EventLog {
    started_at: Instant,
    /// Failures per address.
    failures: BTreeMap<String, Failure>,
    silence: Option<Silence>,
    availability: PresenceTracker<u32>,
    has_logged_ready: bool,
}

/// Failure to watch the node at an address.
#[derive(Default)]
struct Failure {
    /// Reason of the last attempt.
    reason: String,
    log: ReasonLog,
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
        self.failures.entry(address).or_default().reason = reason;
    }

    /// Records a report of the node at an address.
    pub(super) fn record_report(&mut self, address: &str) {
        self.failures.remove(address);
    }

    /// Logs if no node reports, with the reason for each watched address, and then reasons that
    /// change.
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
            for (address, reason) in self.take_changed_reasons(now) {
                tracing::warn!(
                    address,
                    reason,
                    "node is still unreachable, the reason has changed"
                );
            }
            return;
        }
        for failure in self.failures.values_mut() {
            failure.log.record(&failure.reason);
        }
        let since = self.silence.as_ref().map_or(now, |it| it.since);
        self.silence = Some(Silence {
            since,
            last_logged: now,
        });
        let silent_for = format_seconds(now.duration_since(since));
        let reasons = self.failures.iter();
        let reasons: Vec<String> = reasons
            .map(|(address, failure)| format!("{address}: {}", failure.reason))
            .collect();
        tracing::warn!(
            silent_for,
            reasons = reasons.join("; "),
            "no node answers, retrying: seeds must be the rpc addresses of running nodes"
        );
    }

    /// Takes the addresses whose reason has changed since it was logged, each with the last one.
    fn take_changed_reasons(&mut self, now: Instant) -> Vec<(String, String)> {
        let failures = self.failures.iter_mut();
        failures
            .filter_map(|(address, failure)| {
                let is_changed = failure.log.take_change(&failure.reason, now);
                is_changed.then(|| (address.clone(), failure.reason.clone()))
            })
            .collect()
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
        return silent_nodes(nodes);
    }
    let is_led = |leader: &Option<usize>| {
        let node = leader.and_then(|index| region.nodes.get(index));
        node.is_some_and(|node| node.is_up())
    };
    let led_shards = region.leaders.iter().filter(|it| is_led(it)).count();
    let shards = region.leaders.len();
    partly_served((up, nodes), (led_shards, shards))
}

/// Says that none of a region's nodes answers.
fn silent_nodes(nodes: usize) -> String {
    match nodes {
        0 => "it has no nodes".to_owned(),
        1 => "its only node doesn't answer".to_owned(),
        _ => format!("none of its {nodes} nodes answers"),
    }
}

/// Says how many of a region's nodes answer, and how many of its shards they lead.
fn partly_served((up, nodes): (usize, usize), (led_shards, shards): (usize, usize)) -> String {
    let (node_noun, answer) = (noun("node", nodes), verb(up == 1, "answers", "answer"));
    let has_singular = led_shards == 1 || shards == 1;
    let (shard_noun, have) = (noun("shard", shards), verb(has_singular, "has", "have"));
    let among = verb(up == 1, "there", "among them");
    format!(
        "{up} of its {nodes} {node_noun} {answer}, and {led_shards} of its {shards} {shard_noun} \
         {have} a leader {among}"
    )
}

fn noun(singular: &str, count: usize) -> String {
    let ending = if count == 1 { "" } else { "s" };
    format!("{singular}{ending}")
}

fn verb<'a>(is_singular: bool, singular: &'a str, plural: &'a str) -> &'a str {
    if is_singular { singular } else { plural }
}

fn format_seconds(time: Duration) -> String {
    format!("{:.1} s", time.as_secs_f64())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn counts_of_one_are_told_in_the_singular() {
        assert_eq!(silent_nodes(1), "its only node doesn't answer");
        assert_eq!(silent_nodes(3), "none of its 3 nodes answers");
        assert_eq!(
            partly_served((1, 1), (0, 1)),
            "1 of its 1 node answers, and 0 of its 1 shard has a leader there"
        );
        assert_eq!(
            partly_served((1, 3), (1, 3)),
            "1 of its 3 nodes answers, and 1 of its 3 shards has a leader there"
        );
        assert_eq!(
            partly_served((2, 3), (2, 64)),
            "2 of its 3 nodes answer, and 2 of its 64 shards have a leader among them"
        );
    }

    #[test]
    fn a_changed_reason_is_logged_at_once_for_its_address_alone() {
        let (mut log, begin) = (EventLog::new(), Instant::now());
        let at = |seconds| begin + Duration::from_secs(seconds);
        let watched = ["a:1".to_owned(), "b:1".to_owned()];
        let fail = |log: &mut EventLog, address: &str, reason: &str| {
            log.record_failure(address.to_owned(), reason.to_owned());
        };
        let changed = |address: &str, reason: &str| vec![(address.to_owned(), reason.to_owned())];
        fail(&mut log, "a:1", "refused");
        fail(&mut log, "b:1", "refused");
        assert!(
            log.take_changed_reasons(begin).is_empty(),
            "none was logged"
        );
        log.check_silence(begin, false, &watched);
        fail(&mut log, "a:1", "refused");
        assert!(log.take_changed_reasons(at(1)).is_empty());
        fail(&mut log, "a:1", "another CA");
        assert_eq!(
            log.take_changed_reasons(at(2)),
            changed("a:1", "another CA")
        );
        assert!(log.take_changed_reasons(at(3)).is_empty());
        fail(&mut log, "a:1", "no response");
        fail(&mut log, "b:1", "another CA");
        assert_eq!(
            log.take_changed_reasons(at(4)),
            changed("b:1", "another CA")
        );
        // The line about all addresses has the last reasons.
        log.check_silence(at(10), false, &watched);
        assert!(log.take_changed_reasons(at(30)).is_empty());
        fail(&mut log, "a:1", "refused");
        assert_eq!(log.take_changed_reasons(at(31)), changed("a:1", "refused"));
    }

    #[test]
    fn a_failure_after_a_report_is_a_new_one() {
        let (mut log, begin) = (EventLog::new(), Instant::now());
        log.record_failure("a:1".to_owned(), "refused".to_owned());
        log.check_silence(begin, false, &["a:1".to_owned()]);
        log.record_report("a:1");
        log.record_failure("a:1".to_owned(), "no response".to_owned());
        assert!(log.take_changed_reasons(begin).is_empty());
    }
}
