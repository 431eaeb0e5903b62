//! The first line: what is served, and what the next loss costs.

use std::collections::{BTreeMap, BTreeSet};

use super::model::{Group, Status, Unserved};
use super::names::Names;

/// The first line, without its end.
pub(super) fn headline(status: &Status, names: &Names) -> String {
    let line = match status.home() {
        Some(home) if home.joining => format!(
            "not serving yet: region {} joins, and takes over what the others have",
            home.name
        ),
        Some(_) | None => shards(status, names),
    };
    match status.unserved.iter().find(|it| it.group == "meta") {
        Some(meta) => format!(
            "{line}; buckets can't be created or changed: {}",
            reason(meta, "voters of the metadata", names)
        ),
        None => line,
    }
}

fn shards(status: &Status, names: &Names) -> String {
    let lost = status.unserved.iter().filter(|it| it.group != "meta");
    let lost: Vec<&Unserved> = lost.collect();
    if lost.is_empty() {
        return format!("{}; {}", served(status), next_loss(status, names));
    }
    let mut by_reason: BTreeMap<String, Vec<&str>> = BTreeMap::new();
    for group in lost {
        let reason = reason(group, "nodes", names);
        by_reason.entry(reason).or_default().push(&group.group);
    }
    let parts = by_reason.iter();
    let parts = parts.map(|(reason, groups)| format!("{}: {reason}", ranges(groups)));
    format!("not serving {}", parts.collect::<Vec<_>>().join("; "))
}

/// Why a group isn't served.
fn reason(group: &Unserved, what: &str, names: &Names) -> String {
    let (silent, all) = (group.unreachable.len(), group.voters.len());
    if silent == 0 {
        return "no leader is elected yet".to_owned();
    }
    let list = names.list(&group.unreachable);
    format!("{silent} of {all} {what} unreachable ({list})")
}

fn served(status: &Status) -> String {
    match status.shards {
        1 => format!("serving the one shard of region {}", status.region),
        shards => format!("serving all {shards} shards of region {}", status.region),
    }
}

/// What it costs to lose another node.
fn next_loss(status: &Status, names: &Names) -> String {
    if status.survives.starts_with("the loss of any one node") {
        return "it survives the loss of any one node".to_owned();
    }
    let shards: Vec<&Group> = status.groups.iter().filter(|it| it.is_shard()).collect();
    let silent: Vec<u64> = status
        .near()
        .filter(|node| !node.alive)
        .map(|node| node.id)
        .collect();
    if shards.iter().all(|group| group.voters.len() >= 3) && !silent.is_empty() {
        return format!(
            "{} isn't heard of, and the loss of one more node ({}) stops shards",
            names.list(&silent),
            critical(&shards, &silent, names)
        );
    }
    if status.groups.iter().any(|group| group.changing) {
        return "it survives no loss yet: members are being changed".to_owned();
    }
    match status.near().count() {
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

/// The nodes without which some shard would have no majority.
fn critical(shards: &[&Group], silent: &[u64], names: &Names) -> String {
    let mut critical = BTreeSet::new();
    for group in shards {
        let living = group.voters.iter().filter(|node| !silent.contains(node));
        let living: Vec<u64> = living.copied().collect();
        if living.len() == group.voters.len() / 2 + 1 {
            critical.extend(living);
        }
    }
    names.sorted(critical).join(" or ")
}

/// Names of groups, those that follow each other as `first to last`.
pub(super) fn ranges(groups: &[&str]) -> String {
    let number = |group: &str| group.strip_prefix("shard-")?.parse::<u64>().ok();
    let mut parts: Vec<(u64, u64)> = Vec::new();
    let mut numbers: Vec<u64> = groups.iter().filter_map(|group| number(group)).collect();
    numbers.sort_unstable();
    for number in numbers {
        match parts.last_mut() {
            Some((_, last)) if *last + 1 == number => *last = number,
            _ => parts.push((number, number)),
        }
    }
    let part = |(first, last): &(u64, u64)| match last - first {
        0 => format!("shard-{first}"),
        1 => format!("shard-{first}, shard-{last}"),
        _ => format!("shard-{first} to shard-{last}"),
    };
    parts.iter().map(part).collect::<Vec<_>>().join(", ")
}
