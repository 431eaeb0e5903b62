//! Logs changes of the topology, once each: whether any node responds, and which regions can be
//! served.

use std::collections::BTreeMap;
use std::time::{Duration, Instant};

use cloudkv_common::telemetry::presence::{Change, Presence};

use super::view::RegionView;

/// Interval at which it is logged that no node responds.
const SILENCE_INTERVAL: Duration = Duration::from_secs(10);
/// Time for a region to become available after it was first seen.
const SERVED_WITHIN: Duration = Duration::from_secs(5);
/// Unavailability of a region that isn't logged, since ordinary elections take as long.
const TOLERATED: Duration = Duration::from_secs(1);

/// Logged state.
pub(super) struct Journal {
    began: Instant,
    /// Reason of the last failure per address.
    failures: BTreeMap<String, String>,
    silence: Option<Silence>,
    served: Presence<u32>,
    told_ready: bool,
}

/// Times since when no node responds, and of the last event about it.
struct Silence {
    since: Instant,
    told: Instant,
}

impl Journal {
    /// Creates the state, with nothing logged yet.
    pub fn new() -> Self {
        Self {
            began: Instant::now(),
            failures: BTreeMap::new(),
            silence: None,
            served: Presence::new(SERVED_WITHIN, TOLERATED),
            told_ready: false,
        }
    }

    /// Records that the node at an address couldn't be watched.
    pub fn failed(&mut self, address: String, reason: String) {
        self.failures.insert(address, reason);
    }

    /// Records a report of the node at an address.
    pub fn heard(&mut self, address: &str) {
        self.failures.remove(address);
    }

    /// Logs if no node reports, with the reason for each watched address.
    pub fn look_at_silence(&mut self, now: Instant, has_report: bool, watched: &[String]) {
        self.failures.retain(|address, _| watched.contains(address));
        if has_report {
            if let Some(silence) = self.silence.take() {
                let after = seconds(now.duration_since(silence.since));
                tracing::info!(after, "a node responds");
            }
            return;
        }
        // Nothing is logged before all addresses were tried.
        let are_tried = watched.iter().all(|it| self.failures.contains_key(it));
        let is_over = |logged: Instant| now.duration_since(logged) >= SILENCE_INTERVAL;
        let is_due = self.silence.as_ref().is_none_or(|it| is_over(it.told));
        if watched.is_empty() || !are_tried || !is_due {
            return;
        }
        let since = self.silence.as_ref().map_or(now, |it| it.since);
        self.silence = Some(Silence { since, told: now });
        let reasons = self.failures.iter();
        let reasons: Vec<String> = reasons
            .map(|(address, reason)| format!("{address}: {reason}"))
            .collect();
        tracing::warn!(
            reasons = reasons.join("; "),
            "no node answers, retrying: seeds must be the rpc addresses of running nodes"
        );
    }

    /// Logs regions that become unavailable, or available again.
    pub fn look_at_regions(&mut self, now: Instant, regions: &[RegionView]) {
        let all: BTreeMap<u32, bool> = regions
            .iter()
            .map(|region| (region.number, region.is_healthy()))
            .collect();
        if !self.told_ready && all.values().any(|is_healthy| *is_healthy) {
            self.told_ready = true;
            let names: Vec<&str> = regions.iter().map(|region| region.name.as_str()).collect();
            let nodes: usize = regions.iter().map(|region| region.nodes.len()).sum();
            let (after, regions) = (seconds(now.duration_since(self.began)), names.join(", "));
            tracing::info!(after, regions, nodes, "ready");
        }
        let name = |number: u32| {
            let region = regions.iter().find(|region| region.number == number);
            region.map(|region| region.name.as_str())
        };
        for change in self.served.look(now, &all) {
            match change {
                Change::Lost(number) => {
                    let region = regions.iter().find(|region| region.number == number);
                    let reason = region.map(unserved).unwrap_or_default();
                    tracing::warn!(region = name(number), reason, "region can't be served");
                }
                Change::Back(number, after) => {
                    let after = seconds(after);
                    tracing::info!(region = name(number), after, "region is served again");
                }
            }
        }
    }
}

/// Reason for which not all of a region can be served.
fn unserved(region: &RegionView) -> String {
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

fn seconds(time: Duration) -> String {
    format!("{:.1} s", time.as_secs_f64())
}
