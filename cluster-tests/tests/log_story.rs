//! What an operator reads in the log: how a start goes, and what changes around a node, once each.
// Helpers of tests panic as tests do.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

use std::time::Duration;

use cloudkv_cluster_tests::region::{Region, World};
use cloudkv_cluster_tests::{Node, Router, eventually};
use serde_json::Value;

const STATE_TIMEOUT: Duration = Duration::from_secs(30);

/// The events of a log.
fn events(text: &str) -> Vec<Value> {
    let lines = text.lines();
    lines
        .filter_map(|line| serde_json::from_str(line).ok())
        .collect()
}

/// The events of a log that say `message`.
fn that_say(text: &str, message: &str) -> Vec<Value> {
    let says = |event: &Value| {
        event["message"]
            .as_str()
            .is_some_and(|it| it.starts_with(message))
    };
    events(text).into_iter().filter(says).collect()
}

/// The first event of a node's log that says `message`.
async fn wait_for(region: &Region, seat: usize, message: &str) -> Value {
    let what = format!("node {seat} says: {message}");
    eventually(&what, STATE_TIMEOUT, async || {
        let found = that_say(&region.members[seat].log().text(), message);
        found.into_iter().next()
    })
    .await
}

/// The only event of a log that says `message`.
fn the_one(text: &str, message: &str) -> Value {
    let mut found = that_say(text, message);
    assert_eq!(found.len(), 1, "{message}: {found:#?}\n{text}");
    found.remove(0)
}

#[tokio::test]
async fn a_start_is_told_from_version_to_ready_and_requests_are_not() {
    let mut node = Node::start().await;
    let ready = async |node: &Node| {
        eventually("it says that it is ready", STATE_TIMEOUT, async || {
            (!that_say(&node.log_text(), "ready").is_empty()).then_some(())
        })
        .await;
    };
    ready(&node).await;
    let log = node.log_text();
    let start = the_one(&log, "starting");
    assert_eq!(
        (&start["region"], start["version"].is_string()),
        (&"local".into(), true)
    );
    let opened = the_one(&log, "data directory opened");
    assert_eq!(opened["state"], "new");
    let cluster = opened["cluster"].as_str().unwrap().to_owned();
    let listening = the_one(&log, "listening");
    assert_eq!(listening["http"], node.http().to_string());
    assert_eq!(listening["rpc"], node.rpc().to_string());
    let memory = the_one(&log, "threads and memory");
    assert!(memory["block_cache_mib"].as_u64() > Some(0), "{memory}");
    assert!(memory["http_threads"].as_u64() > Some(0), "{memory}");
    let told = the_one(&log, "ready");
    assert!(told["after"].as_str().unwrap().ends_with(" s"), "{told}");
    assert_eq!(
        (&told["nodes"], &told["regions"]),
        (&1.into(), &"local".into())
    );

    let bucket = node.api().bucket().await;
    let before = events(&node.log_text()).len();
    for key in 0..50 {
        let path = bucket.key(&format!("k{key}"));
        node.api().put(&path, "v").await.status(200);
        node.api().get(&path).await.status(200);
    }
    assert_eq!(events(&node.log_text()).len(), before);

    node.terminate().await;
    let length = node.log_text().len();
    node.restart().await;
    let again = node.log_text().split_off(length);
    let opened = the_one(&again, "data directory opened");
    assert_eq!(
        (&opened["state"], &opened["cluster"]),
        (&"found".into(), &cluster.into())
    );
}

#[tokio::test]
async fn a_node_that_is_lost_and_comes_back_is_told_once_by_its_name_with_what_follows() {
    let mut region = Region::start().await;
    region.wait_spread().await;
    let lost = region.seat(2).rpc().to_string();
    let length = region.members[0].log().text().len();
    region.kill(2);
    let told = wait_for(&region, 0, "node not reached").await;
    assert_eq!(told["level"], "WARN");
    assert_eq!(told["node"], format!("{lost} (local)"));
    let moved = wait_for_move(&region, &lost).await;
    assert!(
        moved["groups"].as_str().unwrap().contains("shard-"),
        "{moved}"
    );
    region.restart(2).await;
    let back = wait_for(&region, 0, "node reached again").await;
    assert_eq!(back["node"], format!("{lost} (local)"));
    region.wait_formed().await;
    let text = region.members[0].log().text().split_off(length);
    the_one(&text, "node not reached");
    the_one(&text, "node reached again");
    assert!(
        that_say(&text, "no majority").is_empty(),
        "an election is no loss: {text}"
    );
}

/// The event of one of the other nodes that tells who leads in the place of a lost one.
async fn wait_for_move(region: &Region, lost: &str) -> Value {
    eventually("it is told who leads now", STATE_TIMEOUT, async || {
        let logs = [0, 1].map(|seat| region.members[seat].log().text());
        let mut moves = logs
            .iter()
            .flat_map(|log| that_say(log, "leadership moved"));
        moves.find(|event| {
            let from = event["from"]
                .as_str()
                .is_some_and(|from| from.contains(lost));
            from && event["why"]
                .as_str()
                .is_some_and(|why| why.contains("not heard"))
        })
    })
    .await
}

#[tokio::test]
async fn a_majority_that_is_lost_and_found_is_told() {
    let mut region = Region::start().await;
    region.kill(1);
    region.kill(2);
    eventually("all shards are told", STATE_TIMEOUT, async || {
        let lost = that_say(&region.members[0].log().text(), "no majority");
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
    wait_for(&region, 0, "majority found again").await;
    wait_for(&region, 0, "the metadata has a majority again").await;
    region.wait_formed().await;
}

#[tokio::test]
async fn a_planned_stop_says_why_leadership_moves() {
    let mut region = Region::start().await;
    region.wait_spread().await;
    region.terminate(2).await;
    eventually(
        "another node says that it was handed over",
        STATE_TIMEOUT,
        async || {
            let logs = [0, 1].map(|seat| region.members[seat].log().text());
            let mut moves = logs
                .iter()
                .flat_map(|log| that_say(log, "leadership moved"));
            moves
                .any(|event| event["why"] == "the node that led has handed over")
                .then_some(())
        },
    )
    .await;
    region.restart(2).await;
    region.wait_formed().await;
}

#[tokio::test]
async fn a_region_that_is_cut_off_is_told_and_caught_up_with() {
    let world = World::start(&["eu", "us"], 1, 2).await;
    world.cut_off(1);
    let lost = wait_for(&world, 0, "region not reached").await;
    assert_eq!(
        (&lost["region"], &lost["level"]),
        (&"us".into(), &"WARN".into())
    );
    world.network.heal();
    let back = wait_for(&world, 0, "region reached again").await;
    assert_eq!(back["region"], "us");
    let log = world.members[0].log().text();
    assert!(that_say(&log, "node not reached").is_empty(), "{log}");
}

/// When an event was logged, in seconds.
fn logged_at(event: &Value) -> f64 {
    let stamp = event["timestamp"].as_str().unwrap();
    let clock = stamp.split_once('T').unwrap().1.trim_end_matches('Z');
    clock.split(':').fold(0.0, |seconds, part| {
        seconds * 60.0 + part.parse::<f64>().unwrap()
    })
}

#[tokio::test]
async fn a_router_that_reaches_no_seed_says_why_of_each_now_and_then() {
    // Ports that were free a moment ago, and at which nobody listens.
    let seeds: Vec<_> = (0..2)
        .map(|_| {
            let listener = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
            listener.local_addr().unwrap()
        })
        .collect();
    let router = Router::launch(&seeds, &[]);
    let told = || that_say(&router.log_text(), "no node answers");
    let all = eventually("it says so twice", STATE_TIMEOUT, async || {
        Some(told()).filter(|all| all.len() >= 2)
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
    let between = (logged_at(&all[1]) - logged_at(&all[0])).rem_euclid(86_400.0);
    assert!(between > 9.5, "{between} s");
    let log = router.log_text();
    assert_eq!(
        the_one(&log, "starting")["seeds"],
        format!("{}, {}", seeds[0], seeds[1])
    );
    the_one(&log, "listening");
}

#[tokio::test]
async fn a_router_tells_when_it_is_ready_and_when_a_region_is_lost() {
    let mut node = Node::start().await;
    let router = Router::start(&[node.rpc()]).await;
    let wait = async |message: &str| {
        eventually(message, STATE_TIMEOUT, async || {
            that_say(&router.log_text(), message).into_iter().next()
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
        lost["why"]
            .as_str()
            .unwrap()
            .contains("none of its 1 nodes"),
        "{lost}"
    );
    drop(node);
}
