//! `/readyz` reports whether a node can serve all keys now; load balancers rely on it.
// Helpers of tests panic as tests do.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

use std::sync::Mutex;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use cloudkv_test_harness::region::{MultiRegionCluster, Region, RegionOptions, key_in_shard};
use cloudkv_test_harness::{HttpResponse, eventually};
use futures_util::future::join;
use serde_json::Value;

const STATE_TIMEOUT: Duration = Duration::from_secs(30);
/// Bound on a node's answer about itself.
const PROBE_TIMEOUT: Duration = Duration::from_secs(5);

/// Options of a region whose requests wait for a leader for one second only.
fn short_timeout_options(nodes: usize) -> RegionOptions {
    RegionOptions {
        nodes,
        seats: nodes,
        args: ["--request-timeout", "1s"].map(str::to_owned).to_vec(),
        ..RegionOptions::default()
    }
}

/// Returns status and body of a node's `/readyz`.
async fn readiness(region: &Region, seat: usize) -> Option<(u16, Value)> {
    let call = region.nodes[seat].admin_api().get("/readyz").unchecked();
    let answer = tokio::time::timeout(PROBE_TIMEOUT, call.try_send()).await;
    let answer: HttpResponse = answer.ok()?.ok()?;
    Some((answer.status, answer.json()))
}

/// Waits until a node isn't ready, and its answer's body `matches`.
async fn wait_unready(region: &Region, seat: usize, matches: impl Fn(&Value) -> bool) -> Value {
    let last = Mutex::new(None);
    let unready = cloudkv_test_harness::try_eventually(STATE_TIMEOUT, async || {
        let answer = readiness(region, seat).await;
        last.lock().expect("not poisoned").clone_from(&answer);
        let (status, body) = answer?;
        (status == 503 && matches(&body)).then_some(body)
    });
    match unready.await {
        Some(body) => body,
        None => panic!("node {seat} is ready, or unready for another reason: {last:?}"),
    }
}

fn waits_for(body: &Value) -> Vec<&str> {
    let names = body["waiting_for"].as_array().unwrap().iter();
    names.map(|name| name.as_str().unwrap()).collect()
}

#[tokio::test]
async fn a_node_without_a_majority_is_not_ready_before_and_after_a_restart() {
    let mut region = Region::start_with(short_timeout_options(3)).await;
    let bucket = region.api(0).create_bucket().await;
    let key = bucket.key_path("k");
    region.api(0).put(&key, "v").await.assert_status(200);
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
    region.api(0).get(&key).await.assert_status(503);
    let refused = region.admin(0, &["health", "--ready"]).await.unwrap_err();
    assert!(refused.contains("shard-0"), "{refused}");
    let lacks_majority = |body: &Value| body["metadata"] == "no majority";
    wait_unready(&region, 0, lacks_majority).await;

    // The previous leader is still recorded on its disk.
    region.kill(0);
    region.nodes[0].start();
    region.wait_listening(0).await;
    eventually("users get 503", STATE_TIMEOUT, async || {
        if let Some((status, body)) = readiness(&region, 0).await {
            assert_eq!(status, 503, "{body}");
        }
        let get = region.api(0).get(&key).try_send().await.ok()?;
        get.assert_status(503);
        Some(())
    })
    .await;
    wait_unready(&region, 0, lacks_majority).await;

    region.restart(1).await;
    region.wait_ready(0).await;
    region.wait_ready(1).await;
    assert_eq!(region.api(0).get(&key).await.assert_status(200).text(), "v");
    region.restart(2).await;
    region.wait_formed().await;
}

#[tokio::test]
async fn a_node_names_the_shards_whose_only_voter_is_down() {
    let mut region = Region::start_with(short_timeout_options(2)).await;
    let bucket = region.api(0).create_bucket().await;
    let keys: Vec<String> = (0..4)
        .map(|shard| bucket.key_path(&key_in_shard(&bucket, "k", shard, 4)))
        .collect();
    for key in &keys {
        region.api(0).put(key, "v").await.assert_status(200);
    }
    let status = region.wait_status(0).await;
    let led = status.led_groups().filter(|group| group.is_shard());
    let lost: Vec<String> = led.map(|group| group.group.clone()).collect();
    assert!(!lost.is_empty(), "the first node has voters: {status:?}");
    // The second node is only their learner.
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
        get.assert_status(if is_served { 200 } else { 503 });
    }
    region.restart(0).await;
    region.wait_ready(1).await;
    region.wait_formed().await;
}

#[tokio::test]
async fn a_partitioned_region_stays_ready_and_reports_that_the_metadata_has_no_majority() {
    let mut world = MultiRegionCluster::start(&["eu", "us", "ap"], 1, 3).await;
    let bucket = world.api(0).create_bucket().await;
    let key = bucket.key_path("k");
    world.isolate_region(0);
    let stays_ready_until = async |world: &MultiRegionCluster, metadata: &str| {
        eventually(metadata, STATE_TIMEOUT, async || {
            let (status, body) = readiness(world, 0).await?;
            assert_eq!(status, 200, "{body}");
            (body["metadata"] == metadata).then_some(())
        })
        .await;
    };
    stays_ready_until(&world, "no majority").await;
    world.api(0).put(&key, "v").await.assert_status(200);
    let admin = world.nodes[0].admin_api();
    let status = admin.get("/status").unchecked().await.json();
    assert_eq!(
        (&status["metadata"], &status["ready"]),
        (&"no majority".into(), &true.into())
    );
    let page = admin.get("/metrics").unchecked().await;
    let has = |line: &str| page.text().lines().any(|it| it == line);
    assert!(has("cloudkv_ready 1") && has("cloudkv_raft_has_leader{group=\"meta\"} 0"));
    assert!(has("cloudkv_raft_has_leader{group=\"shard-0\"} 1"));

    // Also after a restart: the region must go on.
    world.kill(0);
    world.restart(0).await;
    world.isolate_region(0);
    world.wait_ready(0).await;
    stays_ready_until(&world, "no majority").await;
    assert_eq!(world.api(0).get(&key).await.assert_status(200).text(), "v");
    world.network.heal();
    stays_ready_until(&world, "ok").await;
}

#[tokio::test]
async fn a_planned_restart_makes_no_other_node_unready() {
    let mut region = Region::start().await;
    region.wait_leaders_balanced().await;
    let admins = [0, 1].map(|seat| region.nodes[seat].admin_api());
    let is_done = AtomicBool::new(false);
    let watch = async {
        let mut unready = vec![];
        while !is_done.load(Ordering::Relaxed) {
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
        is_done.store(true, Ordering::Relaxed);
    };
    let (unready, ()) = join(watch, restart).await;
    assert_eq!(unready, Vec::<String>::new());
    region.wait_formed().await;
}
