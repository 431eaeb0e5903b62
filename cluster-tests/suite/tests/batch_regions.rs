//! Batches over several regions: session tokens, and the region that a router chooses, also for a
//! PATCH of a key, which is that of a batch's `touch`.
// Helpers of tests panic as tests do.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

use std::cell::Cell;
use std::time::{Duration, Instant};

use cloudkv_test_harness::batches::{NOT_FOUND, OK, delete, get, lines_of, post, put, statuses};
use cloudkv_test_harness::region::MultiRegionCluster;
use cloudkv_test_harness::{ApiClient, ApiRequest, Bucket, RoutedRegions, eventually};
use serde_json::{Value, json};

const STATE_TIMEOUT: Duration = Duration::from_secs(60);
/// Status and error code of an operation that needs what has yet to arrive.
const BEHIND: (u64, &str) = (503, "behind");

/// Executes a batch with a session token, and retries while a line is behind.
async fn batch_since(
    api: &ApiClient,
    bucket: &Bucket,
    operations: &[Value],
    token: &str,
) -> (Vec<Value>, String) {
    eventually("the region isn't behind", STATE_TIMEOUT, async || {
        let request = post(api, bucket, operations);
        let answer = request.header("x-cloudkv-min-version", token).await;
        let outcomes = lines_of(&answer);
        let is_behind = |outcome: &Value| outcome["error"] == "behind";
        let token = answer.header("x-cloudkv-version").to_owned();
        (!outcomes.iter().any(is_behind)).then_some((outcomes, token))
    })
    .await
}

#[tokio::test]
async fn a_session_token_shows_a_batch_in_other_regions() {
    let world = MultiRegionCluster::start(&["eu", "us", "ap"], 1, 3).await;
    let bucket = world.api(0).create_bucket().await;
    world.delay_regions(Duration::from_millis(60));
    let keys: Vec<String> = (0..20).map(|number| format!("k{number}")).collect();
    let gets: Vec<Value> = keys.iter().map(|key| get(key)).collect();
    let mut token: Option<String> = None;
    for round in 0..6 {
        let (writer, reader) = (world.api(round % 3), world.api((round + 1) % 3));
        let value = format!("round {round}");
        let puts: Vec<Value> = keys.iter().map(|key| put(key, &value)).collect();
        let mut request = post(&writer, &bucket, &puts);
        if let Some(token) = &token {
            request = request.header("x-cloudkv-min-version", token);
        }
        let written = request.await;
        let written_lines = lines_of(&written);
        assert!(statuses(&written_lines).iter().all(|status| *status == OK));
        let seen = written.header("x-cloudkv-version");
        let (read, seen) = batch_since(&reader, &bucket, &gets, seen).await;
        for (written, read) in written_lines.iter().zip(&read) {
            assert_eq!(read["value"], value.as_str());
            assert_eq!(read["version"], written["version"]);
        }
        // The token covers what was read: the third region has it, too.
        let third = world.api((round + 2) % 3);
        let (read, seen) = batch_since(&third, &bucket, &gets, &seen).await;
        assert!(read.iter().all(|read| read["value"] == value.as_str()));
        token = Some(seen);
    }
    world.isolate_region(1);
    let written = post(
        &world.api(0),
        &bucket,
        &[put("k0", "cut off"), delete("k1")],
    )
    .await;
    let token = written.header("x-cloudkv-version").to_owned();
    let request = post(
        &world.api(1),
        &bucket,
        &[get("k0"), get("k1"), put("k2", "v")],
    );
    let answer = request.header("x-cloudkv-min-version", &token).await;
    assert_eq!(statuses(&lines_of(&answer)), [BEHIND, BEHIND, OK]);
    let request = post(&world.api(1), &bucket, &[get("k0")]);
    let invalid = request.header("x-cloudkv-min-version", "x").await;
    invalid.assert_error(400, "invalid_header");
    world.network.heal();
    let reads = [get("k0"), get("k1")];
    let (outcomes, _) = batch_since(&world.api(1), &bucket, &reads, &token).await;
    assert_eq!(statuses(&outcomes), [OK, NOT_FOUND]);
    assert_eq!(outcomes[0]["value"], "cut off");
}

/// A touch keeps the value that its region has: with a newer one's token it must not undo that.
#[tokio::test]
async fn a_touch_with_a_token_changes_what_the_client_has_seen_in_another_region() {
    let world = MultiRegionCluster::start(&["eu", "us", "ap"], 1, 3).await;
    let bucket = world.api(0).create_bucket().await;
    world.delay_regions(Duration::from_millis(60));
    let keys: Vec<String> = (0..20).map(|number| format!("k{number}")).collect();
    let puts = |value: &str| -> Vec<Value> { keys.iter().map(|key| put(key, value)).collect() };
    let first = post(&world.api(0), &bucket, &puts("value 0")).await;
    let mut token = first.header("x-cloudkv-version").to_owned();
    for round in 1..6 {
        let (writer, other) = (world.api(round % 3), world.api((round + 1) % 3));
        let (value, metadata) = (format!("value {round}"), json!({"round": round}));
        let request = post(&writer, &bucket, &puts(&value));
        let written = request.header("x-cloudkv-min-version", &token).await;
        assert_eq!(statuses(&lines_of(&written)), [OK; 20]);
        let touch = |key: &String| json!({"op": "touch", "key": key, "metadata": metadata});
        let touches = keys.iter().map(touch);
        let operations: Vec<Value> = touches.chain(keys.iter().map(|key| get(key))).collect();
        let seen = written.header("x-cloudkv-version");
        let (outcomes, seen) = batch_since(&other, &bucket, &operations, seen).await;
        assert_eq!(statuses(&outcomes), [OK; 40]);
        let (touched, read) = outcomes.split_at(20);
        for (touched, read) in touched.iter().zip(read) {
            assert_eq!(read["value"], value.as_str());
            assert_eq!(read["metadata"], metadata);
            assert_eq!(read["version"], touched["version"]);
        }
        token = seen;
    }
    world.isolate_region(1);
    let written = post(&world.api(0), &bucket, &[put("k0", "cut off")]).await;
    let written_line = &lines_of(&written)[0];
    let touch = json!({"op": "touch", "key": "k0", "ttl": 3600});
    let operations = [touch.clone(), put("other", "v"), touch];
    let request = post(&world.api(1), &bucket, &operations);
    let seen = written.header("x-cloudkv-version");
    let answer = request.header("x-cloudkv-min-version", seen).await;
    assert_eq!(statuses(&lines_of(&answer)), [BEHIND, OK, BEHIND]);
    world.network.heal();
    world.wait_bucket_converged(&bucket).await;
    for seat in 0..3 {
        let read = post(&world.api(seat), &bucket, &[get("k0")]).await;
        let read = &lines_of(&read)[0];
        assert_eq!(
            (&read["value"], &read["version"]),
            (&json!("cut off"), &written_line["version"])
        );
        assert!(read["expires_at"].is_null(), "{read}");
    }
}

/// Operations that wait for something in vain don't do so one after the other.
#[tokio::test]
async fn a_large_batch_ends_in_time_in_a_region_that_is_cut_off() {
    const ROUTER_TIMEOUT: Duration = Duration::from_secs(45);
    let world = MultiRegionCluster::start(&["eu", "us"], 1, 2).await;
    let bucket = world.api(0).create_bucket().await;
    world.api(0).put_numbered(&bucket, "k", 1, "old").await;
    world.wait_bucket_converged(&bucket).await;
    world.isolate_region(1);
    // In all shards.
    let puts: Vec<Value> = (0..100)
        .map(|number| put(&format!("k{number}"), "new"))
        .collect();
    let written = post(&world.api(0), &bucket, &puts).await;
    let token = written.header("x-cloudkv-version");
    let operations = (0..900).map(|number| get(&format!("k{number}")));
    let touches = (0..99).map(|number| format!("t{number}"));
    let touches = touches.map(|key| json!({"op": "touch", "key": key, "ttl": 60}));
    let mut operations: Vec<Value> = operations.chain(touches).collect();
    operations.push(put("other", "v"));
    let request = post(&world.api(1), &bucket, &operations);
    let answer = request.header("x-cloudkv-min-version", token).await;
    let outcomes = lines_of(&answer);
    let (written, waited) = outcomes.split_last().unwrap();
    assert_eq!(written["status"], 200, "{written}");
    for outcome in waited {
        assert_eq!(outcome["error"], "behind", "{outcome}");
    }
    assert!(answer.elapsed < ROUTER_TIMEOUT / 3, "{:?}", answer.elapsed);
}

/// Asserts that requests to the current region are refused when it is lost, until the other one is
/// the current region. `send` sends one to a host.
async fn assert_no_other_region_is_asked(
    regions: &mut RoutedRegions,
    send: impl Fn(&str) -> ApiRequest,
) {
    for (host, region) in [("api.cloudkv.io", "eu"), ("api.us.cloudkv.io", "us")] {
        let answer = send(host).await;
        answer.assert_status(200);
        assert_eq!(answer.header("x-cloudkv-region"), region);
    }
    regions.cluster.kill(0);
    let killed_at = Instant::now();
    let refused = Cell::new(0);
    eventually(
        "the current region is the other one",
        STATE_TIMEOUT,
        async || {
            let answer = send("api.cloudkv.io").try_send().await.ok()?;
            if answer.status == 200 {
                assert_eq!(answer.header("x-cloudkv-region"), "us");
                return Some(());
            }
            answer.assert_error_in(answer.status, &["unavailable", "unknown_outcome"]);
            refused.set(refused.get() + 1);
            None
        },
    )
    .await;
    // A region is given up when it has been unhealthy for a second: other requests go elsewhere at
    // once.
    assert!(refused.get() > 0 && killed_at.elapsed() > Duration::from_millis(700));
}

#[tokio::test]
async fn a_router_sends_a_batch_to_no_other_region_than_the_current_one() {
    let mut regions = RoutedRegions::start(&["eu", "us"], 1, 10).await;
    let (api, bucket) = (regions.router.api(), regions.bucket.clone());
    let operations = [put("k", "v"), get("k")];
    let answer = post(&api, &bucket, &operations).await;
    assert_eq!(statuses(&lines_of(&answer)), [OK, OK]);
    let send = |host: &str| post(&api, &bucket, &operations).header("host", host);
    assert_no_other_region_is_asked(&mut regions, send).await;
}

/// It has no condition; but another region may have an older value, which it would make the newest.
#[tokio::test]
async fn a_router_sends_a_patch_of_a_key_to_no_other_region_than_the_current_one() {
    let mut regions = RoutedRegions::start(&["eu", "us"], 1, 10).await;
    let api = regions.router.api();
    let path = format!("{}?ttl=1h", regions.bucket.key_path("0"));
    let send = |host: &str| api.patch(&path).header("host", host);
    assert_no_other_region_is_asked(&mut regions, send).await;
}
