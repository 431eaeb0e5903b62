//! Several regions behind a router: each under its own name, the nearest under the global one.
// Helpers of tests panic as tests do.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

use std::time::Duration;

use cloudkv_test_harness::region::MultiRegionCluster;
use cloudkv_test_harness::{HttpResponse, Router, eventually};

const STATE_TIMEOUT: Duration = Duration::from_secs(60);

async fn get(router: &Router, host: &str, path: &str) -> Option<HttpResponse> {
    let call = router.api().get(path).header("host", host);
    call.try_send().await.ok()
}

fn region_of(answer: &HttpResponse) -> &str {
    answer.header("x-cloudkv-region")
}

/// Regions' names, and the hosts that select them.
const HOSTS: [(&str, &str); 2] = [("api.eu.cloudkv.io", "eu"), ("api.us.cloudkv.io", "us")];

/// Waits until each region is served under its own name, and the nearest under the global one.
async fn wait_regions_served(router: &Router, nearest_region: &str) {
    eventually("both regions are served", STATE_TIMEOUT, async || {
        for (host, name) in HOSTS {
            let answer = get(router, host, "/ping").await?;
            (answer.status == 200 && region_of(&answer) == name).then_some(())?;
        }
        Some(())
    })
    .await;
    // The other region answers to the global name until the leaders of the nearest are known.
    eventually(
        "the global name is served by the nearest region",
        STATE_TIMEOUT,
        async || {
            let nearest = get(router, "api.cloudkv.io", "/ping").await?;
            (nearest.status == 200 && region_of(&nearest) == nearest_region).then_some(())
        },
    )
    .await;
}

/// Waits until the router has logged a change of the current region; returns the line.
async fn wait_change_logged(router: &Router) -> String {
    eventually("the change is logged", STATE_TIMEOUT, async || {
        let log = router.log_text();
        let mut lines = log.lines();
        let change = lines.find(|line| line.contains("current region changed"))?;
        Some(change.to_owned())
    })
    .await
}

#[tokio::test]
async fn regional_names_stay_in_their_region_and_the_global_one_fails_over() {
    let mut world = MultiRegionCluster::start(&["eu", "us"], 1, 2).await;
    let seeds = [world.seat(1).rpc()];
    let router = Router::start_with(&seeds, &["--region", "eu"]).await;
    wait_regions_served(&router, "eu").await;
    // Its own region is the first choice, however late it was known.
    let log = router.log_text();
    assert!(!log.contains("current region changed"), "{log}");
    let unknown = get(&router, "api.ap.cloudkv.io", "/ping").await.unwrap();
    unknown.assert_error(404, "unknown_region");
    assert!(unknown.text().contains("eu") && unknown.text().contains("us"));

    let bucket = world.api(0).create_bucket().await;
    let key = bucket.key_path("k");
    for (host, name) in HOSTS {
        let put = router.api().put(&key, name).header("host", host).await;
        assert_eq!(region_of(put.assert_status(200)), name);
    }
    world.wait_bucket_converged(&bucket).await;

    world.kill(0);
    // `cloudkv-faults region-loss` measures the time to failover.
    eventually(
        "the global name has failed over",
        STATE_TIMEOUT,
        async || {
            let answer = get(&router, "api.cloudkv.io", &key).await?;
            (answer.status == 200 && region_of(&answer) == "us").then_some(())
        },
    )
    .await;
    let pinned = get(&router, "api.eu.cloudkv.io", &key).await.unwrap();
    assert_eq!(
        pinned
            .assert_error(503, "unavailable")
            .header("retry-after"),
        "1"
    );
    let other = get(&router, "api.us.cloudkv.io", &key).await.unwrap();
    other.assert_status(200);
    // A conditional write is sent to the current region only, and never retried in another one: it
    // succeeds once the current region has changed.
    eventually(
        "the current region is the other one",
        STATE_TIMEOUT,
        async || {
            let put = router.api().put(&key, "later").header("if-match", "*");
            let put = put.try_send().await.ok()?;
            (put.status == 200 && region_of(&put) == "us").then_some(())
        },
    )
    .await;

    let change = wait_change_logged(&router).await;
    assert!(change.contains("completely for 1s"), "{change}");

    world.restart(0).await;
    eventually("the region is served again", STATE_TIMEOUT, async || {
        let answer = get(&router, "api.eu.cloudkv.io", &key).await?;
        (answer.status == 200).then_some(())
    })
    .await;
    let answer = get(&router, "api.cloudkv.io", &key).await.unwrap();
    assert_eq!(
        region_of(answer.assert_status(200)),
        "us",
        "it doesn't flip back"
    );
}

#[tokio::test]
async fn a_read_that_is_ahead_of_its_region_is_sent_to_one_node_only() {
    let world = MultiRegionCluster::start(&["eu", "us"], 2, 2).await;
    let router = Router::start_with(&[world.seat(0).rpc()], &["--region", "us"]).await;
    let bucket = world.api(0).create_bucket().await;
    let key = bucket.key_path("k");
    let get_with = async |token: &str| {
        let call = router.api().get(&key).header("host", "api.us.cloudkv.io");
        call.header("x-cloudkv-min-version", token).await
    };
    let put = world.api(0).put(&key, "v").await;
    let token = put
        .assert_status(200)
        .header("x-cloudkv-version")
        .to_owned();
    eventually(
        "requests go over the stream of calls",
        STATE_TIMEOUT,
        async || {
            let before = router.metric("cloudkv_router_streamed_total").await;
            let streamed = get_with(&token).await.status == 200
                && router.metric("cloudkv_router_streamed_total").await > before;
            streamed.then_some(())
        },
    )
    .await;
    world.isolate_region(1);
    let put = world.api(0).put(&key, "newer").await;
    let token = put
        .assert_status(200)
        .header("x-cloudkv-version")
        .to_owned();
    let before = router.metric("cloudkv_router_retries_total").await;
    get_with(&token).await.assert_error(503, "behind");
    let after = router.metric("cloudkv_router_retries_total").await;
    assert!(after <= before, "{after} retries, {before} before");
}
