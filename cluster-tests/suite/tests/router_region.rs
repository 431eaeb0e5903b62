//! A region of three nodes behind a router: a client's view of a node that stops, crashes or
//! stalls.
// Helpers of tests panic as tests do.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

use std::net::SocketAddr;
use std::time::Duration;

use cloudkv_test_harness::load::{LoadPattern, PlainLoad};
use cloudkv_test_harness::prometheus::sum_of_samples;
use cloudkv_test_harness::region::{Region, RegionOptions, key_in_shard};
use cloudkv_test_harness::{Bucket, Router, eventually};

const STATE_TIMEOUT: Duration = Duration::from_secs(30);
const CLIENTS: usize = 64;

async fn start() -> (Region, Router, Bucket) {
    let region = Region::start().await;
    let seeds = region.rpc_addresses(0..3);
    let router = Router::start_with(&seeds, &["--threads", "2"]).await;
    let bucket = router.api().create_bucket_with(&[("plan", "pro")]).await;
    (region, router, bucket)
}

/// Starts clients of the router that use a key each, with so many requests per second together.
fn start_load(router: &Router, bucket: &Bucket, rate: f64) -> PlainLoad {
    let (targets, work) = ([router.http()], LoadPattern::OwnKeys);
    PlainLoad::start(&targets, bucket, CLIENTS, work, Some(rate))
}

#[tokio::test]
async fn a_rolling_restart_fails_no_request() {
    let (mut region, router, bucket) = start().await;
    let load = start_load(&router, &bucket, 300.0);
    for seat in 0..3 {
        load.wait_progress(50).await;
        region.terminate(seat).await;
        region.restart(seat).await;
        region.wait_formed().await;
    }
    load.wait_progress(50).await;
    let outcome = load.stop().await;
    assert_eq!(outcome.errors, 0, "{:?}", outcome.first_errors);
    assert_eq!(outcome.retries, 0, "the router closed connections");
    assert!(outcome.requests > 200, "{outcome:?}");
}

#[tokio::test]
async fn a_killed_node_fails_only_its_writes_in_flight() {
    let (mut region, router, bucket) = start().await;
    let load = start_load(&router, &bucket, 400.0);
    for seat in 0..3 {
        region.wait_leaders_balanced().await;
        load.wait_progress(300).await;
        let before = load.errors();
        // It leads shards, so some of these requests are in flight at it when it is killed.
        region.nodes[seat].pause();
        load.wait_progress(CLIENTS as u64).await;
        region.kill(seat);
        load.wait_progress(500).await;
        // Each client has one request in flight, and reads are retried.
        let failed = load.errors() - before;
        assert!(failed <= CLIENTS as u64, "{failed} errors by node {seat}");
        region.restart(seat).await;
        region.wait_formed().await;
    }
    let outcome = load.stop().await;
    assert_eq!(
        outcome.errors, outcome.unknown_outcomes,
        "{:?}",
        outcome.first_errors
    );
    assert_eq!(outcome.retries, 0, "the router closed connections");
    // Otherwise no fault affected a request.
    assert!(router.metric("cloudkv_router_retries_total").await > 0.0);
}

#[tokio::test]
async fn requests_go_directly_to_the_leader_of_their_shard() {
    let (region, router, bucket) = start().await;
    // Leaderships are transferred until then.
    region.wait_leaders_balanced().await;
    let shards = region.shards();
    for shard in 0..shards {
        let group = format!("shard-{shard}");
        let key = bucket.key_path(&key_in_shard(&bucket, "k", shard, shards));
        let what = "the leader stays the same during the writes";
        eventually(what, STATE_TIMEOUT, async || {
            let leader = region.wait_leader(&group).await;
            let seat = region.seat(leader);
            if router.leader_address(shard).await != Some(seat.http()) {
                return None;
            }
            let before = puts_at(seat.admin()).await;
            for _ in 0..5 {
                router.api().put(&key, "v").await.assert_status(200);
            }
            // A write is counted when its answer is sent.
            eventually(
                "all writes are counted at the leader",
                STATE_TIMEOUT,
                async || {
                    let counted = puts_at(seat.admin()).await - before;
                    assert!(counted <= 5, "{counted} writes of {group}");
                    // On a busy machine another leader may be elected meanwhile, which is not the
                    // router's fault.
                    let is_same = region.wait_leader(&group).await == leader
                        && router.leader_address(shard).await == Some(seat.http());
                    (counted == 5 || !is_same).then_some(is_same)
                },
            )
            .await
            .then_some(())
        })
        .await;
    }
}

/// Returns the number of users' writes that a node has answered.
async fn puts_at(admin: SocketAddr) -> u64 {
    let api = cloudkv_test_harness::ApiClient::new(admin);
    let page = api.get("/metrics").unchecked().await;
    sum_of_samples(page.text(), "cloudkv_http_requests_total", "class=\"put\"") as u64
}

#[tokio::test]
async fn reads_through_the_router_return_the_last_write() {
    let (region, router, bucket) = start().await;
    let api = router.api();
    for shard in 0..region.shards() {
        let key = bucket.key_path(&key_in_shard(&bucket, "k", shard, region.shards()));
        for value in ["1", "2", "3"] {
            api.put(&key, value).await.assert_status(200);
            assert_eq!(api.get(&key).await.text(), value);
        }
    }
    // Once the streams to the nodes are open.
    eventually(
        "keys go over the stream of calls",
        STATE_TIMEOUT,
        async || {
            api.get(&bucket.key_path("k")).await;
            let streamed = router.metric("cloudkv_router_streamed_total").await;
            (streamed > 0.0).then_some(())
        },
    )
    .await;
}

#[tokio::test]
async fn a_router_works_without_its_seed_and_starts_with_any_live_one() {
    let mut region = Region::start().await;
    let router = Router::start(&[region.seat(0).rpc()]).await;
    let bucket = router.api().create_bucket().await;
    region.kill(0);
    let key = bucket.key_path("k");
    eventually("a write without the seed", STATE_TIMEOUT, async || {
        let answer = router.api().put(&key, "v").try_send().await.ok()?;
        (answer.status == 200).then_some(())
    })
    .await;
    // The first two seeds don't answer.
    let nowhere: SocketAddr = "127.0.0.1:9".parse().unwrap();
    let seeds = [region.seat(0).rpc(), nowhere, region.seat(2).rpc()];
    let second = Router::start(&seeds).await;
    assert_eq!(second.api().get(&key).await.text(), "v");
    assert_eq!(
        router.api().get(&key).await.text(),
        "v",
        "through the first router"
    );
}

#[tokio::test]
async fn a_paused_node_delays_reads_and_fails_none() {
    let (region, router, bucket) = start().await;
    let key = bucket.key_path("k");
    router.api().put(&key, "v").await.assert_status(200);
    let leader = region.wait_leader("shard-0").await;
    region.nodes[leader].pause();
    for _ in 0..20 {
        assert_eq!(router.api().get(&key).await.text(), "v");
    }
    region.nodes[leader].resume();
    assert!(router.metric("cloudkv_router_unknown_outcomes_total").await < 1.0);
}

#[tokio::test]
async fn a_region_that_is_down_gets_503_at_once_and_is_served_again_afterwards() {
    let options = RegionOptions {
        nodes: 1,
        seats: 1,
        ..RegionOptions::default()
    };
    let mut region = Region::start_with(options).await;
    let router = Router::start(&[region.seat(0).rpc()]).await;
    let bucket = router.api().create_bucket().await;
    let key = bucket.key_path("k");
    router.api().put(&key, "v").await.assert_status(200);
    region.kill(0);
    for host in ["api.local.cloudkv.io", "api.cloudkv.io"] {
        for method in [http::Method::PUT, http::Method::GET] {
            let call = router.api().request(method, &key).header("host", host);
            let answer = call.body("w").await;
            answer.assert_error(503, "unavailable");
            assert_eq!(answer.header("retry-after"), "1");
            assert!(answer.elapsed < Duration::from_secs(5), "{answer:?}");
        }
    }
    region.restart(0).await;
    eventually("the region is served again", STATE_TIMEOUT, async || {
        let answer = router.api().get(&key).try_send().await.ok()?;
        (answer.status == 200 && answer.body == "v").then_some(())
    })
    .await;
}
