//! Tests of pages that are built from the JSON of nodes.

use crate::meta::NodeState;
use serde_json::{Value, json};

use super::model::StatusReport;
use super::text::{TERMINAL_COLUMNS, format_bytes, format_millis, format_table, wrap_line};
use super::view::page;
use super::{attention, headline};

/// Healthy status of three regions of three nodes, from node 11 of region `eu-west-3`.
fn three_regions() -> Value {
    let mut nodes = Vec::new();
    for (region, name) in [(1, "eu-west-3"), (2, "us-east-1"), (3, "ap-south-1")] {
        for number in 1..=3 {
            let id = 10 * region + number;
            nodes.push(json!({
                "id": id, "region": name, "state": "active", "alive": true, "shards": 3,
                "name": format!("{name}-cloudkv-{number}.nodes.kv.svc.cluster.local"),
                "rpc": format!("{name}-cloudkv-{number}.nodes.kv.svc.cluster.local:7070"),
                "http": format!("{name}-cloudkv-{number}.nodes.kv.svc.cluster.local:8080"),
                "version": "0.1.0",
                "clock_offset_ms": (id != 11).then_some(0.033_047),
                "round_trip_ms": (id != 11).then_some(81.171_692),
            }));
        }
    }
    let group = |group: &str, voters: [u64; 3]| {
        json!({ "group": group, "leader": 12, "role": "follower", "voters": voters,
            "learners": [], "changing": false, "damaged": false, "lag": [] })
    };
    let shard = json!({ "behind": 2, "lag_ms": 41.77, "silent_ms": 12.4, "alarms": 0 });
    let region = |name: &str, here: bool| {
        json!({ "name": name, "here": here, "joining": false, "leaving": false,
            "waits_for": null, "shards": [shard] })
    };
    json!({
        "version": "0.1.0", "cluster": "c", "node": 11, "name": "eu-west-3-cloudkv-1",
        "region": "eu-west-3", "shards": 3, "clock_ok": true, "disk_state": "ample",
        "survives": "the loss of any one node", "unserved": [], "nodes": nodes,
        "regions": [region("eu-west-3", true), region("us-east-1", false),
            region("ap-south-1", false)],
        "groups": [group("meta", [11, 21, 31]), group("shard-0", [11, 12, 13]),
            group("shard-1", [11, 12, 13]), group("shard-2", [11, 12, 13])],
        "disk_free_bytes": 85_431_263_232_u64,
    })
}

fn parse(status: &Value) -> StatusReport {
    serde_json::from_value(status.clone()).unwrap()
}

fn first_line(status: &Value) -> String {
    let status = parse(status);
    headline::headline(&status, &super::names::NodeNames::of(&status))
}

#[test]
fn three_healthy_regions_fit_a_terminal_and_show_only_nodes() {
    let page = page(&parse(&three_regions()), false);
    let lines: Vec<&str> = page.lines().collect();
    assert_eq!(
        lines[0],
        "serving all 3 shards of region eu-west-3; it survives the loss of any one node"
    );
    // The first line, a blank one, titles, and nine nodes.
    assert_eq!(lines.len(), 12, "{page}");
    assert!(
        lines[3].starts_with("eu-west-3   eu-west-3-cloudkv-1"),
        "{page}"
    );
    for line in lines {
        assert!(line.chars().count() <= TERMINAL_COLUMNS, "{line}");
    }
    assert!(!page.contains("0.033"), "{page}");
}

#[test]
fn verbose_shows_everything_with_units() {
    let page = page(&parse(&three_regions()), true);
    for part in [
        "81 ms",
        "0.03 ms",
        "80 GiB free",
        "2 changes",
        "42 ms",
        "shard-2",
        "meta",
    ] {
        assert!(page.contains(part), "{part}: {page}");
    }
}

#[test]
fn a_node_that_is_being_decommissioned_is_shown_as_such() {
    let mut status = three_regions();
    status["nodes"][1]["state"] = json!(NodeState::Decommissioning.name());
    assert!(page(&parse(&status), false).contains(" decommissioning "));
    status["nodes"][1]["alive"] = json!(false);
    assert!(page(&parse(&status), false).contains(" decommissioning, unreachable "));
}

#[test]
fn a_region_without_a_majority_shows_the_unserved_shards() {
    let mut status = three_regions();
    for index in [1, 2] {
        status["nodes"][index]["alive"] = json!(false);
    }
    let unserved =
        |group: &str| json!({ "group": group, "voters": [11, 12, 13], "unreachable": [12, 13] });
    status["unserved"] = json!([
        unserved("shard-0"),
        unserved("shard-1"),
        unserved("shard-2")
    ]);
    assert_eq!(
        first_line(&status),
        "not serving shard-0 to shard-2: 2 of 3 nodes unreachable (eu-west-3-cloudkv-2, \
         eu-west-3-cloudkv-3)"
    );
    status["unserved"] = json!([unserved("shard-1")]);
    assert!(first_line(&status).starts_with("not serving shard-1: 2 of 3 nodes unreachable"));
    let findings = attention::findings(&parse(&status));
    assert_eq!(findings.len(), 2, "{findings:?}");
    assert!(
        findings[0].contains("admin replace eu-west-3-cloudkv-2"),
        "{findings:?}"
    );
    for line in page(&parse(&status), false).lines() {
        assert!(line.chars().count() <= TERMINAL_COLUMNS, "{line}");
    }
}

#[test]
fn the_headline_shows_the_consequences_of_the_next_loss() {
    let mut status = three_regions();
    status["nodes"][2]["alive"] = json!(false);
    status["survives"] = json!("the loss of no node now: node 13 is unreachable");
    assert_eq!(
        first_line(&status),
        "serving all 3 shards of region eu-west-3; eu-west-3-cloudkv-3 is unreachable, and the \
         loss of one more node (eu-west-3-cloudkv-1 or eu-west-3-cloudkv-2) stops shards"
    );
    let meta = json!({ "group": "meta", "voters": [11, 21, 31], "unreachable": [21, 31] });
    status["unserved"] = json!([meta]);
    let line = first_line(&status);
    assert!(
        line.contains("buckets can't be created or changed: 2 of 3 voters"),
        "{line}"
    );
    let alone = json!({
        "node": 1, "region": "local", "shards": 3, "clock_ok": true,
        "survives": "the loss of no node: a region needs three",
        "nodes": [{ "id": 1, "region": "local", "state": "active", "alive": true }],
        "groups": [{ "group": "shard-0", "leader": 1, "voters": [1] }],
    });
    assert!(first_line(&alone).contains("the loss of its only node stops it"));
    assert!(attention::findings(&parse(&alone)).is_empty());
}

#[test]
fn nodes_of_one_host_are_shown_by_their_addresses() {
    let node = |id: u64, name: &str, port: u16| {
        json!({ "id": id, "name": name, "region": "r", "state": "active", "alive": true,
            "rpc": format!("127.0.0.1:{port}"), "http": "h" })
    };
    let status = json!({
        "node": 1, "region": "r",
        "nodes": [node(1, "127.0.0.1", 7070), node(2, "127.0.0.1", 7071), node(3, "third", 7072)],
    });
    let names = super::names::NodeNames::of(&parse(&status));
    assert_eq!(
        names.list(&[1, 2, 3, 4]),
        "127.0.0.1:7070, 127.0.0.1:7071, 4, third"
    );
}

#[test]
fn everything_that_needs_an_operator_is_found() {
    let changes: [(&str, Value, &str); 7] = [
        ("/clock_ok", json!(false), "clock of this node"),
        ("/disk_state", json!("low"), "80 GiB free"),
        ("/groups/1/damaged", json!(true), "shard-0 is damaged"),
        (
            "/regions/1/shards/0/alarms",
            json!(1),
            "us-east-1 and this one disagree",
        ),
        (
            "/nodes/1/clock_offset_ms",
            json!(-600_000.0),
            "off by 10 min",
        ),
        (
            "/nodes/4/alive",
            json!(false),
            "us-east-1-cloudkv-2 is unreachable",
        ),
        ("/nodes/4/state", json!("removed"), ""),
    ];
    for (path, value, part) in changes {
        let mut status = three_regions();
        *status.pointer_mut(path).unwrap() = value;
        let findings = attention::findings(&parse(&status));
        assert_eq!(
            findings.len(),
            usize::from(!part.is_empty()),
            "{path}: {findings:?}"
        );
        assert!(
            findings.iter().all(|it| it.contains(part)),
            "{path}: {findings:?}"
        );
    }
    let added = [
        ("replica_alarms", json!(1), "differed after the same entry"),
        (
            "certificate",
            json!({ "days_left": 3, "stale": false }),
            "in 3 days",
        ),
        (
            "certificate",
            json!({ "days_left": 300, "stale": true }),
            "can't be used",
        ),
        (
            "held_for_regions",
            json!({ "bytes": 1 << 20, "budget_bytes": 2 << 20, "stage": "half" }),
            "1.0 MiB of 2.0 MiB",
        ),
    ];
    for (field, value, part) in added {
        let mut status = three_regions();
        status[field] = value;
        let findings = attention::findings(&parse(&status));
        assert!(
            findings.len() == 1 && findings[0].contains(part),
            "{field}: {findings:?}"
        );
    }
}

#[test]
fn units_tables_and_wrapped_lines_are_readable() {
    assert_eq!(
        [0, 1023, 1024, 10 << 20].map(format_bytes),
        ["0 B", "1023 B", "1.0 KiB", "10 MiB"]
    );
    assert_eq!(
        [0.0, 0.033_047, 0.5, 9.949, 81.2, 1500.0, 600_000.0].map(format_millis),
        [
            "0 ms", "0.03 ms", "0.50 ms", "9.9 ms", "81 ms", "1.5 s", "10 min"
        ]
    );
    let rows = vec![
        vec!["a".to_owned(), String::new(), "x".repeat(50)],
        vec!["bb".to_owned(), String::new(), "y".to_owned()],
    ];
    let lines = format_table(&["N", "EMPTY", "WIDE"], &rows, false);
    let truncated = format!("a   {}…", "x".repeat(39));
    assert_eq!(lines, ["N   WIDE", &truncated, "bb  y"]);
    let long = "word ".repeat(40);
    let lines = wrap_line(long.trim_end(), 2);
    assert_eq!(lines.len(), 3, "{lines:?}");
    assert!(lines[1].starts_with("  word") && lines.iter().all(|it| it.len() <= TERMINAL_COLUMNS));
}
