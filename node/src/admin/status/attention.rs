//! Findings that need an operator, in order of importance.

use std::collections::BTreeMap;

use super::model::{NodeReport, StatusReport, UnservedGroup};
use super::names::NodeNames;
use super::text;
use crate::admin::shard_ranges::format_ranges;
use crate::types::NodeId;

/// Maximum offset of another node's clock, as in `cluster::MAX_CLOCK_OFFSET`.
const MAX_OFFSET_MS: f64 = 250.0;
/// Remaining days of a certificate below which it should have been renewed.
const MIN_DAYS_LEFT: u64 = 14;

/// Returns all findings, each with advice.
pub(super) fn findings(status: &StatusReport) -> Vec<String> {
    let names = NodeNames::of(status);
    let mut findings = Vec::new();
    nodes(status, &names, &mut findings);
    clocks(status, &names, &mut findings);
    this_node(status, &mut findings);
    regions(status, &mut findings);
    findings
}

fn nodes(status: &StatusReport, names: &NodeNames, findings: &mut Vec<String>) {
    let unreachable = status.nodes.iter().filter(|node| node.is_unreachable());
    let (of_lost_regions, others): (Vec<&NodeReport>, Vec<&NodeReport>) =
        unreachable.partition(|node| status.is_region_unreachable(node.region_name()));
    let mut lost_regions: BTreeMap<&str, Vec<NodeId>> = BTreeMap::new();
    for node in of_lost_regions {
        let nodes = lost_regions.entry(node.region_name()).or_default();
        nodes.push(node.id);
    }
    for (region, nodes) in lost_regions {
        findings.extend(unreachable_region_finding(status, region, &nodes, names));
    }
    for node in others {
        let name = names.get(node.id);
        let advice = unreachable_node_advice(status, node, &names.argument(node.id));
        let reason = node.unreachable_reason.as_ref();
        let reason = reason.map_or_else(String::new, |reason| format!(" ({reason})"));
        findings.push(format!("node {name} is unreachable{reason}: {advice}"));
    }
}

/// Finding about a region of which no node can be reached, so that none of them can be replaced;
/// `None` while it is being removed.
fn unreachable_region_finding(
    status: &StatusReport,
    region: &str,
    nodes: &[NodeId],
    names: &NodeNames,
) -> Option<String> {
    let mut regions = status.regions.iter();
    if regions.any(|it| it.leaving && it.name == region) {
        return None;
    }
    let (its_nodes, if_lost) = match nodes.len() {
        1 => ("its node", "it is lost"),
        _ => ("its nodes", "all are lost"),
    };
    let metadata = status.unserved_metadata();
    let advice = if metadata.is_some_and(|group| !group.has_majority()) {
        format!(
            "start {its_nodes}; `remove-region` works only while most voters of the metadata can \
             be reached"
        )
    } else {
        format!(
            "start {its_nodes}; if {if_lost} for good, `cloudkv-node admin remove-region {region}`"
        )
    };
    let nodes = names.list(nodes);
    Some(format!(
        "region {region} is unreachable ({nodes}): {advice}"
    ))
}

/// Beginning of the reason for which a node isn't reached whose address another cluster has: it
/// has lost its data directory, and was started with `--init`.
const OTHER_CLUSTER: &str = "another cluster answers";

/// Beginning of the reason for which a member isn't reached at whose address a new node waits to be
/// admitted.
const NEW_NODE: &str = "a new node waits at its address";

/// Advice about a node that can't be reached, which commands find by `argument`. It can be replaced
/// only while the metadata has a majority, and shouldn't be where a shard would have none for good.
fn unreachable_node_advice(status: &StatusReport, node: &NodeReport, argument: &str) -> String {
    let has_no_majority = |group: &&UnservedGroup| !group.has_majority();
    if status
        .unserved_metadata()
        .is_some_and(|group| !group.has_majority())
    {
        return "start it; `replace` works only while most voters of the metadata can be reached"
            .to_owned();
    }
    let lost = status.unserved.iter().filter(has_no_majority);
    let lost = lost.filter(|group| group.unreachable.contains(&node.id));
    let lost: Vec<&str> = lost.map(|group| group.group.as_str()).collect();
    let reason = node.unreachable_reason.as_deref().unwrap_or_default();
    if lost.is_empty() && reason.starts_with(OTHER_CLUSTER) {
        return format!(
            "stop that node, empty its data directory, start it with --join, and run \
             `cloudkv-node admin replace {argument}`"
        );
    }
    if lost.is_empty() && reason.starts_with(NEW_NODE) {
        return format!(
            "if the member is lost for good, `cloudkv-node admin replace {argument}` admits the new \
             node; else stop that one, and start the member"
        );
    }
    if lost.is_empty() {
        return format!(
            "start it; if it is lost for good, `cloudkv-node admin replace {argument}`"
        );
    }
    format!(
        "start it; don't `replace` it while most voters of {} are unreachable",
        format_ranges(&lost)
    )
}

/// Clocks of nodes that differ. Those of healthy nodes aren't blamed by a node whose own one is
/// off.
fn clocks(status: &StatusReport, names: &NodeNames, findings: &mut Vec<String>) {
    let known = status.nodes.iter().filter(|node| !node.is_removed());
    let known: Vec<(&NodeReport, f64)> = known
        .filter_map(|node| Some((node, node.clock_offset_ms.filter(|_| node.alive)?)))
        .collect();
    let (off, near): (Vec<_>, Vec<_>) = known.into_iter().partition(|(node, offset)| {
        // The offset is known only up to half of the round trip.
        offset.abs() > MAX_OFFSET_MS + node.round_trip_ms.unwrap_or(0.0) / 2.0
    });
    if !status.clock_ok {
        let others = status.nodes.iter();
        let others = others.filter(|node| !node.is_removed() && node.id != status.node);
        // Until most of them are heard, the few may be the ones that are off.
        let is_decided = off.len() > near.len() && 2 * (off.len() + near.len()) > others.count();
        let offsets = off.iter().filter(|_| is_decided);
        let offsets = offsets.map(|(_, offset)| *offset).collect();
        findings.push(own_clock_finding(offsets));
        return;
    }
    let is_undecided = off.len() > near.len();
    for (node, offset) in off {
        let (name, offset) = (names.get(node.id), text::format_millis(offset.abs()));
        findings.push(if is_undecided {
            format!(
                "the clocks of this node and of node {name} differ by {offset}, and too few others \
                 tell which one is off: set both right, with NTP, and restart the node that was off"
            )
        } else {
            format!(
                "the clock of node {name} is off by {offset}: set it right, with NTP, and restart \
                 the node"
            )
        });
    }
}

/// Finding about the clock of this node, by how far those of others are ahead, in milliseconds.
fn own_clock_finding(mut offsets: Vec<f64>) -> String {
    offsets.sort_by(f64::total_cmp);
    let Some(middle) = offsets.get(offsets.len() / 2) else {
        return "the clock of this node can't be compared with those of most others yet: the node \
                neither leads nor writes"
            .to_owned();
    };
    let direction = if *middle > 0.0 { "behind" } else { "ahead of" };
    format!(
        "the clock of this node is {} {direction} those of others, so the node neither leads nor \
         writes: set it right, with NTP, and restart the node",
        text::format_millis(middle.abs())
    )
}

fn this_node(status: &StatusReport, findings: &mut Vec<String>) {
    findings.extend(disk_finding(status));
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
            "replicas of a group differed after the same entry: the log of this node names the \
             group"
                .to_owned(),
        );
    }
    match &status.certificate {
        Some(certificate) if certificate.stale => findings.push(
            "new certificate files can't be used: the log of this node gives the reason".to_owned(),
        ),
        Some(certificate) if certificate.days_left < MIN_DAYS_LEFT => findings.push(format!(
            "the certificate of this node expires {}: renew it",
            text::format_days_left(certificate.days_left)
        )),
        Some(_) | None => {}
    }
}

/// Finding about a disk below its low-water mark: which writes are still accepted, and what frees
/// space.
fn disk_finding(status: &StatusReport) -> Option<String> {
    let advice = match status.disk_state.as_str() {
        "ample" | "" => return None,
        "exhausted" => {
            "the node takes no writes, deletions included: free disk space by other means, enlarge \
             the disk, or lower the mark"
        }
        _ => {
            "the node takes only writes that don't grow: delete keys or buckets, free disk space, \
             or lower the mark"
        }
    };
    Some(format!(
        "the disk of this node is {}, with {} free and a low-water mark (disk_low_water_mib) of \
         {}: {advice}",
        status.disk_state,
        text::format_bytes(status.disk_free_bytes),
        text::format_bytes(status.disk_low_water_bytes)
    ))
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
