//! Three regions behind a router, under load by the global name: counts the errors that clients see
//! when nodes, and with them regions, fail.
//!
//! A write that was in flight at a killed node is answered 504 `unknown_outcome`, since it may have
//! been done, and must not be done twice. Nothing else may fail.
// Helpers of tests panic as tests do.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

use std::time::Duration;

use cloudkv_test_harness::load::{LoadPattern, PlainLoad};
use cloudkv_test_harness::region::MultiRegionCluster;
use cloudkv_test_harness::{Bucket, HttpResponse, Router, eventually};
use futures_util::future::join_all;

const STATE_TIMEOUT: Duration = Duration::from_secs(60);
const REGIONS: [&str; 3] = ["eu", "us", "ap"];
const CLIENTS: usize = 64;
/// Rate of requests: debug builds of three nodes, a router and 64 clients share few processors.
const REQUESTS_PER_SECOND: f64 = 400.0;
const KEY_COUNT: u64 = 64;

struct Fixture {
    world: MultiRegionCluster,
    router: Router,
    bucket: Bucket,
}

impl Fixture {
    async fn start() -> Self {
        let world = MultiRegionCluster::start(&REGIONS, 1, 3).await;
        let seeds: Vec<_> = (0..3).map(|seat| world.seat(seat).rpc()).collect();
        let router = Router::start_with(&seeds, &["--region", REGIONS[0]]).await;
        let bucket = world.api(0).create_bucket_with(&[("plan", "pro")]).await;
        let fixture = Self {
            world,
            router,
            bucket,
        };
        let puts = (0..KEY_COUNT).map(async |key| {
            let path = fixture.bucket.key_path(&key.to_string());
            fixture
                .world
                .api(0)
                .put(&path, "v")
                .await
                .assert_status(200);
        });
        join_all(puts).await;
        fixture.world.wait_bucket_converged(&fixture.bucket).await;
        for region in 0..3 {
            fixture.wait_served(region).await;
        }
        fixture
    }

    fn load(&self) -> PlainLoad {
        let (to, work) = ([self.router.http()], LoadPattern::AllKeys(KEY_COUNT));
        PlainLoad::start(&to, &self.bucket, CLIENTS, work, Some(REQUESTS_PER_SECOND))
    }

    async fn get(&self, host: &str) -> Option<HttpResponse> {
        let path = self.bucket.key_path("0");
        let call = self.router.api().get(&path).header("host", host);
        call.try_send().await.ok()
    }

    /// Returns the region that currently answers to the global name.
    async fn current_region(&self) -> Option<String> {
        let answer = self.get("api.cloudkv.io").await?;
        (answer.status == 200).then(|| answer.header("x-cloudkv-region").to_owned())
    }

    /// Waits until a region is served under its own name.
    async fn wait_served(&self, region: usize) {
        let name = REGIONS[region];
        eventually(&format!("{name} is served"), STATE_TIMEOUT, async || {
            let answer = self.get(&format!("api.{name}.cloudkv.io")).await?;
            (answer.status == 200).then_some(())
        })
        .await;
    }

    async fn wait_refused(&self, region: usize) {
        let name = REGIONS[region];
        eventually(&format!("{name} is refused"), STATE_TIMEOUT, async || {
            let answer = self.get(&format!("api.{name}.cloudkv.io")).await?;
            (answer.status == 503).then(|| {
                answer.assert_error(503, "unavailable");
                assert_eq!(answer.header("retry-after"), "1");
            })
        })
        .await;
    }
}

#[tokio::test]
async fn a_killed_node_fails_only_its_writes_in_flight() {
    let mut fixture = Fixture::start().await;
    let load = fixture.load();
    let mut failovers = 0;
    for (region, name) in REGIONS.into_iter().enumerate() {
        load.wait_progress(200).await;
        let before = load.errors();
        let current = fixture.current_region().await.unwrap();
        fixture.world.kill(region);
        fixture.wait_refused(region).await;
        load.wait_progress(400).await;
        let failed = load.errors() - before;
        let max_failed = if current == name {
            // The global name fails over to another region, until that fails, too.
            let next = fixture.current_region().await.unwrap();
            assert_ne!(next, current);
            failovers += 1;
            CLIENTS as u64
        } else {
            0
        };
        assert!(failed <= max_failed, "{failed} errors by {name}");
        fixture.world.restart(region).await;
        fixture.world.wait_serving(region).await;
        fixture.wait_served(region).await;
    }
    let outcome = load.stop().await;
    assert_eq!(
        outcome.errors, outcome.unknown_outcomes,
        "{:?}",
        outcome.first_errors
    );
    assert_eq!(outcome.retries, 0, "the router closed connections");
    assert!(failovers > 0, "the global name has not failed over");
    let detours = fixture.router.metric("cloudkv_router_detours_total").await;
    assert!(detours > 0.0, "no fault affected a request");
    fixture.world.wait_bucket_converged(&fixture.bucket).await;
}

#[tokio::test]
async fn a_rolling_restart_of_all_regions_fails_no_request() {
    let mut fixture = Fixture::start().await;
    let load = fixture.load();
    let mut failovers = 0;
    for (region, name) in REGIONS.into_iter().enumerate() {
        load.wait_progress(100).await;
        let current = fixture.current_region().await.unwrap();
        fixture.world.terminate(region).await;
        load.wait_progress(100).await;
        if current == name {
            assert_ne!(fixture.current_region().await.unwrap(), current);
            failovers += 1;
        }
        fixture.world.restart(region).await;
        fixture.world.wait_serving(region).await;
        fixture.wait_served(region).await;
    }
    load.wait_progress(100).await;
    let outcome = load.stop().await;
    assert_eq!(outcome.errors, 0, "{:?}", outcome.first_errors);
    assert_eq!(outcome.retries, 0, "the router closed connections");
    assert!(failovers > 0, "the global name has not failed over");
    fixture.world.wait_bucket_converged(&fixture.bucket).await;
}
