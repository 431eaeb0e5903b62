//! The page: first line, findings that need an operator, nodes; groups, regions and snapshots that
//! aren't in their normal state; and all of them with `--verbose`.

use super::model::{GroupReport, NodeReport, RegionReport, SnapshotReport, StatusReport};
use super::names::NodeNames;
use super::text::{format_bytes, format_millis, format_table, wrap_line};
use super::{attention, headline};

/// Maximum normal lag of a member under load, in entries.
const MAX_NORMAL_LAG_ENTRIES: u64 = 10_000;
/// Maximum normal replication lag to another region, and silence of it, in milliseconds.
const MAX_NORMAL_DELAY_MS: f64 = 5000.0;

/// Builds the page.
pub(super) fn page(status: &StatusReport, verbose: bool) -> String {
    let names = NodeNames::of(status);
    let mut lines = wrap_line(&headline::headline(status, &names), 0);
    for finding in attention::findings(status) {
        lines.extend(wrap_line(&format!("! {finding}"), 2));
    }
    let sections = [
        node_table(status, &names, verbose),
        region_table(status, verbose),
        group_table(status, &names, verbose),
        snapshot_lines(status, &names, verbose),
        if verbose {
            this_node_lines(status)
        } else {
            vec![]
        },
    ];
    for section in sections.into_iter().filter(|section| !section.is_empty()) {
        lines.push(String::new());
        lines.extend(section);
    }
    lines.iter().map(|line| format!("{line}\n")).collect()
}

fn node_table(status: &StatusReport, names: &NodeNames, verbose: bool) -> Vec<String> {
    let mut all: Vec<&NodeReport> = status.nodes.iter().collect();
    let name = |node: &NodeReport| names.get(node.id);
    all.sort_by_cached_key(|node| {
        (
            node.region != status.region,
            node.region.clone(),
            name(node),
        )
    });
    let rows: Vec<Vec<String>> = all
        .iter()
        .map(|node| {
            let mut row = vec![
                node.region.clone(),
                name(node),
                node_state(status, node),
                node.shards.to_string(),
                node.http.clone(),
            ];
            if verbose {
                let time = |time: Option<f64>| time.map_or_else(String::new, format_millis);
                row.extend([
                    node.rpc.clone(),
                    time(node.round_trip_ms),
                    time(node.clock_offset_ms.map(f64::abs)),
                    node.version.clone(),
                    node.id.to_string(),
                ]);
            }
            row
        })
        .collect();
    let mut titles = vec!["REGION", "NODE", "STATE", "SHARDS", "HTTP"];
    if verbose {
        titles.extend(["RPC", "ROUND TRIP", "CLOCK OFFSET", "VERSION", "NUMBER"]);
    }
    format_table(&titles, &rows, verbose)
}

fn node_state(status: &StatusReport, node: &NodeReport) -> String {
    if let Some(seconds) = node.removed_seconds {
        return format!("removed {} ago", format_millis(seconds as f64 * 1e3));
    }
    let state = match (node.state.as_str(), node.alive) {
        ("decommissioning", true) => "decommissioning",
        ("decommissioning", false) => "decommissioning, unreachable",
        (_, true) => "up",
        (_, false) => "unreachable",
    };
    if node.id == status.node {
        format!("{state}, this node")
    } else {
        state.to_owned()
    }
}

fn region_table(status: &StatusReport, verbose: bool) -> Vec<String> {
    let others = status.regions.iter().filter(|region| !region.here);
    let rows: Vec<Vec<String>> = others
        .filter(|region| verbose || !is_normal_region(region))
        .map(|region| {
            let behind: u64 = region.shards.iter().map(|shard| shard.behind).sum();
            let longest = |time: fn(&super::model::RegionShardReport) -> Option<f64>| {
                let longest = region.shards.iter().filter_map(time).reduce(f64::max);
                longest.map_or_else(String::new, format_millis)
            };
            vec![
                region.name.clone(),
                region_state(region),
                format!("{behind} changes"),
                longest(|shard| shard.lag_ms),
                longest(|shard| shard.silent_ms),
            ]
        })
        .collect();
    if rows.is_empty() {
        return vec![];
    }
    let titles = ["REGION", "STATE", "BACKLOG", "DELAY", "SILENT FOR"];
    format_table(&titles, &rows, verbose)
}

fn region_state(region: &RegionReport) -> String {
    match &region.waits_for {
        Some(others) if region.leaving => {
            format!("leaving, waits for {}", others.join(", "))
        }
        _ if region.leaving => "leaving".to_owned(),
        _ if region.joining => "joining".to_owned(),
        _ => "up".to_owned(),
    }
}

fn is_normal_region(region: &RegionReport) -> bool {
    let is_slow = |time: Option<f64>| time.is_some_and(|time| time > MAX_NORMAL_DELAY_MS);
    let is_behind = |shard: &super::model::RegionShardReport| {
        is_slow(shard.silent_ms) || (shard.behind > 0 && is_slow(shard.lag_ms))
    };
    !region.joining && !region.leaving && !region.shards.iter().any(is_behind)
}

fn group_table(status: &StatusReport, names: &NodeNames, verbose: bool) -> Vec<String> {
    let shown = status.groups.iter();
    let shown = shown.filter(|group| verbose || !is_normal_group(group));
    let rows: Vec<Vec<String>> = shown
        .map(|group| {
            let behind = group.behind();
            let behind: Vec<String> = behind
                .map(|(node, entries)| format!("{} by {entries}", names.get(node)))
                .collect();
            let leader = group
                .leader
                .map_or_else(|| "none".to_owned(), |it| names.get(it));
            let state = match (group.damaged, group.changing) {
                (true, _) => "damaged on this node",
                (false, true) => "members are being changed",
                (false, false) => "",
            };
            vec![
                group.group.clone(),
                leader,
                names.list(&group.voters),
                names.list(&group.learners),
                behind.join(", "),
                state.to_owned(),
            ]
        })
        .collect();
    if rows.is_empty() {
        return vec![];
    }
    let titles = ["GROUP", "LEADER", "VOTERS", "LEARNERS", "BEHIND", "STATE"];
    format_table(&titles, &rows, verbose)
}

fn is_normal_group(group: &GroupReport) -> bool {
    let lags = group
        .behind()
        .any(|(_, entries)| entries > MAX_NORMAL_LAG_ENTRIES);
    group.leader.is_some() && !group.damaged && !group.changing && !lags
}

fn snapshot_lines(status: &StatusReport, names: &NodeNames, verbose: bool) -> Vec<String> {
    let shown = status.snapshots.iter();
    let shown = shown.filter(|snapshot| verbose || snapshot.state == "running");
    shown
        .map(|snapshot| snapshot_line(snapshot, names))
        .collect()
}

fn snapshot_line(snapshot: &SnapshotReport, names: &NodeNames) -> String {
    let preposition = if snapshot.direction == "sent" {
        "to"
    } else {
        "from"
    };
    let node = names.get(snapshot.node);
    let mut line = format!(
        "snapshot of {} {preposition} {node}: {}, {} at {:.1} MiB/s",
        snapshot.group,
        snapshot.state,
        format_bytes(snapshot.bytes),
        snapshot.mib_per_second
    );
    if let Some(error) = &snapshot.error {
        line += &format!(": {error}");
    }
    line
}

/// Lines about this node and its disk.
fn this_node_lines(status: &StatusReport) -> Vec<String> {
    let accounts = format!("{} accounts, {} buckets", status.accounts, status.buckets);
    let disk = format!(
        "{} free; the log takes {}, the state {}",
        format_bytes(status.disk_free_bytes),
        format_bytes(status.log_disk_bytes),
        format_bytes(status.state_disk_bytes)
    );
    let rows = [
        (
            "this node",
            format!(
                "{}, number {}, version {}",
                status.name, status.node, status.version
            ),
        ),
        ("cluster", status.cluster.clone()),
        ("holds", accounts),
        ("data directory", status.data_dir.clone()),
        ("disk", disk),
    ];
    let lines = rows.iter();
    lines
        .map(|(title, text)| format!("{title:16}{text}"))
        .collect()
}
