//! Watching a bucket in several regions: each tells the writes of all, once they have arrived.
// Helpers of tests panic as tests do.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

use std::time::Duration;

use cloudkv_test_harness::batches;
use cloudkv_test_harness::region::MultiRegionCluster;
use cloudkv_test_harness::rng::Rng;
use cloudkv_test_harness::watch::{
    EventRequest, WatchClient, WatchCounts, WatchModel, WatchOptions,
};
use cloudkv_test_harness::{Bucket, Router, eventually};
use serde_json::{Value, json};

const STATE_TIMEOUT: Duration = Duration::from_secs(60);
const REGIONS: [&str; 3] = ["eu", "us", "ap"];

fn at(world: &MultiRegionCluster, region: usize, bucket: &Bucket, query: &str) -> EventRequest {
    EventRequest::to_bucket(world.seat(region).http(), bucket, query)
}

/// Changes keys of which some are written in all regions.
async fn change_keys(world: &MultiRegionCluster, bucket: &Bucket, rng: &mut Rng) {
    for region in 0..3 {
        let operation = |number: u64| {
            let key = match number % 2 {
                0 => format!("shared/{}", rng.range(0..10)),
                _ => format!("own/{region}/{}", rng.range(0..20)),
            };
            match rng.range(0..5) {
                0 => batches::delete(&key),
                1 => json!({"op": "touch", "key": key, "metadata": {"region": region}}),
                2 => json!({"op": "put", "key": key, "value": "v", "ttl": "2s"}),
                _ => batches::put(&key, &rng.next_u64().to_string()),
            }
        };
        let operations: Vec<Value> = (0..20).map(operation).collect();
        batches::execute(&world.api(region), bucket, &operations).await;
    }
}

#[tokio::test]
async fn clients_in_each_region_have_the_bucket_in_the_end() {
    let world = MultiRegionCluster::start(&REGIONS, 1, 3).await;
    let bucket = world.api(0).create_bucket().await;
    world.wait_bucket_converged(&bucket).await;
    world.delay_regions(Duration::from_millis(40));
    let mut clients = vec![];
    for region in 0..3 {
        clients.extend([true, false].map(|is_initial| {
            let client = WatchClient::start(WatchOptions {
                is_initial,
                has_values: is_initial,
                ..WatchOptions::new(&[world.seat(region).http()], &bucket)
            });
            (region, client)
        }));
    }
    let mut rng = Rng::new(3);
    for round in 0..8 {
        if round == 3 {
            world.isolate_region(1);
        }
        change_keys(&world, &bucket, &mut rng).await;
    }
    world.network.heal();
    change_keys(&world, &bucket, &mut rng).await;
    let expiring = format!("{}?ttl=1s", bucket.key_path("expiring"));
    let put = world.api(1).put(&expiring, "v").await;
    put.assert_status(200);
    world.wait_bucket_converged(&bucket).await;
    for (region, client) in &clients {
        let has_expiry = |counts: &WatchCounts, _: &WatchModel| counts.expiries > 0;
        let waited = client.wait_until("a key expires", STATE_TIMEOUT, has_expiry);
        waited.await.unwrap();
        let counts = client.wait_equal(&world.api(*region), STATE_TIMEOUT).await;
        let counts = counts.unwrap_or_else(|problem| panic!("{}: {problem}", REGIONS[*region]));
        assert_eq!((counts.resets, counts.streams), (0, 1), "{counts:?}");
        assert!(counts.puts > 0 && counts.deletes > 0, "{counts:?}");
    }
}

#[tokio::test]
async fn writes_and_deletions_of_other_regions_are_told_as_they_arrive() {
    let world = MultiRegionCluster::start(&REGIONS, 1, 3).await;
    let bucket = world.api(0).create_bucket().await;
    world.wait_bucket_converged(&bucket).await;
    let key = bucket.key_path("k");
    let mut streams = vec![];
    for (region, name) in REGIONS.iter().enumerate() {
        let mut stream = at(&world, region, &bucket, "").open().await;
        assert_eq!(stream.expect_data("ready").await, json!({"region": name}));
        streams.push(stream);
    }
    for writer in 0..3 {
        let put = world.api(writer).put(&format!("{key}?ttl=1h"), "v").await;
        let version = put.assert_status(200).etag();
        for stream in &mut streams {
            let told = stream.expect_data("put").await;
            assert_eq!(told["version"], version.trim_matches('"'));
            assert!(told["expires_at"].is_string(), "{told}");
        }
    }
    world.api(1).delete(&key).await.assert_status(200);
    for stream in &mut streams {
        assert_eq!(stream.expect_data("delete").await["name"], "k");
    }
    let put = world.api(2).put(&format!("{key}?ttl=2s"), "v").await;
    let version = put.assert_status(200).etag();
    for stream in &mut streams {
        stream.expect("put").await;
        let told = stream.expect_data("expire").await;
        assert_eq!(told["version"], version.trim_matches('"'));
    }
    let path = format!("{}?confirm=0", bucket.path());
    let deletion = world.api(0).delete(&path).api_key(&bucket.account).await;
    deletion.assert_status(200);
    for stream in &mut streams {
        stream.expect_end().await;
    }
}

#[tokio::test]
async fn a_token_of_another_region_leads_to_a_reset() {
    let world = MultiRegionCluster::start(&["eu", "us"], 1, 2).await;
    let bucket = world.api(0).create_bucket().await;
    world.api(0).put_numbered(&bucket, "k", 5, "v").await;
    world.wait_bucket_converged(&bucket).await;
    let stream = at(&world, 0, &bucket, "").open_ready().await;
    let token = stream.last_event_id().unwrap();

    let request = at(&world, 1, &bucket, "").last_event_id(token);
    let mut stream = request.open().await;
    let reset = stream.expect("reset").await;
    assert_eq!(stream.expect_data("ready").await, json!({"region": "us"}));
    // Its ID is of this region.
    let again = at(&world, 1, &bucket, "").last_event_id(&reset.last_event_id);
    again.open_ready().await;

    let request = at(&world, 1, &bucket, "?initial=true").last_event_id(token);
    let mut stream = request.open().await;
    let reset = stream.expect("reset").await;
    let told = stream.take_by_name(5).await;
    assert!(told.values().all(|(event, _)| event == "put"), "{told:?}");
    stream.expect("ready").await;
    // From there, all comes again: the client has discarded what it had.
    let again = at(&world, 1, &bucket, "?initial=true").last_event_id(&reset.last_event_id);
    let mut stream = again.open().await;
    stream.expect("reset").await;
    assert_eq!(stream.take_by_name(5).await.len(), 5);
    stream.expect("ready").await;
}

#[tokio::test]
async fn a_client_follows_the_router_to_another_region() {
    let mut world = MultiRegionCluster::start(&["eu", "us"], 1, 2).await;
    let router = Router::start_with(&[world.seat(1).rpc()], &["--region", "eu"]).await;
    let bucket = world.api(0).create_bucket().await;
    world.api(0).put_numbered(&bucket, "k", 5, "v").await;
    world.wait_bucket_converged(&bucket).await;
    let client = |host: &str| {
        WatchClient::start(WatchOptions {
            is_initial: true,
            has_values: true,
            headers: vec![("host".to_owned(), host.to_owned())],
            ..WatchOptions::new(&[router.http()], &bucket)
        })
    };
    eventually(
        "the region serves the global name",
        STATE_TIMEOUT,
        async || {
            let ping = router.api().get("/ping").header("host", "api.cloudkv.io");
            let ping = ping.try_send().await.ok()?;
            (ping.status == 200 && ping.header("x-cloudkv-region") == "eu").then_some(())
        },
    )
    .await;
    let global = client("api.cloudkv.io");
    let pinned = client("api.eu.cloudkv.io");
    for client in [&global, &pinned] {
        client.wait_ready(STATE_TIMEOUT).await.unwrap();
    }
    world.kill(0);
    let put = async || {
        let put = world.api(1).put(&bucket.key_path("later"), "v").await;
        (put.status == 200).then_some(())
    };
    eventually("the other region takes writes", STATE_TIMEOUT, put).await;
    let counts = global.wait_equal(&world.api(1), STATE_TIMEOUT).await;
    assert!(
        counts.unwrap().resets > 0,
        "the token is of the region before"
    );
    world.restart(0).await;
    world.wait_serving(0).await;
    world.wait_bucket_converged(&bucket).await;
    let counts = pinned.wait_equal(&world.api(0), STATE_TIMEOUT).await;
    counts.unwrap();
}
