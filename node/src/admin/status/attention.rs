//! Findings that need an operator, in order of importance.

use super::model::{NodeReport, StatusReport};
use super::names::NodeNames;
use super::text;

/// Maximum offset of another node's clock, as in `cluster::MAX_CLOCK_OFFSET`.
const MAX_OFFSET_MS: f64 = 250.0;
/// Remaining days of a certificate below which it should have been renewed.
const MIN_DAYS_LEFT: u64 = 14;

/// Returns all findings, each with advice.
pub(super) fn findings(status: &StatusReport) -> Vec<String> {
    let names = NodeNames::of(status);
    let mut findings = Vec::new();
    nodes(status, &names, &mut findings);
    this_node(status, &mut findings);
    regions(status, &mut findings);
    findings
}

fn nodes(status: &StatusReport, names: &NodeNames, findings: &mut Vec<String>) {
    let present = status.nodes.iter().filter(|node| !node.is_removed());
    for node in present.clone().filter(|node| !node.alive) {
        let name = names.get(node.id);
        findings.push(format!(
            "node {name} is unreachable: start it; if it is lost for good, `admin replace {name}`"
        ));
    }
    for node in present {
        if let Some(offset) = clock_deviation(node) {
            let name = names.get(node.id);
            findings.push(format!(
                "the clock of node {name} is off by {offset}: set it right, with NTP"
            ));
        }
    }
}

fn clock_deviation(node: &NodeReport) -> Option<String> {
    let offset = node.clock_offset_ms.filter(|_| node.alive)?;
    // The offset is known only up to half of the round trip.
    let error = node.round_trip_ms.unwrap_or(0.0) / 2.0;
    (offset.abs() > MAX_OFFSET_MS + error).then(|| text::format_millis(offset.abs()))
}

fn this_node(status: &StatusReport, findings: &mut Vec<String>) {
    if !status.clock_ok {
        findings.push(
            "the clock of this node is too far from the others', or can't be compared: the node \
             neither leads nor writes"
                .to_owned(),
        );
    }
    if !matches!(status.disk_state.as_str(), "ample" | "") {
        findings.push(format!(
            "the disk of this node is {}, with {} free: free disk space, or delete buckets",
            status.disk_state,
            text::format_bytes(status.disk_free_bytes)
        ));
    }
    let damaged = status.groups.iter().filter(|group| group.damaged);
    let damaged: Vec<&str> = damaged.map(|group| group.group.as_str()).collect();
    if !damaged.is_empty() {
        findings.push(format!(
            "the state of {} is damaged on this node's disk: have the disk replaced",
            damaged.join(", ")
        ));
    }
    if status.replica_alarms > 0 {
        findings.push(
            "replicas of a shard differed after the same entry: the log of this node names the \
             shard"
                .to_owned(),
        );
    }
    match &status.certificate {
        Some(certificate) if certificate.stale => findings.push(
            "new certificate files can't be used: the log of this node gives the reason".to_owned(),
        ),
        Some(certificate) if certificate.days_left < MIN_DAYS_LEFT => findings.push(format!(
            "the certificate of this node expires in {} days: renew it",
            certificate.days_left
        )),
        Some(_) | None => {}
    }
}

fn regions(status: &StatusReport, findings: &mut Vec<String>) {
    let retained = &status.held_for_regions;
    if matches!(retained.stage.as_str(), "half" | "full") {
        findings.push(format!(
            "{} of {} for changes that other regions lack are used: restart the unreachable \
             region; when all is used, it is removed",
            text::format_bytes(retained.bytes),
            text::format_bytes(retained.budget_bytes)
        ));
    }
    for region in &status.regions {
        if region.shards.iter().any(|shard| shard.alarms > 0) {
            findings.push(format!(
                "region {} and this one disagree on the sent changes: restart nothing, see the log",
                region.name
            ));
        }
    }
}
