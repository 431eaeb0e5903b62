//! The page: first line, what needs a person, nodes; what isn't normal of groups, regions and
//! snapshots; and all of it with `--verbose`.

use super::model::{Group, Node, Region, Snapshot, Status};
use super::names::Names;
use super::text::{bytes, millis, table, wrapped};
use super::{attention, headline};

/// Entries that a member may be behind under load.
const NORMAL_LAG: u64 = 10_000;
/// Time that changes may take to another region, or that it may be silent, in milliseconds.
const NORMAL_DELAY_MS: f64 = 5000.0;

/// The page.
pub(super) fn page(status: &Status, verbose: bool) -> String {
    let names = Names::of(status);
    let mut lines = wrapped(&headline::headline(status, &names), 0);
    for found in attention::of(status) {
        lines.extend(wrapped(&format!("! {found}"), 2));
    }
    let parts = [
        nodes(status, &names, verbose),
        regions(status, verbose),
        groups(status, &names, verbose),
        snapshots(status, &names, verbose),
        if verbose { this_node(status) } else { vec![] },
    ];
    for part in parts.into_iter().filter(|part| !part.is_empty()) {
        lines.push(String::new());
        lines.extend(part);
    }
    lines.iter().map(|line| format!("{line}\n")).collect()
}

fn nodes(status: &Status, names: &Names, verbose: bool) -> Vec<String> {
    let mut all: Vec<&Node> = status.nodes.iter().collect();
    let name = |node: &Node| names.get(node.id);
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
                state(status, node),
                node.shards.to_string(),
                node.http.clone(),
            ];
            if verbose {
                let time = |time: Option<f64>| time.map_or_else(String::new, millis);
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
        titles.extend(["RPC", "ROUND TRIP", "CLOCK OFF BY", "VERSION", "NUMBER"]);
    }
    table(&titles, &rows, verbose)
}

fn state(status: &Status, node: &Node) -> String {
    if let Some(seconds) = node.removed_seconds {
        return format!("removed {} ago", millis(seconds as f64 * 1e3));
    }
    let state = match (node.state.as_str(), node.alive) {
        ("leaving", true) => "leaving",
        ("leaving", false) => "leaving, not heard of",
        (_, true) => "up",
        (_, false) => "not heard of",
    };
    if node.id == status.node {
        format!("{state}, this node")
    } else {
        state.to_owned()
    }
}

fn regions(status: &Status, verbose: bool) -> Vec<String> {
    let others = status.regions.iter().filter(|region| !region.here);
    let rows: Vec<Vec<String>> = others
        .filter(|region| verbose || !is_normal_region(region))
        .map(|region| {
            let behind: u64 = region.shards.iter().map(|shard| shard.behind).sum();
            let worst = |time: fn(&super::model::RegionShard) -> Option<f64>| {
                let worst = region.shards.iter().filter_map(time).reduce(f64::max);
                worst.map_or_else(String::new, millis)
            };
            vec![
                region.name.clone(),
                region_state(region),
                format!("{behind} changes"),
                worst(|shard| shard.lag_ms),
                worst(|shard| shard.silent_ms),
            ]
        })
        .collect();
    if rows.is_empty() {
        return vec![];
    }
    let titles = [
        "REGION",
        "STATE",
        "LACKS OF THIS NODE",
        "DELAY",
        "SILENT FOR",
    ];
    table(&titles, &rows, verbose)
}

fn region_state(region: &Region) -> String {
    match &region.waits_for {
        Some(others) if region.leaving => {
            format!("leaving, waits for {}", others.join(", "))
        }
        _ if region.leaving => "leaving".to_owned(),
        _ if region.joining => "joining".to_owned(),
        _ => "up".to_owned(),
    }
}

fn is_normal_region(region: &Region) -> bool {
    let is_long = |time: Option<f64>| time.is_some_and(|time| time > NORMAL_DELAY_MS);
    let is_late = |shard: &super::model::RegionShard| {
        is_long(shard.silent_ms) || (shard.behind > 0 && is_long(shard.lag_ms))
    };
    !region.joining && !region.leaving && !region.shards.iter().any(is_late)
}

fn groups(status: &Status, names: &Names, verbose: bool) -> Vec<String> {
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
                (true, _) => "damaged here",
                (false, true) => "members change",
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
    let titles = [
        "GROUP",
        "LEADER",
        "VOTERS",
        "FOLLOWERS WITHOUT A VOTE",
        "BEHIND",
        "STATE",
    ];
    table(&titles, &rows, verbose)
}

fn is_normal_group(group: &Group) -> bool {
    let lags = group.behind().any(|(_, entries)| entries > NORMAL_LAG);
    group.leader.is_some() && !group.damaged && !group.changing && !lags
}

fn snapshots(status: &Status, names: &Names, verbose: bool) -> Vec<String> {
    let shown = status.snapshots.iter();
    let shown = shown.filter(|snapshot| verbose || snapshot.state == "running");
    shown.map(|snapshot| transfer(snapshot, names)).collect()
}

fn transfer(snapshot: &Snapshot, names: &Names) -> String {
    let way = if snapshot.direction == "sent" {
        "to"
    } else {
        "from"
    };
    let node = names.get(snapshot.node);
    let mut line = format!(
        "snapshot of {} {way} {node}: {}, {} at {:.1} MiB/s",
        snapshot.group,
        snapshot.state,
        bytes(snapshot.bytes),
        snapshot.mib_per_second
    );
    if let Some(error) = &snapshot.error {
        line += &format!(": {error}");
    }
    line
}

/// This node and its disk.
fn this_node(status: &Status) -> Vec<String> {
    let accounts = format!("{} accounts, {} buckets", status.accounts, status.buckets);
    let disk = format!(
        "{} free; the log takes {}, the state {}",
        bytes(status.disk_free_bytes),
        bytes(status.log_disk_bytes),
        bytes(status.state_disk_bytes)
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
