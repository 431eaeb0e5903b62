//! Tests of pages that are built from the JSON of nodes.

use crate::meta::NodeState;
use crate::types::NodeId;
use serde_json::{Value, json};

use super::model::StatusReport;
use super::text::{
    TERMINAL_COLUMNS, format_bytes, format_days_left, format_millis, format_offset,
    format_seconds_ago, format_table, wrap_line,
};
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
        "+0.03 ms",
        "shard-2",
        "meta",
        "this node       eu-west-3-cloudkv-1, number 11",
        "certificate     none",
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
        "not serving shard-0 to shard-2: 2 of 3 voters unreachable (eu-west-3-cloudkv-2, \
         eu-west-3-cloudkv-3)"
    );
    status["unserved"] = json!([unserved("shard-1")]);
    assert!(first_line(&status).starts_with("not serving shard-1: 2 of 3 voters unreachable"));
    let findings = attention::findings(&parse(&status));
    assert_eq!(findings.len(), 2, "{findings:?}");
    assert!(
        findings[0].contains("don't `replace` it while most voters of shard-1 are unreachable"),
        "{findings:?}"
    );
    for line in page(&parse(&status), false).lines() {
        assert!(line.chars().count() <= TERMINAL_COLUMNS, "{line}");
    }
}

#[test]
fn an_election_is_told_apart_from_a_lost_majority() {
    let mut status = three_regions();
    let meta = |unreachable: &[u64]| {
        let voters = [11, 21, 31];
        json!([{ "group": "meta", "voters": voters, "unreachable": unreachable }])
    };
    status["unserved"] = meta(&[21]);
    let line = first_line(&status);
    assert!(
        line.ends_with(
            "no leader is elected yet, with 1 of 3 voters of the metadata unreachable \
             (us-east-1-cloudkv-1)"
        ),
        "{line}"
    );
    status["unserved"] = meta(&[21, 31]);
    let line = first_line(&status);
    assert!(!line.contains("elected"), "{line}");
}

#[test]
fn a_node_is_replaced_only_while_the_metadata_has_a_majority() {
    let mut status = three_regions();
    status["nodes"][3]["alive"] = json!(false);
    let advice = |status: &Value| attention::findings(&parse(status)).join("\n");
    let replace = "`cloudkv-node admin replace us-east-1-cloudkv-1`";
    assert!(advice(&status).contains(replace), "{}", advice(&status));
    status["unserved"] =
        json!([{ "group": "meta", "voters": [11, 21, 31], "unreachable": [21, 31] }]);
    let text = advice(&status);
    assert!(!text.contains(replace), "{text}");
    assert!(text.contains("while most voters of the metadata"), "{text}");
}

#[test]
fn a_node_that_was_just_admitted_is_joining_and_needs_no_operator() {
    let mut status = three_regions();
    status["nodes"][2]["alive"] = json!(false);
    status["nodes"][2]["joining"] = json!(true);
    status["survives"] = json!("the loss of no node now: node 13 is unreachable");
    assert!(attention::findings(&parse(&status)).is_empty());
    let page = page(&parse(&status), false);
    assert!(page.contains(" joining "), "{page}");
    assert!(!page.contains("unreachable"), "{page}");
}

#[test]
fn a_healthy_node_is_not_blamed_for_another_clock() {
    let mut status = three_regions();
    for index in 1..9 {
        status["nodes"][index]["clock_offset_ms"] = json!(5000.0);
    }
    status["clock_ok"] = json!(false);
    let findings = attention::findings(&parse(&status));
    assert_eq!(findings.len(), 1, "{findings:?}");
    assert!(
        findings[0].starts_with("the clock of this node is 5.0 s behind"),
        "{findings:?}"
    );
    // Of two clocks, nobody knows which is right.
    status["clock_ok"] = json!(true);
    for index in 2..9 {
        status["nodes"][index]["alive"] = json!(false);
        status["nodes"][index]["joining"] = json!(true);
    }
    let findings = attention::findings(&parse(&status));
    assert_eq!(findings.len(), 1, "{findings:?}");
    assert!(
        findings[0].contains("eu-west-3-cloudkv-2 differ by 5.0 s"),
        "{findings:?}"
    );
}

#[test]
fn a_full_disk_shows_what_still_works() {
    let mut status = three_regions();
    status["disk_low_water_bytes"] = json!(1 << 30);
    status["disk_state"] = json!("low");
    let finding = |status: &Value| attention::findings(&parse(status)).join("\n");
    let low = finding(&status);
    assert!(
        low.contains("(disk_low_water_mib) of 1.0 GiB") && low.contains("delete keys or buckets"),
        "{low}"
    );
    status["disk_state"] = json!("exhausted");
    let exhausted = finding(&status);
    assert!(exhausted.contains("deletions included"), "{exhausted}");
    assert!(!exhausted.contains("delete keys"), "{exhausted}");
}

#[test]
fn a_region_that_is_not_reached_is_shown_as_such() {
    let mut status = three_regions();
    assert!(!page(&parse(&status), false).contains("STATE    BACKLOG"));
    status["regions"][1]["shards"][0]["silent_ms"] = json!(53_000.0);
    let text = page(&parse(&status), false);
    let line = text.lines().find(|line| line.contains("2 changes"));
    let cells: Vec<&str> = line.unwrap().split("  ").collect();
    let cells: Vec<&str> = cells.into_iter().filter(|cell| !cell.is_empty()).collect();
    let expected = [
        "us-east-1",
        "not reached for 53 s",
        "2 changes",
        "unknown",
        "53 s",
    ];
    assert_eq!(
        cells.iter().map(|cell| cell.trim()).collect::<Vec<_>>(),
        expected
    );
    // This node leads none of the shards, so it only knows the nodes.
    status["regions"][1]["shards"] = json!([]);
    for index in 3..6 {
        status["nodes"][index]["alive"] = json!(false);
    }
    let text = page(&parse(&status), false);
    assert!(text.contains("not reached "), "{text}");
}

#[test]
fn a_region_of_which_no_node_is_reached_is_removed_and_no_node_of_it_replaced() {
    let mut status = three_regions();
    for index in 3..6 {
        status["nodes"][index]["alive"] = json!(false);
    }
    let advice = |status: &Value| attention::findings(&parse(status)).join("\n");
    let text = advice(&status);
    assert!(
        text.starts_with("region us-east-1 is unreachable (us-east-1-cloudkv-1, "),
        "{text}"
    );
    assert!(text.contains("admin remove-region us-east-1`") && !text.contains("replace"));
    status["unserved"] =
        json!([{ "group": "meta", "voters": [11, 21, 31], "unreachable": [21, 31] }]);
    let text = advice(&status);
    assert!(text.contains("while most voters of the metadata"), "{text}");
    // Nothing is to be done while it is being removed.
    status["regions"][1]["leaving"] = json!(true);
    assert_eq!(advice(&status), "");
}

#[test]
fn the_reason_for_which_a_node_is_not_reached_is_shown() {
    let mut status = three_regions();
    status["nodes"][4]["alive"] = json!(false);
    status["nodes"][4]["unreachable_reason"] = json!("another cluster answers");
    let findings = attention::findings(&parse(&status));
    let expected = "node us-east-1-cloudkv-2 is unreachable (another cluster answers): stop that";
    assert!(findings[0].starts_with(expected), "{findings:?}");
    status["nodes"][4]["unreachable_reason"] = json!("no route to host");
    let findings = attention::findings(&parse(&status));
    let expected = "node us-east-1-cloudkv-2 is unreachable (no route to host): start it";
    assert!(findings[0].starts_with(expected), "{findings:?}");
}

#[test]
fn nodes_whose_region_is_unknown_are_shown() {
    let mut status = three_regions();
    for index in 3..6 {
        status["nodes"][index]["region"] = Value::Null;
        status["nodes"][index]["state"] = json!("removed");
        status["nodes"][index]["removed_seconds"] = json!(60);
        status["nodes"][index]["alive"] = json!(false);
    }
    assert!(attention::findings(&parse(&status)).is_empty());
    for is_verbose in [false, true] {
        let page = page(&parse(&status), is_verbose);
        let mut lines = page.lines();
        let line = lines.find(|line| line.contains("us-east-1-cloudkv-2"));
        let line = line.unwrap();
        assert!(line.starts_with("? ") && line.contains("removed"), "{page}");
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
        names.list(&[1, 2, 3, 4].map(NodeId::from)),
        "127.0.0.1:7070, 127.0.0.1:7071, 4, third"
    );
}

#[test]
fn a_removed_node_and_one_that_came_in_its_place_are_told_apart() {
    let node = |id: u64, host: &str, port: u16, state: &str| {
        json!({ "id": id, "name": host, "region": "r", "state": state, "alive": id != 1,
            "removed_seconds": (state == "removed").then_some(60),
            "rpc": format!("{host}:{port}"), "http": "h" })
    };
    let mut status = json!({
        "node": 3, "region": "r",
        "nodes": [node(1, "n1.example", 7070, "removed"), node(2, "n1.example", 7070, "active"),
            node(3, "n2.example", 7070, "active")],
    });
    let names = |status: &Value| super::names::NodeNames::of(&parse(status));
    let list = |status: &Value| names(status).list(&[1, 2, 3].map(NodeId::from));
    assert_eq!(list(&status), "n1 (1), n1 (2), n2");
    let text = page(&parse(&status), false);
    assert!(text.contains("n1 (1)  removed 60 s ago"), "{text}");
    // Commands find the present one by its name.
    status["nodes"][1]["alive"] = json!(false);
    let advice = attention::findings(&parse(&status)).join("\n");
    assert!(
        advice.starts_with("node n1 (2) is unreachable") && advice.contains("admin replace n1`"),
        "{advice}"
    );
    // Several nodes on one host have addresses, of which two may be the same, too.
    status["nodes"][2]["name"] = json!("n1.example");
    status["nodes"][2]["rpc"] = json!("n1.example:7071");
    assert_eq!(
        list(&status),
        "n1.example:7070 (1), n1.example:7070 (2), n1.example:7071"
    );
    status["nodes"][2]["rpc"] = json!("n1.example:7070");
    status["nodes"][2]["state"] = json!("decommissioning");
    assert_eq!(names(&status).argument(NodeId::from(2)), "2");
}

#[test]
fn a_leader_that_is_not_heard_any_more_is_shown_as_lost() {
    let mut status = three_regions();
    let text = page(&parse(&status), true);
    assert!(!text.contains("lost: "), "{text}");
    status["nodes"][1]["alive"] = json!(false);
    for is_verbose in [false, true] {
        let text = page(&parse(&status), is_verbose);
        let mut lines = text.lines();
        let line = lines.find(|line| line.starts_with("shard-1 ")).unwrap();
        assert!(
            line.contains("lost: eu-west-3-cloudkv-2  eu-west-3"),
            "{text}"
        );
    }
    // This node hears itself.
    status["node"] = json!(12);
    let text = page(&parse(&status), true);
    assert!(!text.contains("lost: "), "{text}");
}

#[test]
fn a_leader_without_a_majority_is_shown_as_none() {
    let mut status = three_regions();
    status["node"] = json!(12);
    status["nodes"][3]["alive"] = json!(false);
    status["nodes"][6]["alive"] = json!(false);
    status["unserved"] =
        json!([{ "group": "meta", "voters": [12, 21, 31], "unreachable": [21, 31] }]);
    status["groups"][0]["voters"] = json!([12, 21, 31]);
    for is_verbose in [false, true] {
        let text = page(&parse(&status), is_verbose);
        let mut lines = text.lines();
        let line = lines.find(|line| line.starts_with("meta ")).unwrap();
        assert_eq!(line.split_whitespace().nth(1), Some("none"), "{text}");
        // It leads the shards, and these are served.
        let shard = lines.find(|line| line.starts_with("shard-1 "));
        assert_eq!(shard.is_some(), is_verbose, "{text}");
        assert!(shard.is_none_or(|line| !line.contains("none")), "{text}");
    }
}

#[test]
fn counts_and_times_are_written_as_people_say_them() {
    let mut status = three_regions();
    status["accounts"] = json!(1);
    status["buckets"] = json!(2);
    status["certificate"] = json!({ "days_left": 1, "stale": false });
    status["regions"][1]["shards"][0]["behind"] = json!(1);
    status["nodes"][4]["state"] = json!("removed");
    status["nodes"][4]["removed_seconds"] = json!(0);
    let text = page(&parse(&status), true);
    for part in [
        "1 account, 2 buckets",
        "certificate     expires in 1 day\n",
        " 1 change ",
        " removed just now ",
    ] {
        assert!(text.contains(part), "{part}: {text}");
    }
    assert_eq!(
        [0, 2].map(format_days_left),
        ["within a day, if it hasn't yet", "in 2 days"]
    );
    assert_eq!([0, 59].map(format_seconds_ago), ["just now", "59 s ago"]);
    let only = |group: &str| json!([{ "group": group, "voters": [12], "unreachable": [12] }]);
    status["unserved"] = only("meta");
    let line = first_line(&status);
    let meta = ": the only voter of the metadata is unreachable (eu-west-3-cloudkv-2)";
    assert!(line.ends_with(meta), "{line}");
    status["unserved"] = only("shard-1");
    let line = first_line(&status);
    let shard = "not serving shard-1: the only voter is unreachable (eu-west-3-cloudkv-2)";
    assert_eq!(line, shard);
    // Two unreachable nodes, and a region with one node.
    status["unserved"] = json!([]);
    status["survives"] = json!("the loss of no node now");
    status["nodes"][1]["alive"] = json!(false);
    status["nodes"][2]["alive"] = json!(false);
    let line = first_line(&status);
    assert!(
        line.contains("eu-west-3-cloudkv-2, eu-west-3-cloudkv-3 are unreachable"),
        "{line}"
    );
    for index in [3, 5] {
        status["nodes"][index]["alive"] = json!(false);
    }
    status["nodes"][3]["state"] = json!("removed");
    let advice = attention::findings(&parse(&status)).join("\n");
    let expected = "region us-east-1 is unreachable (us-east-1-cloudkv-3): start its node; if it \
                    is lost for good, `";
    assert!(advice.starts_with(expected), "{advice}");
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
    assert_eq!(
        [0.0, 0.033_047, -5000.0].map(format_offset),
        ["0 ms", "+0.03 ms", "-5.0 s"]
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
    let lines = wrap_line(&format!("{} `admin replace n1`", "w".repeat(90)), 2);
    assert_eq!(lines[1], "  `admin replace n1`");
}
