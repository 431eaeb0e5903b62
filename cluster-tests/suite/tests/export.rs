//! Exports while nodes fail and keys change: whole or told as incomplete, and followed by a watch.
// Helpers of tests panic as tests do.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use cloudkv_test_harness::batches::{self, OK};
use cloudkv_test_harness::region::{Region, RegionOptions, key_in_shard, shard_of};
use cloudkv_test_harness::rng::Rng;
use cloudkv_test_harness::transfer::{ExportedBucket, LineClient, LineStream, export, parse_line};
use cloudkv_test_harness::watch::{BucketCopy, WatchClient, WatchOptions, list_bucket};
use cloudkv_test_harness::{
    ApiClient, Bucket, Node, NodeOptions, PublicEndpoint, RoutedRegion, Router, eventually,
};
use serde_json::{Value, json};

const STATE_TIMEOUT: Duration = Duration::from_secs(60);

/// Bytes that a client takes of an export that it doesn't read.
const WINDOW_BYTES: u32 = 1 << 16;

async fn execute(api: &ApiClient, bucket: &Bucket, operations: &[Value]) {
    let outcomes = batches::execute(api, bucket, operations).await;
    let statuses = batches::statuses(&outcomes);
    assert!(statuses.iter().all(|status| *status == OK), "{statuses:?}");
}

async fn listed(api: &ApiClient, bucket: &Bucket) -> BucketCopy {
    let options = WatchOptions {
        has_values: true,
        ..WatchOptions::new(&[], bucket)
    };
    list_bucket(api, &options).await.unwrap()
}

/// Writes so many keys of 4 KiB, of names that `name` makes of numbers.
async fn fill(api: &ApiClient, bucket: &Bucket, count: u64, name: impl Fn(u64) -> String) {
    let value = "v".repeat(4000);
    let puts: Vec<Value> = (0..count)
        .map(|number| batches::put(&name(number), &value))
        .collect();
    for puts in puts.chunks(500) {
        execute(api, bucket, puts).await;
    }
}

#[tokio::test]
async fn each_node_exports_the_shards_of_all() {
    let region = Region::start_with(RegionOptions {
        nodes: 4,
        seats: 4,
        ..RegionOptions::default()
    })
    .await;
    region.wait_leaders_balanced().await;
    let router = Router::start(&region.rpc_addresses(0..4)).await;
    let bucket = router.api().create_bucket().await;
    let puts: Vec<Value> = (0..900)
        .map(|number| batches::put(&format!("k{number}"), &number.to_string()))
        .collect();
    let mut clients: Vec<ApiClient> = (0..4).map(|seat| region.api(seat)).collect();
    clients.extend([router.api(), ApiClient::http2(router.http())]);
    for (round, puts) in puts.chunks(150).enumerate() {
        // Each has what was acknowledged by another node just before.
        execute(&clients[round], &bucket, puts).await;
        let api = &clients[(round + 1) % clients.len()];
        let exported = export(api, &bucket, "").await;
        exported.assert_equals(&listed(&router.api(), &bucket).await);
        assert_eq!(exported.keys.len(), (round + 1) * 150);
    }
}

/// Returns a client that goes on where an export has ended.
fn follow(target: &RoutedRegion, bucket: &Bucket, exported: &ExportedBucket) -> WatchClient {
    let since = exported.since.clone().expect("a position");
    let keys = exported.keys.iter().map(|line| {
        let name = line["key"].as_str().expect("a key").to_owned();
        (name, line.clone())
    });
    WatchClient::start(WatchOptions {
        since: Some((since, keys.collect())),
        ..WatchOptions::new(&[target.router.http()], bucket)
    })
}

/// Returns the versions in a copy, whose entries come from lines, lists and events.
fn versions(copy: &BucketCopy) -> BTreeMap<&str, &Value> {
    let versions = copy.iter();
    versions
        .map(|(name, fields)| (name.as_str(), &fields["version"]))
        .collect()
}

#[tokio::test]
async fn an_export_and_what_follows_it_miss_nothing() {
    let region = RoutedRegion::start().await;
    let bucket = region.router.api().create_bucket().await;
    let puts = (0..900).map(|number| batches::put(&format!("k{number}"), "first"));
    execute(&region.router.api(), &bucket, &puts.collect::<Vec<_>>()).await;
    let stop = Arc::new(AtomicBool::new(false));
    let writer = tokio::spawn({
        let (api, bucket, stop) = (region.region.api(0), bucket.clone(), stop.clone());
        async move {
            let mut rng = Rng::new(5);
            while !stop.load(Ordering::Relaxed) {
                let operation = |number: u64| {
                    let key = format!("k{}", rng.range(0..1000));
                    match rng.range(0..3) {
                        0 => batches::delete(&key),
                        _ => batches::put(&key, &number.to_string()),
                    }
                };
                let operations: Vec<Value> = (0..20).map(operation).collect();
                batches::execute(&api, &bucket, &operations).await;
            }
        }
    });
    let mut followers = vec![];
    for api in region.clients() {
        let exported = export(&api, &bucket, "").await;
        followers.push(follow(&region, &bucket, &exported));
    }
    stop.store(true, Ordering::Relaxed);
    writer.await.unwrap();
    for follower in &followers {
        eventually(
            "export and events are the bucket",
            STATE_TIMEOUT,
            async || {
                assert_eq!(follower.failure(), None);
                assert!(follower.refusal().is_none());
                let options = WatchOptions::new(&[], &bucket);
                let listed = list_bucket(&region.router.api(), &options).await.ok()?;
                (versions(&follower.copy()) == versions(&listed)).then_some(())
            },
        )
        .await;
        assert_eq!(follower.counts().resets, 0, "{:?}", follower.counts());
    }
}

/// Begins an export that its client doesn't read.
async fn begin(address: SocketAddr, bucket: &Bucket) -> LineStream {
    let client = LineClient::http2_with_window(address, WINDOW_BYTES);
    eventually("an export begins", STATE_TIMEOUT, async || {
        let stream = client.export(bucket, "").await.unwrap();
        match stream.head.status {
            200 => Some(stream),
            503 => None,
            _ => panic!("{:?}", stream.head),
        }
    })
    .await
}

/// Reads an export that must not be whole; returns its error, if it has one.
async fn read_incomplete(stream: LineStream) -> Option<Value> {
    let (mut lines, has_ended) = stream.remaining().await;
    let last = parse_line(&lines.pop().unwrap_or_else(|| "{}".to_owned()));
    assert!(last.get("end").is_none(), "{last}");
    for line in &lines {
        assert!(parse_line(line)["key"].is_string(), "{line}");
    }
    if has_ended {
        let (code, message) = (&last["error"], &last["message"]);
        assert!(code.is_string() && message.is_string(), "{last}");
    }
    last.get("error").cloned()
}

#[tokio::test]
async fn an_export_whose_leader_is_lost_is_told_apart() {
    let mut region = RoutedRegion::start().await;
    let bucket = region.router.api().create_bucket().await;
    let shards = region.region.shards();
    // All keys in one shard.
    let in_shard =
        (0_u64..).filter(|number| shard_of(&bucket.id, &format!("k{number}"), shards) == 0);
    let names: Vec<u64> = in_shard.take(3000).collect();
    let name = |number: u64| format!("k{}", names[usize::try_from(number).unwrap()]);
    fill(&region.router.api(), &bucket, 3000, name).await;
    let leader = region.region.wait_leader("shard-0").await;
    let follower = region.region.seat((leader + 1) % 3).http();
    let streams = [
        begin(follower, &bucket).await,
        begin(region.router.http(), &bucket).await,
    ];
    region.region.kill(leader);
    for stream in streams {
        read_incomplete(stream).await;
    }
    // Another one is whole, once there is a leader.
    let path = format!("{}/export", bucket.path());
    let exported = eventually("the bucket is exported again", STATE_TIMEOUT, async || {
        let get = region.router.api().get(&path).api_key(&bucket.account);
        let response = get.try_send().await.ok()?;
        let is_whole = response.status == 200 && response.text().contains(r#""end":true"#);
        is_whole.then(|| ExportedBucket::from_response(&response))
    })
    .await;
    assert_eq!(exported.keys.len(), 3000);
}

#[tokio::test]
async fn an_export_of_a_bucket_that_is_deleted_is_told_apart() {
    for target in [
        PublicEndpoint::with_node(&[]).await,
        PublicEndpoint::with_router(&[]).await,
    ] {
        let api = target.node.api();
        let bucket = api.create_bucket().await;
        fill(&api, &bucket, 2000, |number| format!("k{number}")).await;
        let stream = begin(target.http(), &bucket).await;
        let path = format!("{}?confirm=2000", bucket.path());
        let deletion = api.delete(&path).api_key(&bucket.account).await;
        deletion.assert_status(200);
        let error = read_incomplete(stream).await;
        assert_eq!(error, Some(json!("unknown_bucket")));
    }
}

#[tokio::test]
async fn exports_at_one_time_are_bounded() {
    let target = PublicEndpoint::with_node(&["--max-exports=1"]).await;
    let api = target.node.api();
    let bucket = api.create_bucket().await;
    fill(&api, &bucket, 1000, |number| format!("k{number}")).await;
    let held = begin(target.http(), &bucket).await;
    let path = format!("{}/export", bucket.path());
    let refused = api.get(&path).api_key(&bucket.account).await;
    refused.assert_error(503, "unavailable");
    assert!(!refused.header("retry-after").is_empty());
    // Whoever has read all makes room, and whoever leaves, too.
    let (lines, has_ended) = held.remaining().await;
    assert!(has_ended && lines.len() == 1001, "{}", lines.len());
    drop(begin(target.http(), &bucket).await);
    eventually("there is room", STATE_TIMEOUT, async || {
        let get = api.get(&path).api_key(&bucket.account).await;
        (get.status == 200).then_some(())
    })
    .await;
}

/// Exports a bucket of a node with these settings, and changes more keys meanwhile than its memory
/// for recent changes holds. Returns the last line, and a node for requests.
async fn export_and_change(args: &[&str]) -> (Node, Bucket, Value) {
    let node = Node::start_with(NodeOptions {
        shards: Some(1),
        args: args.iter().map(|arg| (*arg).to_owned()).collect(),
        ..NodeOptions::default()
    })
    .await;
    let api = node.api();
    let bucket = api.create_bucket().await;
    fill(&api, &bucket, 1000, |number| format!("k{number}")).await;
    let stream = begin(node.http(), &bucket).await;
    let metadata = json!({"text": "x".repeat(1000)});
    for round in 0..4 {
        let puts = (0..1000).map(|number| {
            let key = format!("later{round}/{number}");
            json!({"op": "put", "key": key, "value": "v", "metadata": metadata})
        });
        execute(&api, &bucket, &puts.collect::<Vec<_>>()).await;
    }
    let (mut lines, has_ended) = stream.remaining().await;
    assert!(has_ended);
    let last = parse_line(&lines.pop().expect("a last line"));
    assert_eq!(last["end"], true, "{last}");
    assert_eq!(lines.len(), 1000, "one view");
    (node, bucket, last)
}

#[tokio::test]
async fn changes_since_an_export_are_kept_for_its_follower() {
    let args = ["--recent-changes-mib=1", "--pinned-changes-mib=32"];
    let (node, bucket, last) = export_and_change(&args).await;
    let since = last["since"].as_str().expect("a position").to_owned();
    let client = WatchClient::start(WatchOptions {
        since: Some((since, BucketCopy::new())),
        prefix: "later".to_owned(),
        ..WatchOptions::new(&[node.http()], &bucket)
    });
    let counts = client.wait_equal(&node.api(), STATE_TIMEOUT).await.unwrap();
    assert_eq!((counts.resets, counts.puts), (0, 4000), "{counts:?}");
}

#[tokio::test]
async fn an_export_that_lasts_too_long_has_no_position() {
    let args = ["--recent-changes-mib=1", "--pinned-changes-mib=1"];
    let (_node, _bucket, last) = export_and_change(&args).await;
    assert_eq!(last.get("since"), None, "{last}");
    assert_eq!(last["keys"], 1000);
}

#[tokio::test]
async fn an_export_is_of_one_view_of_each_shard() {
    let region = RoutedRegion::start().await;
    let api = region.router.api();
    let bucket = api.create_bucket().await;
    let shards = region.region.shards();
    // Two keys of one shard, which always change together, in one order.
    let [first, second] = ["a", "z"].map(|prefix| key_in_shard(&bucket, prefix, 1, shards));
    fill(&api, &bucket, 500, |number| format!("k{number}")).await;
    let stop = Arc::new(AtomicBool::new(false));
    let writer = tokio::spawn({
        let (api, bucket, stop) = (api.clone(), bucket.clone(), stop.clone());
        let paths = [&first, &second].map(|key| bucket.key_path(key));
        async move {
            let mut round = 0_u64;
            while !stop.load(Ordering::Relaxed) {
                for path in &paths {
                    api.put(path, round.to_string()).await.assert_status(200);
                }
                round += 1;
            }
        }
    });
    let value = |exported: &ExportedBucket, key: &str| -> Option<u64> {
        let line = exported.keys.iter().find(|line| line["key"] == key)?;
        line["value"].as_str()?.parse().ok()
    };
    for client in region.clients() {
        for _ in 0..3 {
            let exported = export(&client, &bucket, "").await;
            let [first, second] = [&first, &second].map(|key| value(&exported, key));
            let is_same_view = match (first, second) {
                (Some(first), Some(second)) => first == second || first == second + 1,
                (first, None) => first.is_none_or(|first| first == 0),
                (None, Some(_)) => false,
            };
            assert!(is_same_view, "{first:?} {second:?}");
        }
    }
    stop.store(true, Ordering::Relaxed);
    writer.await.unwrap();
}
