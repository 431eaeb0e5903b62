//! Three regions behind a router, under load by the global name: counts the errors that clients see
//! when nodes, and with them regions, fail.
//!
//! A write that was in flight at a killed node is answered 504 `unknown_outcome`, since it may have
//! been done, and must not be done twice. Nothing else may fail.
// Helpers of tests panic as tests do.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

use std::time::Duration;

use cloudkv_test_harness::load::PlainLoad;
use cloudkv_test_harness::{RoutedRegions, eventually};

const STATE_TIMEOUT: Duration = Duration::from_secs(60);
const REGIONS: [&str; 3] = ["eu", "us", "ap"];
const CLIENTS: usize = 64;
/// Rate of requests: debug builds of three nodes, a router and 64 clients share few processors.
const REQUESTS_PER_SECOND: f64 = 400.0;
const KEY_COUNT: u64 = 64;

async fn start() -> (RoutedRegions, PlainLoad) {
    let regions = RoutedRegions::start(&REGIONS, 1, KEY_COUNT).await;
    let load = regions.load(CLIENTS, REQUESTS_PER_SECOND);
    (regions, load)
}

async fn wait_refused(regions: &RoutedRegions, region: usize) {
    let what = format!("{} is refused", REGIONS[region]);
    eventually(&what, STATE_TIMEOUT, async || {
        let answer = regions.get_from(region).await?;
        (answer.status == 503).then(|| {
            answer.assert_error(503, "unavailable");
            assert_eq!(answer.header("retry-after"), "1");
        })
    })
    .await;
}

/// Restarts a region's node, and waits until the region is served again.
async fn restart(regions: &mut RoutedRegions, region: usize) {
    regions.cluster.restart(region).await;
    regions.cluster.wait_serving(region).await;
    regions.wait_served(region).await;
}

#[tokio::test]
async fn a_killed_node_fails_only_its_writes_in_flight() {
    let (mut regions, load) = start().await;
    let mut failovers = 0;
    for (region, name) in REGIONS.into_iter().enumerate() {
        load.wait_progress(200).await;
        let before = load.errors();
        let current = regions.global_region().await.unwrap();
        regions.cluster.kill(region);
        wait_refused(&regions, region).await;
        load.wait_progress(400).await;
        let failed = load.errors() - before;
        let max_failed = if current == name {
            // The global name fails over to another region, until that fails, too.
            let next = regions.global_region().await.unwrap();
            assert_ne!(next, current);
            failovers += 1;
            CLIENTS as u64
        } else {
            0
        };
        assert!(failed <= max_failed, "{failed} errors by {name}");
        restart(&mut regions, region).await;
    }
    let outcome = load.stop().await;
    assert_eq!(
        outcome.errors, outcome.unknown_outcomes,
        "{:?}",
        outcome.first_errors
    );
    assert_eq!(outcome.retries, 0, "the router closed connections");
    assert!(failovers > 0, "the global name has not failed over");
    let detours = regions.router.metric("cloudkv_router_detours_total").await;
    assert!(detours > 0.0, "no fault affected a request");
    regions.cluster.wait_bucket_converged(&regions.bucket).await;
}

#[tokio::test]
async fn a_rolling_restart_of_all_regions_fails_no_request() {
    let (mut regions, load) = start().await;
    let mut failovers = 0;
    for (region, name) in REGIONS.into_iter().enumerate() {
        load.wait_progress(100).await;
        let current = regions.global_region().await.unwrap();
        regions.cluster.terminate(region).await;
        load.wait_progress(100).await;
        if current == name {
            assert_ne!(regions.global_region().await.unwrap(), current);
            failovers += 1;
        }
        restart(&mut regions, region).await;
    }
    load.wait_progress(100).await;
    let outcome = load.stop().await;
    assert_eq!(outcome.errors, 0, "{:?}", outcome.first_errors);
    assert_eq!(outcome.retries, 0, "the router closed connections");
    assert!(failovers > 0, "the global name has not failed over");
    regions.cluster.wait_bucket_converged(&regions.bucket).await;
}
