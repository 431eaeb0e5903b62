//! Watching a bucket through a router, over both versions of HTTP, while nodes and the router stop
//! and start.
// Helpers of tests panic as tests do.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::Duration;

use cloudkv_test_harness::batches;
use cloudkv_test_harness::region::{Region, RegionOptions};
use cloudkv_test_harness::rng::Rng;
use cloudkv_test_harness::watch::{EventClient, EventRequest, WatchClient, WatchOptions};
use cloudkv_test_harness::{ApiClient, Bucket, RoutedRegion, Router, eventually};
use futures_util::future::join_all;
use serde_json::{Value, json};
use tokio::task::JoinHandle;

const STATE_TIMEOUT: Duration = Duration::from_secs(60);

#[tokio::test]
async fn many_streams_share_a_connection_of_http2() {
    let region = RoutedRegion::start().await;
    let bucket = region.router.api().create_bucket().await;
    let request = EventRequest::to_bucket(region.router.http(), &bucket, "");
    let client = EventClient::http2();
    let open = (0..60).map(async |_| {
        let mut stream = request.open_with(&client).await;
        stream.expect("ready").await;
        stream
    });
    let mut streams = join_all(open).await;
    for stream in &streams {
        assert_eq!(stream.head.version, http::Version::HTTP_2);
    }
    for round in 0..3 {
        // Other requests are served on the same connections.
        let key = bucket.key_path(&format!("k{round}"));
        let put = region.router.api().put(&key, "v").await;
        let version = put.assert_status(200).etag();
        for stream in &mut streams {
            let told = stream.expect_data("put").await;
            assert_eq!(told["version"], version.trim_matches('"'));
        }
    }
    let api = ApiClient::http2(region.router.http());
    api.get(&bucket.key_path("k0")).await.assert_status(200);
}

/// A client that changes keys again and again, whatever the outcomes are.
struct Writer {
    stop: Arc<AtomicBool>,
    batches: Arc<AtomicU64>,
    task: JoinHandle<()>,
}

impl Writer {
    fn start(api: ApiClient, bucket: Bucket) -> Self {
        let (stop, batches) = <(Arc<AtomicBool>, Arc<AtomicU64>)>::default();
        let task = tokio::spawn(write(api, bucket, stop.clone(), batches.clone()));
        Self {
            stop,
            batches,
            task,
        }
    }

    /// Waits until more batches have been answered.
    async fn wait_progress(&self) {
        let before = self.batches.load(Ordering::Relaxed);
        eventually("keys are written", STATE_TIMEOUT, async || {
            (self.batches.load(Ordering::Relaxed) >= before + 2).then_some(())
        })
        .await;
    }

    async fn stop(self) {
        self.stop.store(true, Ordering::Relaxed);
        self.task.await.unwrap();
    }
}

async fn write(api: ApiClient, bucket: Bucket, stop: Arc<AtomicBool>, answered: Arc<AtomicU64>) {
    let mut rng = Rng::new(7);
    let mut round = 0_u64;
    while !stop.load(Ordering::Relaxed) {
        round += 1;
        let operation = |_| {
            let key = format!("k{}", rng.range(0..100));
            match rng.range(0..4) {
                0 => batches::delete(&key),
                1 => json!({"op": "put", "key": key, "value": "v", "ttl": "1s"}),
                _ => batches::put(&key, &round.to_string()),
            }
        };
        let operations: Vec<Value> = (0..10).map(operation).collect();
        let sent = batches::post(&api, &bucket, &operations).try_send().await;
        if sent.is_ok_and(|answer| answer.status == 200) {
            answered.fetch_add(1, Ordering::Relaxed);
        }
        // Others need the processors, too.
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
}

/// Starts clients of all kinds, behind a router, and waits until they have all that there is.
async fn start_clients(region: &RoutedRegion, bucket: &Bucket) -> Vec<WatchClient> {
    let kinds = [
        (false, false, false),
        (false, true, true),
        (true, true, false),
        (true, false, true),
    ];
    let start = |(is_initial, has_values, is_http2)| {
        WatchClient::start(WatchOptions {
            is_initial,
            has_values,
            is_http2,
            ..WatchOptions::new(&[region.router.http()], bucket)
        })
    };
    let clients = kinds.map(start);
    for client in &clients {
        client.wait_ready(STATE_TIMEOUT).await.unwrap();
    }
    clients.into()
}

async fn assert_equal(region: &RoutedRegion, clients: &[WatchClient]) {
    for (number, client) in clients.iter().enumerate() {
        let counts = client.wait_equal(&region.router.api(), STATE_TIMEOUT).await;
        if let Err(problem) = counts {
            panic!("client {number}: {problem}");
        }
    }
}

#[tokio::test]
async fn streams_survive_restarts_of_nodes() {
    let mut region = RoutedRegion::start().await;
    let bucket = region.router.api().create_bucket().await;
    let clients = start_clients(&region, &bucket).await;
    let writer = Writer::start(region.router.api(), bucket.clone());
    for (seat, is_killed) in [(0, true), (1, false), (2, true)] {
        writer.wait_progress().await;
        if is_killed {
            region.region.kill(seat);
        } else {
            region.region.terminate(seat).await;
        }
        writer.wait_progress().await;
        region.region.restart(seat).await;
        region.region.wait_formed().await;
    }
    writer.stop().await;
    assert_equal(&region, &clients).await;
    for client in &clients {
        assert!(client.counts().streams > 1, "{:?}", client.counts());
    }
}

#[tokio::test]
async fn streams_survive_restarts_of_the_router() {
    let mut region = RoutedRegion::start().await;
    let bucket = region.router.api().create_bucket().await;
    let clients = start_clients(&region, &bucket).await;
    let writer = Writer::start(region.region.api(0), bucket.clone());
    for is_killed in [true, false] {
        writer.wait_progress().await;
        if is_killed {
            region.router.kill_9();
        } else {
            region.router.send_sigterm();
            assert_eq!(region.router.wait_exit().await.code(), Some(0));
        }
        writer.wait_progress().await;
        region.router.restart().await;
    }
    writer.wait_progress().await;
    writer.stop().await;
    assert_equal(&region, &clients).await;
    for client in &clients {
        let counts = client.counts();
        assert!(counts.streams >= 3, "{counts:?}");
        assert_eq!(counts.resets, 0, "the nodes remember all: {counts:?}");
    }
}

/// What is temporary must not end an `EventSource` for ever.
#[tokio::test]
async fn a_region_without_nodes_is_told_as_temporary() {
    let options = RegionOptions {
        nodes: 1,
        seats: 1,
        ..RegionOptions::default()
    };
    let mut region = Region::start_with(options).await;
    let router = Router::start(&region.rpc_addresses([0])).await;
    let bucket = router.api().create_bucket().await;
    let client = WatchClient::start(WatchOptions {
        is_initial: true,
        ..WatchOptions::new(&[router.http()], &bucket)
    });
    client.wait_ready(STATE_TIMEOUT).await.unwrap();
    region.kill(0);
    let request = EventRequest::to_bucket(router.http(), &bucket, "");
    let mut stream = request.open().await;
    let comments = stream.expect_end().await;
    assert!(!comments.concat().trim().is_empty(), "the reason is told");
    assert!(stream.retry().is_some());
    region.restart(0).await;
    let key = bucket.key_path("k");
    eventually("the region is served again", STATE_TIMEOUT, async || {
        let put = router.api().put(&key, "v").try_send().await.ok()?;
        (put.status == 200).then_some(())
    })
    .await;
    let counts = client.wait_equal(&router.api(), STATE_TIMEOUT).await;
    counts.unwrap();
}
