//! The page: first line, findings that need an operator, nodes; groups, regions and snapshots that
//! aren't in their normal state; and all of them with `--verbose`.

use super::model::{
    GroupReport, NodeReport, RegionReport, RegionShardReport, SnapshotReport, StatusReport,
};
use super::names::NodeNames;
use super::text::{
    format_bytes, format_days_left, format_millis, format_offset, format_seconds_ago, format_table,
    wrap_line,
};
use super::{attention, headline};
use crate::admin::counts::format_count;

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
            this_node_lines(status, &names)
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
            !node.is_in(&status.region),
            node.region_name().to_owned(),
            name(node),
        )
    });
    let rows: Vec<Vec<String>> = all
        .iter()
        .map(|node| {
            let mut row = vec![
                node.region_name().to_owned(),
                name(node),
                node_state(status, node),
                node.shards.to_string(),
                node.http.clone(),
            ];
            if verbose {
                row.extend([
                    node.rpc.clone(),
                    node.round_trip_ms.map(format_millis).unwrap_or_default(),
                    node.clock_offset_ms.map(format_offset).unwrap_or_default(),
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
        return format!("removed {}", format_seconds_ago(seconds));
    }
    let state = match (node.state.as_str(), node.alive) {
        ("decommissioning", true) => "decommissioning",
        ("decommissioning", false) => "decommissioning, unreachable",
        (_, true) => "up",
        (_, false) if node.joining => "joining",
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
        .filter(|region| verbose || !is_normal_region(status, region))
        .map(|region| {
            let behind: u64 = region.shards.iter().map(|shard| shard.behind).sum();
            let longest = |time: fn(&RegionShardReport) -> Option<f64>| {
                let longest = region.shards.iter().filter_map(time).reduce(f64::max);
                longest.map_or_else(String::new, format_millis)
            };
            let is_reached = unreached_state(status, region).is_none();
            vec![
                region.name.clone(),
                region_state(status, region),
                format_count(behind, "change"),
                // That of the time before says nothing about what it lacks now.
                if is_reached || behind == 0 {
                    longest(|shard| shard.lag_ms)
                } else {
                    "unknown".to_owned()
                },
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

fn region_state(status: &StatusReport, region: &RegionReport) -> String {
    match &region.waits_for {
        Some(others) if region.leaving => {
            format!("leaving, waits for {}", others.join(", "))
        }
        _ if region.leaving => "leaving".to_owned(),
        _ if region.joining => "joining".to_owned(),
        _ => unreached_state(status, region).unwrap_or_else(|| "up".to_owned()),
    }
}

/// State of a region that isn't reached: all of its shards are silent, or all of its nodes.
fn unreached_state(status: &StatusReport, region: &RegionReport) -> Option<String> {
    let silences = region.shards.iter().map(|shard| shard.silent_ms);
    let shortest = silences.reduce(|one, other| Some(one?.min(other?)));
    if let Some(silence) = shortest.flatten() {
        let is_silent = silence > MAX_NORMAL_DELAY_MS;
        return is_silent.then(|| format!("not reached for {}", format_millis(silence)));
    }
    let mut nodes = status.nodes.iter().filter(|it| it.is_in(&region.name));
    let is_reached = nodes.any(|node| node.alive);
    (!is_reached).then(|| "not reached".to_owned())
}

fn is_normal_region(status: &StatusReport, region: &RegionReport) -> bool {
    let is_slow = |time: Option<f64>| time.is_some_and(|time| time > MAX_NORMAL_DELAY_MS);
    let is_behind = |shard: &RegionShardReport| {
        is_slow(shard.silent_ms) || (shard.behind > 0 && is_slow(shard.lag_ms))
    };
    let is_in_place = !region.joining && !region.leaving;
    let is_up = is_in_place && unreached_state(status, region).is_none();
    is_up && !region.shards.iter().any(is_behind)
}

fn group_table(status: &StatusReport, names: &NodeNames, verbose: bool) -> Vec<String> {
    let shown = status.groups.iter();
    let shown = shown.filter(|group| verbose || !is_normal_group(status, group));
    let rows: Vec<Vec<String>> = shown
        .map(|group| {
            let behind = group.behind();
            let behind: Vec<String> = behind
                .map(|(node, entries)| format!("{} by {entries}", names.get(node)))
                .collect();
            let leader = match group.leader {
                Some(leader) if status.is_lost(leader) => format!("lost: {}", names.get(leader)),
                Some(leader) if status.is_served(group) => names.get(leader),
                // Raft remembers a leader that is heard, but that most voters don't follow.
                Some(_) | None => "none".to_owned(),
            };
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
    // Members that are cut off would be of no use.
    format_table(&titles, &rows, true)
}

fn is_normal_group(status: &StatusReport, group: &GroupReport) -> bool {
    let lags = group
        .behind()
        .any(|(_, entries)| entries > MAX_NORMAL_LAG_ENTRIES);
    let has_leader = group.leader.is_some_and(|leader| !status.is_lost(leader));
    has_leader && status.is_served(group) && !group.damaged && !group.changing && !lags
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

/// Lines about this node, its disk and its certificate.
fn this_node_lines(status: &StatusReport, names: &NodeNames) -> Vec<String> {
    let accounts = format_count(status.accounts, "account");
    let accounts_and_buckets = format!("{accounts}, {}", format_count(status.buckets, "bucket"));
    let disk = format!(
        "{} free; the log takes {}, the state {}",
        format_bytes(status.disk_free_bytes),
        format_bytes(status.log_disk_bytes),
        format_bytes(status.state_disk_bytes)
    );
    let certificate = match &status.certificate {
        Some(certificate) => format!("expires {}", format_days_left(certificate.days_left)),
        None => "none".to_owned(),
    };
    let rows = [
        (
            "this node",
            format!(
                "{}, number {}, version {}",
                names.get(status.node),
                status.node,
                status.version
            ),
        ),
        ("cluster", status.cluster.clone()),
        ("holds", accounts_and_buckets),
        ("data directory", status.data_dir.clone()),
        ("disk", disk),
        ("certificate", certificate),
    ];
    let lines = rows.iter();
    lines
        .map(|(title, text)| format!("{title:16}{text}"))
        .collect()
}
