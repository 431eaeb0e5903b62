//! The first line: availability, and the consequences of the next loss.

use std::collections::{BTreeMap, BTreeSet};

use super::model::{GroupReport, StatusReport, UnservedGroup};
use super::names::NodeNames;
use crate::admin::shard_ranges::format_ranges;
use crate::types::NodeId;

/// Builds the first line, without a newline.
pub(super) fn headline(status: &StatusReport, names: &NodeNames) -> String {
    let line = match status.home_region() {
        Some(home) if home.joining => format!(
            "not serving yet: region {} joins, and is seeded from another region",
            home.name
        ),
        Some(_) | None => availability(status, names),
    };
    match status.unserved_metadata() {
        Some(meta) => format!(
            "{line}; buckets can't be created or changed: {}",
            unserved_reason(meta, names)
        ),
        None => line,
    }
}

fn availability(status: &StatusReport, names: &NodeNames) -> String {
    let lost = status.unserved.iter().filter(|it| it.group != "meta");
    let lost: Vec<&UnservedGroup> = lost.collect();
    if lost.is_empty() {
        return format!("{}; {}", format_served(status), next_loss(status, names));
    }
    let mut by_reason: BTreeMap<String, Vec<&str>> = BTreeMap::new();
    for group in lost {
        let reason = unserved_reason(group, names);
        by_reason.entry(reason).or_default().push(&group.group);
    }
    let parts = by_reason.iter();
    let parts = parts.map(|(reason, groups)| format!("{}: {reason}", format_ranges(groups)));
    format!("not serving {}", parts.collect::<Vec<_>>().join("; "))
}

/// Reason for which a group isn't served: too few voters, or a leader that is being elected.
fn unserved_reason(group: &UnservedGroup, names: &NodeNames) -> String {
    let (unreachable, all) = (group.unreachable.len(), group.voters.len());
    if unreachable == 0 {
        return "no leader is elected yet".to_owned();
    }
    let (member, members) = match group.group.as_str() {
        "meta" => ("voter of the metadata", "voters of the metadata"),
        _ => ("voter", "voters"),
    };
    let list = names.list(&group.unreachable);
    if all == 1 {
        return format!("the only {member} is unreachable ({list})");
    }
    let lost = format!("{unreachable} of {all} {members} unreachable ({list})");
    if group.has_majority() {
        return format!("no leader is elected yet, with {lost}");
    }
    lost
}

fn format_served(status: &StatusReport) -> String {
    match status.shards {
        1 => format!("serving the one shard of region {}", status.region),
        shards => format!("serving all {shards} shards of region {}", status.region),
    }
}

/// Describes the consequences of losing another node.
fn next_loss(status: &StatusReport, names: &NodeNames) -> String {
    if status.survives.starts_with("the loss of any one node") {
        return "it survives the loss of any one node".to_owned();
    }
    let shards: Vec<&GroupReport> = status.groups.iter().filter(|it| it.is_shard()).collect();
    let unreachable: Vec<NodeId> = status
        .region_nodes()
        .filter(|node| node.is_unreachable())
        .map(|node| node.id)
        .collect();
    if shards.iter().all(|group| group.voters.len() >= 3) && !unreachable.is_empty() {
        let verb = if unreachable.len() == 1 { "is" } else { "are" };
        return format!(
            "{} {verb} unreachable, and the loss of one more node ({}) stops shards",
            names.list(&unreachable),
            critical_nodes(&shards, &unreachable, names)
        );
    }
    if status.groups.iter().any(|group| group.changing) {
        return "it survives no loss yet: members are being changed".to_owned();
    }
    match status.region_nodes().count() {
        0 | 1 => {
            "the loss of its only node stops it: a region needs three to survive one".to_owned()
        }
        2 => {
            "each shard has one voter, whose loss stops it: a region needs three nodes to survive \
              one"
            .to_owned()
        }
        _ => "it survives no loss yet: its shards are being placed on three nodes".to_owned(),
    }
}

/// Names of the nodes without which some shard would have no majority.
fn critical_nodes(shards: &[&GroupReport], unreachable: &[NodeId], names: &NodeNames) -> String {
    let mut critical = BTreeSet::new();
    for group in shards {
        let alive = group
            .voters
            .iter()
            .filter(|node| !unreachable.contains(node));
        let alive: Vec<NodeId> = alive.copied().collect();
        if alive.len() == group.voters.len() / 2 + 1 {
            critical.extend(alive);
        }
    }
    names.sorted(critical).join(" or ")
}
