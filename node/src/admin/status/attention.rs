//! What needs a person, in the order in which that matters.

use super::model::{Node, Status};
use super::names::Names;
use super::text;

/// Furthest that another node's clock may be, as in `cluster::MAX_OFFSET`.
const MAX_OFFSET_MS: f64 = 250.0;
/// Days before the end of a certificate at which it should have been renewed.
const MIN_DAYS_LEFT: u64 = 14;

/// All of it, each with what to do.
pub(super) fn of(status: &Status) -> Vec<String> {
    let names = Names::of(status);
    let mut found = Vec::new();
    nodes(status, &names, &mut found);
    this_node(status, &mut found);
    regions(status, &mut found);
    found
}

fn nodes(status: &Status, names: &Names, found: &mut Vec<String>) {
    let there = status.nodes.iter().filter(|node| !node.is_removed());
    for node in there.clone().filter(|node| !node.alive) {
        let name = names.get(node.id);
        found.push(format!(
            "node {name} isn't heard of: start it; or, if it is lost for good, `admin replace {name}`"
        ));
    }
    for node in there {
        if let Some(offset) = off_by(node) {
            let name = names.get(node.id);
            found.push(format!(
                "the clock of node {name} is off by {offset}: set it right, with NTP"
            ));
        }
    }
}

fn off_by(node: &Node) -> Option<String> {
    let offset = node.clock_offset_ms.filter(|_| node.alive)?;
    // A slow answer proves nothing.
    let error = node.round_trip_ms.unwrap_or(0.0) / 2.0;
    (offset.abs() > MAX_OFFSET_MS + error).then(|| text::millis(offset.abs()))
}

fn this_node(status: &Status, found: &mut Vec<String>) {
    if !status.clock_ok {
        found.push(
            "the clock of this node is too far from the others', or can't be compared: it neither \
             leads nor writes"
                .to_owned(),
        );
    }
    if !matches!(status.disk_state.as_str(), "ample" | "") {
        found.push(format!(
            "the disk of this node is {}, with {} free: give it room, or delete buckets",
            status.disk_state,
            text::bytes(status.disk_free_bytes)
        ));
    }
    let damaged = status.groups.iter().filter(|group| group.damaged);
    let damaged: Vec<&str> = damaged.map(|group| group.group.as_str()).collect();
    if !damaged.is_empty() {
        found.push(format!(
            "the state of {} is damaged on this node's disk: have the disk replaced",
            damaged.join(", ")
        ));
    }
    if status.replica_alarms > 0 {
        found.push(
            "replicas of a shard held different things after the same entry: the log of this node \
             names the shard"
                .to_owned(),
        );
    }
    match &status.certificate {
        Some(certificate) if certificate.stale => found.push(
            "there are new certificate files that can't be used: the log of this node says why"
                .to_owned(),
        ),
        Some(certificate) if certificate.days_left < MIN_DAYS_LEFT => found.push(format!(
            "the certificate of this node expires in {} days: renew it",
            certificate.days_left
        )),
        Some(_) | None => {}
    }
}

fn regions(status: &Status, found: &mut Vec<String>) {
    let held = &status.held_for_regions;
    if matches!(held.stage.as_str(), "half" | "full") {
        found.push(format!(
            "{} of {} for what other regions lack are taken: bring the region back that is away; \
             when all is taken, it is removed",
            text::bytes(held.bytes),
            text::bytes(held.budget_bytes)
        ));
    }
    for region in &status.regions {
        if region.shards.iter().any(|shard| shard.alarms > 0) {
            found.push(format!(
                "region {} and this one disagree on what was sent: restart nothing, and see the log",
                region.name
            ));
        }
    }
}
