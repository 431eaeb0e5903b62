//! Tells in the log what the router sees of the cluster, once each: whether a node answers at all,
//! and which regions can be served.

use std::collections::BTreeMap;
use std::time::{Duration, Instant};

use cloudkv_common::telemetry::presence::{Change, Presence};

use super::view::RegionView;

/// How often it is told that no node answers.
const SILENCE_INTERVAL: Duration = Duration::from_secs(10);
/// Time for a region to be served after it was heard of.
const SERVED_WITHIN: Duration = Duration::from_secs(5);
/// A region that can't be served for a shorter time isn't told of: ordinary elections take as long.
const TOLERATED: Duration = Duration::from_secs(1);

/// What was told.
pub(super) struct Journal {
    began: Instant,
    /// Why each address couldn't be listened to, when that was last tried.
    failures: BTreeMap<String, String>,
    silence: Option<Silence>,
    served: Presence<u32>,
    told_ready: bool,
}

/// No node answers.
struct Silence {
    since: Instant,
    told: Instant,
}

impl Journal {
    /// Nothing told yet.
    pub fn new() -> Self {
        Self {
            began: Instant::now(),
            failures: BTreeMap::new(),
            silence: None,
            served: Presence::new(SERVED_WITHIN, TOLERATED),
            told_ready: false,
        }
    }

    /// A node at an address couldn't be listened to.
    pub fn failed(&mut self, address: String, why: String) {
        self.failures.insert(address, why);
    }

    /// A node at an address was heard.
    pub fn heard(&mut self, address: &str) {
        self.failures.remove(address);
    }

    /// Tells if no node is heard, and why none of those that are asked.
    pub fn look_at_silence(&mut self, now: Instant, hears_a_node: bool, asked: &[String]) {
        self.failures.retain(|address, _| asked.contains(address));
        if hears_a_node {
            if let Some(silence) = self.silence.take() {
                let after = seconds(now.duration_since(silence.since));
                tracing::info!(after, "a node answers");
            }
            return;
        }
        // Before all were tried there is nothing to tell.
        let tried = asked.iter().all(|it| self.failures.contains_key(it));
        let is_due = |told: Instant| now.duration_since(told) >= SILENCE_INTERVAL;
        let due = self.silence.as_ref().is_none_or(|it| is_due(it.told));
        if asked.is_empty() || !tried || !due {
            return;
        }
        let since = self.silence.as_ref().map_or(now, |it| it.since);
        self.silence = Some(Silence { since, told: now });
        let reasons = self.failures.iter();
        let reasons: Vec<String> = reasons.map(|(at, why)| format!("{at}: {why}")).collect();
        tracing::warn!(
            reasons = reasons.join("; "),
            "no node answers, trying again: seeds must be the rpc addresses of nodes that run"
        );
    }

    /// Tells of the regions that can't be served any more, or can again.
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
                    let why = region.map(unserved).unwrap_or_default();
                    tracing::warn!(region = name(number), why, "region can't be served");
                }
                Change::Back(number, after) => {
                    let after = seconds(after);
                    tracing::info!(region = name(number), after, "region is served again");
                }
            }
        }
    }
}

/// Why not all of a region can be served.
fn unserved(region: &RegionView) -> String {
    let up = region.nodes.iter().filter(|node| node.is_up()).count();
    let nodes = region.nodes.len();
    if up == 0 {
        return format!("none of its {nodes} nodes answers");
    }
    let is_led = |leader: &Option<usize>| {
        let node = leader.and_then(|place| region.nodes.get(place));
        node.is_some_and(|node| node.is_up())
    };
    let led = region.leaders.iter().filter(|it| is_led(it)).count();
    let shards = region.leaders.len();
    format!(
        "{up} of its {nodes} nodes answer, and {led} of its {shards} shards have a leader there"
    )
}

fn seconds(time: Duration) -> String {
    format!("{:.1} s", time.as_secs_f64())
}
