//! `/readyz` tells whether a node can answer for all keys now: those who send it users rely on it.
// Helpers of tests panic as tests do.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

use std::sync::Mutex;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use cloudkv_cluster_tests::region::{Region, RegionOptions, World, key_in_shard};
use cloudkv_cluster_tests::{Answer, eventually};
use futures_util::future::join;
use serde_json::Value;

const STATE_TIMEOUT: Duration = Duration::from_secs(30);
/// Time for a node to answer about itself.
const ANSWERS_WITHIN: Duration = Duration::from_secs(5);

/// Requests wait for a leader only that long.
fn impatient(nodes: usize) -> RegionOptions {
    RegionOptions {
        nodes,
        seats: nodes,
        args: ["--request-timeout", "1s"].map(str::to_owned).to_vec(),
        ..RegionOptions::default()
    }
}

/// What a node says of its readiness.
async fn readiness(region: &Region, seat: usize) -> Option<(u16, Value)> {
    let call = region.members[seat].admin_api().get("/readyz").unchecked();
    let answer = tokio::time::timeout(ANSWERS_WITHIN, call.try_send()).await;
    let answer: Answer = answer.ok()?.ok()?;
    Some((answer.status, answer.json()))
}

/// Waits until a node isn't ready, and `holds` of what it says.
async fn wait_unready(region: &Region, seat: usize, holds: impl Fn(&Value) -> bool) -> Value {
    let last = Mutex::new(None);
    let found = cloudkv_cluster_tests::try_eventually(STATE_TIMEOUT, async || {
        let said = readiness(region, seat).await;
        last.lock().expect("not poisoned").clone_from(&said);
        let (status, body) = said?;
        (status == 503 && holds(&body)).then_some(body)
    });
    match found.await {
        Some(body) => body,
        None => panic!("node {seat} is ready, or says something else: {last:?}"),
    }
}

fn waits_for(body: &Value) -> Vec<&str> {
    let names = body["waiting_for"].as_array().unwrap().iter();
    names.map(|name| name.as_str().unwrap()).collect()
}

#[tokio::test]
async fn a_node_whose_region_has_no_majority_is_not_ready_nor_is_it_after_a_restart() {
    let mut region = Region::start_with(impatient(3)).await;
    let bucket = region.api(0).bucket().await;
    let key = bucket.key("k");
    region.api(0).put(&key, "v").await.status(200);
    assert_eq!(
        region.admin(0, &["health", "--ready"]).await.unwrap(),
        "ready\n"
    );
    region.kill(1);
    region.kill(2);
    let body = wait_unready(&region, 0, |body| waits_for(body).len() == 4).await;
    for shard in ["shard-0", "shard-1", "shard-2", "shard-3"] {
        assert_eq!(body["components"][shard], false, "{body}");
        assert!(body["reasons"][shard].is_string(), "{body}");
    }
    region.api(0).get(&key).await.status(503);
    let refused = region.admin(0, &["health", "--ready"]).await.unwrap_err();
    assert!(refused.contains("shard-0"), "{refused}");
    let says_so = |body: &Value| body["metadata"] == "no majority";
    wait_unready(&region, 0, says_so).await;

    // Who led before is still written down on its disk.
    region.kill(0);
    region.members[0].start();
    region.wait_listening(0).await;
    eventually("users are told so", STATE_TIMEOUT, async || {
        if let Some((status, body)) = readiness(&region, 0).await {
            assert_eq!(status, 503, "{body}");
        }
        let get = region.api(0).get(&key).try_send().await.ok()?;
        get.status(503);
        Some(())
    })
    .await;
    wait_unready(&region, 0, says_so).await;

    region.restart(1).await;
    region.wait_ready(0).await;
    region.wait_ready(1).await;
    assert_eq!(region.api(0).get(&key).await.status(200).text(), "v");
    region.restart(2).await;
    region.wait_formed().await;
}

#[tokio::test]
async fn a_node_names_the_shards_whose_only_voter_is_gone() {
    let mut region = Region::start_with(impatient(2)).await;
    let bucket = region.api(0).bucket().await;
    let keys: Vec<String> = (0..4)
        .map(|shard| bucket.key(&key_in_shard(&bucket, "k", shard, 4)))
        .collect();
    for key in &keys {
        region.api(0).put(key, "v").await.status(200);
    }
    let status = region.wait_status(0).await;
    let led = status.led().filter(|group| group.is_shard());
    let lost: Vec<String> = led.map(|group| group.group.clone()).collect();
    assert!(!lost.is_empty(), "the first node has voters: {status:?}");
    // The other one only learns them.
    region.kill(0);
    let body = wait_unready(&region, 1, |body| {
        let waits_for = waits_for(body);
        lost.iter().all(|shard| waits_for.contains(&shard.as_str()))
    })
    .await;
    assert_eq!(waits_for(&body).len(), lost.len(), "{body}");
    for (shard, key) in keys.iter().enumerate() {
        let is_served = body["components"][format!("shard-{shard}")] == true;
        let get = region.api(1).get(key).await;
        get.status(if is_served { 200 } else { 503 });
    }
    region.restart(0).await;
    region.wait_ready(1).await;
    region.wait_formed().await;
}

#[tokio::test]
async fn a_region_that_is_cut_off_stays_ready_and_says_that_the_metadata_has_no_majority() {
    let mut world = World::start(&["eu", "us", "ap"], 1, 3).await;
    let bucket = world.api(0).bucket().await;
    let key = bucket.key("k");
    world.cut_off(0);
    let stays_ready_until = async |world: &World, metadata: &str| {
        eventually(metadata, STATE_TIMEOUT, async || {
            let (status, body) = readiness(world, 0).await?;
            assert_eq!(status, 200, "{body}");
            (body["metadata"] == metadata).then_some(())
        })
        .await;
    };
    stays_ready_until(&world, "no majority").await;
    world.api(0).put(&key, "v").await.status(200);
    let admin = world.members[0].admin_api();
    let status = admin.get("/status").unchecked().await.json();
    assert_eq!(
        (&status["metadata"], &status["ready"]),
        (&"no majority".into(), &true.into())
    );
    let page = admin.get("/metrics").unchecked().await;
    let has = |line: &str| page.text().lines().any(|it| it == line);
    assert!(has("cloudkv_ready 1") && has("cloudkv_raft_has_leader{group=\"meta\"} 0"));
    assert!(has("cloudkv_raft_has_leader{group=\"shard-0\"} 1"));

    // Restarts included: the region must go on.
    world.kill(0);
    world.restart(0).await;
    world.cut_off(0);
    world.wait_ready(0).await;
    stays_ready_until(&world, "no majority").await;
    assert_eq!(world.api(0).get(&key).await.status(200).text(), "v");
    world.network.heal();
    stays_ready_until(&world, "ok").await;
}

#[tokio::test]
async fn a_planned_restart_makes_no_other_node_unready() {
    let mut region = Region::start().await;
    region.wait_spread().await;
    let admins = [0, 1].map(|seat| region.members[seat].admin_api());
    let over = AtomicBool::new(false);
    let watch = async {
        let mut unready = vec![];
        while !over.load(Ordering::Relaxed) {
            for admin in &admins {
                let answer = admin.get("/readyz").unchecked().await;
                if answer.status != 200 {
                    unready.push(answer.text().to_owned());
                }
            }
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
        unready
    };
    let restart = async {
        region.terminate(2).await;
        region.restart(2).await;
        region.wait_ready(2).await;
        over.store(true, Ordering::Relaxed);
    };
    let (unready, ()) = join(watch, restart).await;
    assert_eq!(unready, Vec::<String>::new());
    region.wait_formed().await;
}
