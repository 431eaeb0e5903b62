//! Watching a bucket of one node, or through a router: what its settings bound, and its stop.
// Helpers of tests panic as tests do.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

use std::net::Ipv4Addr;
use std::time::Duration;

use cloudkv_test_harness::batches::{self, OK};
use cloudkv_test_harness::rng::Rng;
use cloudkv_test_harness::watch::{
    BucketCopy, EventClient, EventRequest, EventStream, SseItem, StreamStep, WatchClient,
    WatchCounts, WatchModel, WatchOptions,
};
use cloudkv_test_harness::{
    ApiClient, Bucket, Node, NodeOptions, PublicEndpoint, Router, eventually,
};
use futures_util::future::join_all;
use serde_json::{Value, json};

const STATE_TIMEOUT: Duration = Duration::from_secs(60);

/// Executes operations that all succeed.
async fn execute(api: &ApiClient, bucket: &Bucket, operations: &[Value]) {
    let outcomes = batches::execute(api, bucket, operations).await;
    let statuses = batches::statuses(&outcomes);
    assert!(statuses.iter().all(|status| *status == OK), "{statuses:?}");
}

#[tokio::test]
async fn clients_that_start_while_keys_change_have_the_bucket_in_the_end() {
    // All keys in one shard: several pages of it.
    let node = Node::start_with(NodeOptions {
        shards: Some(1),
        ..NodeOptions::default()
    })
    .await;
    let router = Router::start(&[node.rpc()]).await;
    let api = node.api();
    let bucket = api.create_bucket().await;
    let name = |number: u64| format!("k{number:04}");
    for first in [0, 800] {
        let puts = (first..first + 800).map(|number| batches::put(&name(number), "first"));
        execute(&api, &bucket, &puts.collect::<Vec<_>>()).await;
    }
    let mut rng = Rng::new(1);
    let mut clients = vec![];
    for round in 0..16_usize {
        let address = [node.http(), router.http()][round % 2];
        clients.push(WatchClient::start(WatchOptions {
            is_initial: round % 4 < 3,
            has_values: round % 3 == 0,
            is_http2: round % 8 < 4,
            prefix: ["", "k1"][round / 8].to_owned(),
            ..WatchOptions::new(&[address], &bucket)
        }));
        let operations = (0..200).map(|number| {
            let key = name(rng.range(0..2000));
            match rng.range(0..4) {
                0 => batches::delete(&key),
                1 => json!({"op": "put", "key": key, "value": "v", "ttl": "2s"}),
                _ => batches::put(&key, &format!("{round} {number}")),
            }
        });
        let operations: Vec<Value> = operations.collect();
        batches::execute(&api, &bucket, &operations).await;
    }
    for client in &clients {
        let counts = client.wait_equal(&api, STATE_TIMEOUT).await.unwrap();
        assert_eq!((counts.resets, counts.streams), (0, 1), "{counts:?}");
    }
}

/// Writes more metadata than fits into the smallest memory for recent changes.
async fn write_more_than_is_remembered(api: &ApiClient, bucket: &Bucket) {
    let metadata = json!({"text": "x".repeat(1000)});
    for round in 0..4 {
        let puts = (0..1000).map(|number| {
            let key = format!("k{round}{number:03}");
            json!({"op": "put", "key": key, "value": "v", "metadata": metadata})
        });
        execute(api, bucket, &puts.collect::<Vec<_>>()).await;
    }
}

async fn a_token_that_is_too_old_leads_to_a_reset(target: PublicEndpoint) {
    let api = target.node.api();
    let bucket = api.create_bucket().await;
    let request = EventRequest::to_bucket(target.http(), &bucket, "");
    let old = request
        .open_ready()
        .await
        .last_event_id()
        .unwrap()
        .to_owned();
    write_more_than_is_remembered(&api, &bucket).await;

    let mut stream = request.clone().last_event_id(&old).open().await;
    let reset = stream.expect("reset").await;
    assert!(reset.data.contains("reason"), "{reset:?}");
    stream.expect("ready").await;
    api.put(&bucket.key_path("k"), "v").await.assert_status(200);
    assert_eq!(stream.expect_data("put").await["name"], "k");
    // Its ID is where a client goes on that has listed the bucket.
    let mut stream = request
        .clone()
        .last_event_id(&reset.last_event_id)
        .open()
        .await;
    loop {
        let event = stream.next_event().await.expect("ready comes");
        match event.name.as_str() {
            "ready" => break,
            // On its way when the token was made.
            "put" => {}
            _ => panic!("{event:?}"),
        }
    }

    let stale = json!({"name": "stale", "version": "0000000000000001-1"});
    let stale = BucketCopy::from([("stale".to_owned(), stale)]);
    for is_initial in [true, false] {
        let client = WatchClient::start(WatchOptions {
            is_initial,
            since: Some((old.clone(), stale.clone())),
            ..WatchOptions::new(&[target.http()], &bucket)
        });
        let counts = client.wait_equal(&api, STATE_TIMEOUT).await.unwrap();
        assert_eq!((counts.resets, counts.streams), (1, 1), "{counts:?}");
    }
}

#[tokio::test]
async fn a_token_that_is_too_old_leads_to_a_reset_at_a_node() {
    let target = PublicEndpoint::with_node(&["--recent-changes-mib=1"]).await;
    a_token_that_is_too_old_leads_to_a_reset(target).await;
}

#[tokio::test]
async fn a_token_that_is_too_old_leads_to_a_reset_at_a_router() {
    let target = PublicEndpoint::with_router_to_node(&["--recent-changes-mib=1"]).await;
    a_token_that_is_too_old_leads_to_a_reset(target).await;
}

/// Returns the stream of a request that is refused for the time being, read to its end.
async fn refused_for_now(client: &EventClient, request: &EventRequest) -> EventStream {
    let mut stream = request.open_with(client).await;
    let comments = stream.expect_end().await;
    assert!(!comments.concat().trim().is_empty(), "the reason is told");
    assert!(stream.retry().is_some(), "it is told when to come back");
    let id = stream.last_event_id().unwrap_or_default();
    let has_kept = stream.last_event_id().is_none() || id == request.last_event_id;
    assert!(has_kept, "the client's position stays: {id:?}");
    stream
}

/// Waits until a request isn't refused any more.
async fn wait_accepted(client: &EventClient, request: &EventRequest) -> EventStream {
    eventually("a watcher is accepted", STATE_TIMEOUT, async || {
        let mut stream = request.open_with(client).await;
        let first = stream.next_event().await?;
        (first.name == "ready").then_some(stream)
    })
    .await
}

async fn watchers_are_bounded(target: PublicEndpoint) {
    let api = target.node.api();
    let (bucket, other) = (api.create_bucket().await, api.create_bucket().await);
    let of = |bucket: &Bucket| EventRequest::to_bucket(target.http(), bucket, "");
    // Two of a bucket, two of an address, and five of the node.
    let clients =
        [2, 3, 4, 5].map(|last| EventClient::from_address(Ipv4Addr::new(127, 0, 0, last)));
    let open = async |client: &EventClient, bucket: &Bucket| {
        let mut stream = of(bucket).open_with(client).await;
        stream.expect("ready").await;
        stream
    };
    let first = open(&clients[0], &bucket).await;
    let mut second = open(&clients[0], &bucket).await;
    refused_for_now(&clients[1], &of(&bucket)).await;
    refused_for_now(&clients[0], &of(&other)).await;
    // With a position, which isn't lost.
    let token = second.last_event_id().unwrap().to_owned();
    let resuming = of(&bucket).last_event_id(&token);
    refused_for_now(&clients[1], &resuming).await;
    let _others = [
        open(&clients[1], &other).await,
        open(&clients[1], &other).await,
    ];
    let third = api.create_bucket().await;
    let _fifth = open(&clients[2], &third).await;
    refused_for_now(&clients[3], &of(&third)).await;
    // Whoever leaves makes room.
    drop(first);
    let mut later = wait_accepted(&clients[3], &resuming).await;
    api.put(&bucket.key_path("k"), "v").await.assert_status(200);
    for stream in [&mut second, &mut later] {
        assert_eq!(stream.expect_data("put").await["name"], "k");
    }
    refused_for_now(&clients[3], &of(&third)).await;
}

const WATCHER_ARGS: [&str; 3] = [
    "--max-bucket-watchers=2",
    "--address-watchers=2",
    "--max-watchers=5",
];

#[tokio::test]
async fn watchers_are_bounded_at_a_node() {
    watchers_are_bounded(PublicEndpoint::with_node(&WATCHER_ARGS).await).await;
}

#[tokio::test]
async fn watchers_are_bounded_behind_a_router() {
    watchers_are_bounded(PublicEndpoint::with_router_to_node(&WATCHER_ARGS).await).await;
}

/// Number of keys that are written while a client doesn't read, in rounds.
const UNREAD_ROUNDS: u64 = 60;
const ROUND_KEYS: u64 = 100;

async fn a_slow_reader_is_reset_and_closed(target: PublicEndpoint) {
    let api = target.node.api();
    let bucket = api.create_bucket().await;
    let request = EventRequest::to_bucket(target.http(), &bucket, "?values=true");
    let mut slow = request
        .open_with(&EventClient::http2_with_window(1 << 16))
        .await;
    slow.expect("ready").await;
    let fast = WatchClient::start(WatchOptions {
        has_values: true,
        ..WatchOptions::new(&[target.http()], &bucket)
    });
    fast.wait_ready(STATE_TIMEOUT).await.unwrap();
    let value = "v".repeat(1000);
    for round in 0..UNREAD_ROUNDS {
        let puts = (0..ROUND_KEYS).map(|number| {
            let key = format!("k{round}/{number}");
            batches::put(&key, &value)
        });
        execute(&api, &bucket, &puts.collect::<Vec<_>>()).await;
        // So that the other client never has much to read.
        let told = (round + 1) * ROUND_KEYS;
        let has_all = |counts: &WatchCounts, _: &WatchModel| counts.puts >= told;
        let waited = fast.wait_until("all is told", STATE_TIMEOUT, has_all).await;
        waited.unwrap();
    }
    let mut told = 0;
    loop {
        let event = slow.next_event().await.expect("reset comes before the end");
        match event.name.as_str() {
            "put" => told += 1,
            "reset" => break,
            _ => panic!("{event:?}"),
        }
    }
    assert!(told < UNREAD_ROUNDS * ROUND_KEYS, "{told}");
    let comments = slow.expect_end().await;
    assert!(!comments.concat().trim().is_empty(), "the reason is told");
    let counts = fast.wait_equal(&api, STATE_TIMEOUT).await.unwrap();
    assert_eq!((counts.resets, counts.streams), (0, 1), "{counts:?}");

    let token = slow.last_event_id().unwrap();
    let mut stream = request.clone().last_event_id(token).open().await;
    api.put(&bucket.key_path("k"), "v").await.assert_status(200);
    loop {
        let event = stream
            .next_event()
            .await
            .expect("all that came after reset");
        assert_ne!(event.name, "reset", "{event:?}");
        if event.data.contains(r#""name":"k""#) {
            break;
        }
    }
}

#[tokio::test]
async fn a_slow_reader_is_reset_and_closed_at_a_node() {
    let target = PublicEndpoint::with_node(&["--watch-buffer-kib=512"]).await;
    a_slow_reader_is_reset_and_closed(target).await;
}

#[tokio::test]
async fn a_slow_reader_is_reset_and_closed_behind_a_router() {
    let target = PublicEndpoint::with_router_to_node(&["--watch-buffer-kib=512"]).await;
    a_slow_reader_is_reset_and_closed(target).await;
}

/// Opens a stream over each version of HTTP.
async fn open_both(request: &EventRequest) -> [EventStream; 2] {
    let mut streams = [
        request.open_with(&EventClient::http1()).await,
        request.open_with(&EventClient::http2()).await,
    ];
    for stream in &mut streams {
        stream.expect("ready").await;
    }
    streams
}

#[tokio::test]
async fn a_node_that_stops_ends_its_streams_and_stops_at_once() {
    // Longer than a stop may take here.
    let mut target = PublicEndpoint::with_router_to_node(&["--drain-timeout=90s"]).await;
    let bucket = target.node.api().create_bucket().await;
    let direct = EventRequest::to_bucket(target.node.http(), &bucket, "");
    let mut direct = open_both(&direct).await;
    let routed = EventRequest::to_bucket(target.http(), &bucket, "?initial=true");
    let mut routed = open_both(&routed).await;
    let ends = async {
        for stream in &mut direct {
            let comments = stream.expect_end().await;
            assert!(comments.concat().contains("stop"), "{comments:?}");
            assert_eq!(stream.retry(), Some(Duration::from_secs(1)));
        }
        for stream in &mut routed {
            stream.expect_end().await;
        }
    };
    tokio::join!(ends, target.node.terminate());
}

#[tokio::test]
async fn a_router_that_stops_ends_its_streams_and_stops_at_once() {
    let mut target = PublicEndpoint::with_router(&["--drain-timeout=90s"]).await;
    let bucket = target.node.api().create_bucket().await;
    let request = EventRequest::to_bucket(target.http(), &bucket, "");
    let mut streams = open_both(&request).await;
    let router = target.router.as_mut().unwrap();
    router.send_sigterm();
    for stream in &mut streams {
        stream.expect_end().await;
    }
    assert_eq!(router.wait_exit().await.code(), Some(0));
}

#[tokio::test]
async fn silent_streams_outlive_all_timeouts() {
    let args = [
        "--request-timeout=1s",
        "--write-timeout=1s",
        "--idle-timeout=1s",
        "--header-timeout=1s",
    ];
    let PublicEndpoint { node, .. } = PublicEndpoint::with_node(&args).await;
    let router = Router::start_with(&[node.rpc()], &args).await;
    let bucket = node.api().create_bucket().await;
    let mut streams = vec![];
    for address in [node.http(), router.http()] {
        let request = EventRequest::to_bucket(address, &bucket, "");
        streams.extend(open_both(&request).await);
    }
    // What keeps a stream alive: a comment, and a position.
    let kept_alive = streams.iter_mut().map(async |stream| {
        let mut comments = 0;
        loop {
            match stream.next().await {
                StreamStep::Item(SseItem::Position(token)) if !token.is_empty() => break,
                StreamStep::Item(SseItem::Comment(_)) => comments += 1,
                StreamStep::Item(SseItem::Retry(_) | SseItem::Position(_)) => {}
                other => panic!("nothing happens: {other:?}"),
            }
        }
        assert!(comments > 0, "a comment comes, too");
    });
    join_all(kept_alive).await;
    let put = node.api().put(&bucket.key_path("k"), "v").await;
    put.assert_status(200);
    for stream in &mut streams {
        assert_eq!(stream.expect_data("put").await["name"], "k");
    }
}
