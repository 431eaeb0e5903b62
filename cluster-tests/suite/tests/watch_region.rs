//! Watching a bucket at the nodes of a region: each tells all changes, whichever node has the keys,
//! and any of them goes on where another one ended.
// Helpers of tests panic as tests do.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

use std::time::Duration;

use cloudkv_test_harness::batches;
use cloudkv_test_harness::eventually;
use cloudkv_test_harness::region::{Region, RegionOptions, key_in_shard};
use cloudkv_test_harness::rng::Rng;
use cloudkv_test_harness::watch::{
    EventClient, EventRequest, OpenError, WatchClient, WatchCounts, WatchModel, WatchOptions,
};
use serde_json::{Value, json};

const STATE_TIMEOUT: Duration = Duration::from_secs(60);

async fn start_four() -> Region {
    let options = RegionOptions {
        nodes: 4,
        seats: 4,
        ..RegionOptions::default()
    };
    Region::start_with(options).await
}

/// Waits until some nodes have no replica of some shards.
async fn wait_shards_spread(region: &Region) {
    eventually("a node lacks a shard", STATE_TIMEOUT, async || {
        let statuses = region.statuses().await;
        let mut replicas = statuses.values().map(|status| {
            let shards = status.groups.iter().filter(|group| group.is_shard());
            shards.count()
        });
        let lacks_one = replicas.any(|replicas| replicas < region.shards() as usize);
        (statuses.len() == 4 && lacks_one).then_some(())
    })
    .await;
    region.wait_formed().await;
}

/// Returns operations on random keys.
fn operations(rng: &mut Rng, round: usize) -> Vec<Value> {
    let operation = |number: u64| {
        let key = format!("k{}", rng.range(0..60));
        match rng.range(0..5) {
            0 => batches::delete(&key),
            1 => json!({"op": "touch", "key": key, "metadata": {"round": round}}),
            2 => json!({"op": "put", "key": key, "value": "v", "ttl": "1s"}),
            _ => batches::put(&key, &format!("{round} {number}")),
        }
    };
    (0..30).map(operation).collect()
}

#[tokio::test]
async fn each_of_four_nodes_tells_all_changes_and_goes_on_for_the_others() {
    let region = start_four().await;
    wait_shards_spread(&region).await;
    let bucket = region.api(0).create_bucket().await;
    let addresses = region.http_addresses(0..4);
    let client = |seats: std::ops::Range<usize>, is_initial| {
        WatchClient::start(WatchOptions {
            is_initial,
            has_values: is_initial,
            ..WatchOptions::new(&addresses[seats], &bucket)
        })
    };
    let mut clients = vec![];
    for seat in 0..4 {
        clients.extend([true, false].map(|is_initial| client(seat..seat + 1, is_initial)));
    }
    let wanderers = [true, false].map(|is_initial| client(0..4, is_initial));
    for wanderer in &wanderers {
        wanderer.wait_ready(STATE_TIMEOUT).await.unwrap();
    }
    let mut rng = Rng::new(22);
    for round in 0..12 {
        let api = region.api(round % 4);
        batches::execute(&api, &bucket, &operations(&mut rng, round)).await;
        for wanderer in &wanderers {
            let readies = wanderer.counts().readies;
            wanderer.reconnect();
            let is_ready = |counts: &WatchCounts, _: &WatchModel| counts.readies > readies;
            let waited = wanderer.wait_until("it is ready", STATE_TIMEOUT, is_ready);
            waited.await.unwrap();
        }
    }
    for (number, client) in clients.iter().chain(&wanderers).enumerate() {
        let counts = client.wait_equal(&region.api(0), STATE_TIMEOUT).await;
        let counts = counts.unwrap_or_else(|problem| panic!("client {number}: {problem}"));
        assert_eq!(counts.resets, 0, "client {number}: {counts:?}");
    }
    for wanderer in &wanderers {
        assert!(wanderer.counts().streams > 8, "{:?}", wanderer.counts());
    }
}

#[tokio::test]
async fn a_token_of_one_node_counts_at_the_others() {
    let region = Region::start().await;
    let bucket = region.api(0).create_bucket().await;
    let at = |seat: usize| EventRequest::to_bucket(region.seat(seat).http(), &bucket, "");
    let mut token = at(0).open_ready().await.last_event_id().unwrap().to_owned();
    for round in 0..6 {
        // A write in each shard, which other nodes may not have yet.
        let writer = region.api(round % 3);
        let mut written = vec![];
        for shard in 0..region.shards() {
            let key = key_in_shard(&bucket, "k", shard, region.shards());
            let put = writer.put(&bucket.key_path(&key), round.to_string()).await;
            written.push((key, put.assert_status(200).etag()));
        }
        let mut stream = at((round + 1) % 3).last_event_id(&token).open().await;
        while !written.is_empty() {
            let event = stream.next_event().await.expect("all that was missed");
            let data: Value = serde_json::from_str(&event.data).unwrap();
            match event.name.as_str() {
                "put" => written.retain(|(key, etag)| {
                    data["name"] != key.as_str() || data["version"] != etag.trim_matches('"')
                }),
                "ready" => {}
                _ => panic!("{event:?}"),
            }
        }
        stream.last_event_id().unwrap().clone_into(&mut token);
    }
}

#[tokio::test]
async fn a_new_leader_loses_no_change() {
    let mut region = Region::start().await;
    let bucket = region.api(0).create_bucket().await;
    let leader = region.wait_leader("shard-0").await;
    let [follower, other] = [(leader + 1) % 3, (leader + 2) % 3];
    let key = bucket.key_path(&key_in_shard(&bucket, "k", 0, region.shards()));
    let request = EventRequest::to_bucket(region.seat(follower).http(), &bucket, "");
    let mut stream = request.open_ready().await;
    let client = WatchClient::start(WatchOptions {
        has_values: true,
        ..WatchOptions::new(&region.http_addresses([follower, other]), &bucket)
    });
    client.wait_ready(STATE_TIMEOUT).await.unwrap();
    let put = region.api(leader).put(&key, "before").await;
    let before = put.assert_status(200).etag();
    region.kill(leader);
    let after = eventually("the key is written again", STATE_TIMEOUT, async || {
        let put = region.api(other).put(&key, "after").try_send().await.ok()?;
        (put.status == 200).then(|| put.etag())
    })
    .await;
    // The stream may end while there is no leader; then its client comes back.
    let after = after.trim_matches('"').to_owned();
    let mut versions: Vec<String> = vec![];
    let told = async {
        while versions.last() != Some(&after) {
            match stream.next_event().await {
                Some(event) if event.name == "put" => {
                    let data: Value = serde_json::from_str(&event.data).unwrap();
                    versions.push(data["version"].as_str().unwrap().to_owned());
                }
                Some(event) => assert_eq!(event.name, "ready", "{event:?}"),
                None => {
                    let token = stream.last_event_id().unwrap().to_owned();
                    stream = request.clone().last_event_id(&token).open().await;
                }
            }
        }
    };
    let told = tokio::time::timeout(STATE_TIMEOUT, told).await;
    told.expect("the last write is told");
    let before = before.trim_matches('"').to_owned();
    assert!(versions.contains(&before), "{versions:?}");
    let counts = client.wait_equal(&region.api(other), STATE_TIMEOUT).await;
    assert_eq!(counts.unwrap().resets, 0);
}

/// Asserts that a request is answered by a stream that ends, whatever the node's state is.
async fn assert_ends_for_now(request: &EventRequest) {
    let mut stream = eventually("the node answers", STATE_TIMEOUT, async || {
        match EventClient::http1().open(request).await {
            Ok(stream) => Some(stream),
            // It doesn't listen yet.
            Err(OpenError::NoResponse(_)) => None,
            Err(error) => panic!("an EventSource gives up: {error:?}"),
        }
    })
    .await;
    let comments = stream.expect_end().await;
    assert!(!comments.concat().trim().is_empty(), "the reason is told");
    assert!(stream.retry().is_some(), "it is told when to come back");
}

#[tokio::test]
async fn a_node_that_cannot_serve_ends_its_streams_for_the_time_being() {
    let mut region = Region::start().await;
    let bucket = region.api(0).create_bucket().await;
    let path = bucket.key_path("k");
    let request = EventRequest::to_bucket(region.seat(0).http(), &bucket, "");
    let mut stream = request.open_ready().await;
    let client = WatchClient::start(WatchOptions {
        is_initial: true,
        ..WatchOptions::new(&region.http_addresses([0]), &bucket)
    });
    client.wait_ready(STATE_TIMEOUT).await.unwrap();
    region.api(0).put(&path, "v").await.assert_status(200);
    let told = stream.expect("put").await;
    region.kill(1);
    region.kill(2);
    stream.expect_end().await;
    assert!(stream.retry().is_some());
    let resuming = request.clone().last_event_id(&told.last_event_id);
    for request in [&request, &resuming] {
        assert_ends_for_now(request).await;
    }
    // While it starts, too.
    region.kill(0);
    region.nodes[0].start();
    region.wait_listening(0).await;
    assert_ends_for_now(&resuming).await;
    for seat in [1, 2] {
        region.restart(seat).await;
    }
    region.wait_formed().await;
    region.api(0).put(&path, "w").await.assert_status(200);
    let counts = client.wait_equal(&region.api(1), STATE_TIMEOUT).await;
    counts.unwrap();
}
