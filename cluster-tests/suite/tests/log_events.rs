//! The log from an operator's view: a start, and each change around a node once.
// Helpers of tests panic as tests do.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

use std::fs::{self, File};
use std::process::Command;
use std::time::Duration;

use cloudkv_test_harness::region::{MultiRegionCluster, Region};
use cloudkv_test_harness::{Node, NodeOptions, Router, eventually, router_command};
use serde_json::Value;
use tokio::net::TcpSocket;

const STATE_TIMEOUT: Duration = Duration::from_secs(30);

/// Parses the events of a log.
fn events(text: &str) -> Vec<Value> {
    let lines = text.lines();
    lines
        .filter_map(|line| serde_json::from_str(line).ok())
        .collect()
}

/// Returns the events of a log whose message begins with `message`.
fn events_with(text: &str, message: &str) -> Vec<Value> {
    let matches = |event: &Value| {
        event["message"]
            .as_str()
            .is_some_and(|it| it.starts_with(message))
    };
    events(text).into_iter().filter(matches).collect()
}

/// Waits for an event with `message` in a node's log; returns the first.
async fn wait_for(region: &Region, seat: usize, message: &str) -> Value {
    let what = format!("node {seat} logs: {message}");
    eventually(&what, STATE_TIMEOUT, async || {
        let events = events_with(&region.nodes[seat].log().text(), message);
        events.into_iter().next()
    })
    .await
}

/// Returns the only event of a log with `message`.
fn the_only(text: &str, message: &str) -> Value {
    let mut events = events_with(text, message);
    assert_eq!(events.len(), 1, "{message}: {events:#?}\n{text}");
    events.remove(0)
}

#[tokio::test]
async fn a_start_is_logged_from_version_to_ready_and_requests_are_not() {
    let mut node = Node::start().await;
    let wait_ready = async |node: &Node| {
        eventually("readiness is logged", STATE_TIMEOUT, async || {
            (!events_with(&node.log_text(), "ready").is_empty()).then_some(())
        })
        .await;
    };
    wait_ready(&node).await;
    let log = node.log_text();
    let start = the_only(&log, "starting");
    assert_eq!(
        (&start["region"], start["version"].is_string()),
        (&"local".into(), true)
    );
    let opened = the_only(&log, "data directory opened");
    assert_eq!(opened["state"], "new");
    let cluster = opened["cluster"].as_str().unwrap().to_owned();
    let listening = the_only(&log, "listening");
    assert_eq!(listening["http"], node.http().to_string());
    assert_eq!(listening["rpc"], node.rpc().to_string());
    let memory = the_only(&log, "threads and memory");
    assert!(memory["block_cache_mib"].as_u64() > Some(0), "{memory}");
    assert!(memory["http_threads"].as_u64() > Some(0), "{memory}");
    let ready = the_only(&log, "ready");
    assert!(ready["after"].as_str().unwrap().ends_with(" s"), "{ready}");
    assert_eq!(
        (&ready["nodes"], &ready["regions"]),
        (&1.into(), &"local".into())
    );

    let bucket = node.api().create_bucket().await;
    let before = events(&node.log_text()).len();
    for key in 0..50 {
        let path = bucket.key_path(&format!("k{key}"));
        node.api().put(&path, "v").await.assert_status(200);
        node.api().get(&path).await.assert_status(200);
    }
    assert_eq!(events(&node.log_text()).len(), before);

    node.terminate().await;
    let length = node.log_text().len();
    node.restart().await;
    let again = node.log_text().split_off(length);
    let opened = the_only(&again, "data directory opened");
    assert_eq!(
        (&opened["state"], &opened["cluster"]),
        (&"found".into(), &cluster.into())
    );
}

#[tokio::test]
async fn a_lost_and_returned_node_is_logged_once_with_its_leadership_changes() {
    let mut region = Region::start().await;
    region.wait_leaders_balanced().await;
    let lost = region.seat(2).rpc().to_string();
    let length = region.nodes[0].log().text().len();
    region.kill(2);
    let event = wait_for(&region, 0, "node not reached").await;
    assert_eq!(event["level"], "WARN");
    assert_eq!(event["node"], format!("{lost} (local)"));
    let reason = event["reason"].as_str().expect("it has a reason");
    assert!(reason.contains("refused"), "{event}");
    let moved = wait_for_move(&region, &lost).await;
    assert!(
        moved["groups"].as_str().unwrap().contains("shard-"),
        "{moved}"
    );
    region.restart(2).await;
    let back = wait_for(&region, 0, "node reached again").await;
    assert_eq!(back["node"], format!("{lost} (local)"));
    region.wait_formed().await;
    let text = region.nodes[0].log().text().split_off(length);
    the_only(&text, "node not reached");
    the_only(&text, "node reached again");
    assert!(
        events_with(&text, "no majority").is_empty(),
        "an election is no loss of a majority: {text}"
    );
}

/// Waits for an event of another node about leadership that moved from a lost node.
async fn wait_for_move(region: &Region, lost: &str) -> Value {
    eventually("the new leader is logged", STATE_TIMEOUT, async || {
        let logs = [0, 1].map(|seat| region.nodes[seat].log().text());
        let mut moves = logs
            .iter()
            .flat_map(|log| events_with(log, "leadership moved"));
        moves.find(|event| {
            let from = event["from"]
                .as_str()
                .is_some_and(|from| from.contains(lost));
            from && event["reason"]
                .as_str()
                .is_some_and(|why| why.contains("unreachable"))
        })
    })
    .await
}

#[tokio::test]
async fn loss_and_recovery_of_a_majority_are_logged() {
    let mut region = Region::start().await;
    region.kill(1);
    region.kill(2);
    eventually("all shards are logged", STATE_TIMEOUT, async || {
        let lost = events_with(&region.nodes[0].log().text(), "no majority");
        assert!(
            lost.iter().all(|event| event["level"] == "WARN"),
            "{lost:?}"
        );
        let names = |shard: &u32| {
            let name = format!("shard-{shard}");
            let mut groups = lost.iter().filter_map(|event| event["groups"].as_str());
            groups.any(|groups| groups.contains(&name))
        };
        (0..region.shards())
            .all(|shard| names(&shard))
            .then_some(())
    })
    .await;
    wait_for(&region, 0, "the metadata has no majority").await;
    region.restart(1).await;
    region.restart(2).await;
    wait_for(&region, 0, "majority restored").await;
    wait_for(&region, 0, "the metadata has a majority again").await;
    region.wait_formed().await;
}

#[tokio::test]
async fn a_planned_stop_logs_why_leadership_moves() {
    let mut region = Region::start().await;
    region.wait_leaders_balanced().await;
    region.terminate(2).await;
    eventually(
        "another node logs the handover",
        STATE_TIMEOUT,
        async || {
            let logs = [0, 1].map(|seat| region.nodes[seat].log().text());
            let mut moves = logs
                .iter()
                .flat_map(|log| events_with(log, "leadership moved"));
            moves
                .any(|event| event["reason"] == "the previous leader transferred leadership")
                .then_some(())
        },
    )
    .await;
    region.restart(2).await;
    region.wait_formed().await;
}

#[tokio::test]
async fn loss_and_return_of_a_partitioned_region_are_logged() {
    let world = MultiRegionCluster::start(&["eu", "us"], 1, 2).await;
    world.isolate_region(1);
    let lost = wait_for(&world, 0, "region not reached").await;
    assert_eq!(
        (&lost["region"], &lost["level"]),
        (&"us".into(), &"WARN".into())
    );
    let node = world.seat(1).rpc().to_string();
    let reason = lost["reason"].as_str().expect("it has a reason");
    assert!(reason.starts_with(&format!("{node}: ")), "{lost}");
    world.network.heal();
    let back = wait_for(&world, 0, "region reached again").await;
    assert_eq!(back["region"], "us");
    let log = world.nodes[0].log().text();
    assert!(events_with(&log, "node not reached").is_empty(), "{log}");
}

/// Returns the time of day of an event, in seconds.
fn logged_at(event: &Value) -> f64 {
    let stamp = event["timestamp"].as_str().unwrap();
    let clock = stamp.split_once('T').unwrap().1.trim_end_matches('Z');
    clock.split(':').fold(0.0, |seconds, part| {
        seconds * 60.0 + part.parse::<f64>().unwrap()
    })
}

#[tokio::test]
async fn a_router_without_a_reachable_seed_logs_the_reasons_periodically() {
    // Ports that were free a moment ago, and at which nobody listens.
    let seeds: Vec<_> = (0..2)
        .map(|_| {
            let listener = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
            listener.local_addr().unwrap()
        })
        .collect();
    let router = Router::spawn(&seeds, &[]);
    let warnings = || events_with(&router.log_text(), "no node answers");
    let all = eventually("it is logged twice", STATE_TIMEOUT, async || {
        Some(warnings()).filter(|all| all.len() >= 2)
    })
    .await;
    for event in &all {
        assert_eq!(event["level"], "WARN");
        let reasons = event["reasons"].as_str().unwrap();
        for seed in &seeds {
            assert!(reasons.contains(&format!("{seed}: ")), "{reasons}");
        }
        assert!(reasons.contains("refused"), "{reasons}");
    }
    let interval = (logged_at(&all[1]) - logged_at(&all[0])).rem_euclid(86_400.0);
    assert!(interval > 9.5, "{interval} s");
    let log = router.log_text();
    assert_eq!(
        the_only(&log, "starting")["seeds"],
        format!("{}, {}", seeds[0], seeds[1])
    );
    the_only(&log, "listening");
}

/// Reserves a port, which refuses connections until the socket listens. Then the system accepts
/// them, and nobody responds.
fn refusing_port() -> TcpSocket {
    let socket = TcpSocket::new_v4().unwrap();
    socket.bind("127.0.0.1:0".parse().unwrap()).unwrap();
    socket
}

/// Waits for the first event of a router whose message begins with `message`.
async fn wait_for_router(router: &Router, message: &str) -> Value {
    eventually(message, STATE_TIMEOUT, async || {
        events_with(&router.log_text(), message).into_iter().next()
    })
    .await
}

#[tokio::test]
async fn a_changed_reason_for_which_a_seed_is_unreachable_is_logged() {
    let socket = refusing_port();
    let seed = socket.local_addr().unwrap();
    let router = Router::spawn(&[seed], &[]);
    let silent = wait_for_router(&router, "no node answers").await;
    let reasons = silent["reasons"].as_str().unwrap();
    assert!(reasons.contains("refused"), "{silent}");
    let _listener = socket.listen(1024).unwrap();
    // Not only with the next periodic event.
    let changed = wait_for_router(&router, "node is still unreachable").await;
    assert_eq!(
        (&changed["level"], &changed["address"]),
        (&"WARN".into(), &seed.to_string().into())
    );
    let reason = changed["reason"].as_str().unwrap();
    assert!(!reason.contains("refused"), "{changed}");
}

#[tokio::test]
async fn a_changed_reason_for_which_a_node_is_down_is_logged() {
    let socket = refusing_port();
    let http = socket.local_addr().unwrap().to_string();
    let node = Node::start_with(NodeOptions {
        args: vec!["--advertise-http".into(), http.clone()],
        ..NodeOptions::default()
    })
    .await;
    let router = Router::spawn(&[node.rpc()], &[]);
    let down = wait_for_router(&router, "node is down").await;
    assert!(
        down["error"].as_str().unwrap().contains("refused"),
        "{down}"
    );
    let _listener = socket.listen(1024).unwrap();
    let changed = wait_for_router(&router, "node is still down").await;
    assert_eq!(
        (&changed["level"], &changed["http"]),
        (&"WARN".into(), &http.into())
    );
    let reason = changed["error"].as_str().unwrap();
    assert!(reason.contains("no response"), "{changed}");
}

#[tokio::test]
async fn a_router_whose_seed_is_a_public_port_logs_which_port_it_needs() {
    let node = Node::start().await;
    let router = Router::spawn(&[node.http()], &[]);
    let event = eventually("it is logged", STATE_TIMEOUT, async || {
        let log = router.log_text();
        events_with(&log, "no node answers").into_iter().next()
    })
    .await;
    let reasons = event["reasons"].as_str().unwrap();
    assert!(reasons.contains(&format!("{}: ", node.http())), "{reasons}");
    assert!(reasons.contains("`rpc`"), "{reasons}");
}

#[tokio::test]
async fn a_router_logs_when_it_is_ready_and_when_a_region_is_lost() {
    let mut node = Node::start().await;
    let router = Router::start(&[node.rpc()]).await;
    let wait = async |message: &str| {
        eventually(message, STATE_TIMEOUT, async || {
            events_with(&router.log_text(), message).into_iter().next()
        })
        .await
    };
    assert_eq!(wait("ready").await["regions"], "local");
    node.kill_9();
    let lost = wait("region can't be served").await;
    assert_eq!(
        (&lost["region"], &lost["level"]),
        (&"local".into(), &"WARN".into())
    );
    assert!(
        lost["reason"].as_str().unwrap().contains("its only node"),
        "{lost}"
    );
    drop(node);
}

/// `ulimit -n` sets the hard limit, too.
#[tokio::test]
async fn a_router_with_few_open_files_logs_what_is_needed_and_what_fits() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("stderr.log");
    let mut command = Command::new("/bin/sh");
    command
        .args(["-c", "ulimit -n 2000 && exec \"$@\"", "sh"])
        .arg(router_command().get_program())
        .args(["--seeds", "127.0.0.1:1", "--log-format", "json"])
        .args(["--http", "127.0.0.1:0", "--admin", "127.0.0.1:0"])
        .env_clear()
        .stderr(File::create(&path).unwrap());
    let mut command = tokio::process::Command::from(command);
    let _router = command.kill_on_drop(true).spawn().unwrap();
    let log = || fs::read_to_string(&path).unwrap();
    let listening = eventually("it listens", STATE_TIMEOUT, async || {
        events_with(&log(), "listening").into_iter().next()
    });
    assert_eq!(listening.await["max_connections"], 488);
    let lowered = the_only(&log(), "connection limit lowered");
    assert_eq!(
        (&lowered["limit"], &lowered["effective"]),
        (&2000.into(), &488.into())
    );
    let message = lowered["message"].as_str().unwrap();
    assert!(message.contains("open files to 21024 "), "{message}");
}
