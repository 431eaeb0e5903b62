//! Several regions behind a router: each by its own name, the nearest by the global one.
// Helpers of tests panic as tests do.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

use std::time::Duration;

use cloudkv_cluster_tests::region::World;
use cloudkv_cluster_tests::{Answer, Router, eventually};

const SOON: Duration = Duration::from_secs(60);

async fn ask(router: &Router, host: &str, path: &str) -> Option<Answer> {
    let call = router.api().get(path).header("host", host);
    call.try_send().await.ok()
}

fn region(answer: &Answer) -> &str {
    answer.header("x-cloudkv-region")
}

#[tokio::test]
async fn names_of_regions_stay_in_them_and_the_global_one_leaves_a_region_that_is_gone() {
    let mut world = World::start(&["eu", "us"], 1, 2).await;
    let seeds = [world.seat(1).rpc()];
    let router = Router::start_with(&seeds, &["--region", "eu"]).await;
    let names = [("api.eu.cloudkv.io", "eu"), ("api.us.cloudkv.io", "us")];
    eventually("both regions are served", SOON, async || {
        for (host, name) in names {
            let answer = ask(&router, host, "/ping").await?;
            (answer.status == 200 && region(&answer) == name).then_some(())?;
        }
        Some(())
    })
    .await;
    // The other region stands in for home until its leaders are known.
    eventually("the global name is at home", SOON, async || {
        let nearest = ask(&router, "api.cloudkv.io", "/ping").await?;
        (nearest.status == 200 && region(&nearest) == "eu").then_some(())
    })
    .await;
    let unknown = ask(&router, "api.ap.cloudkv.io", "/ping").await.unwrap();
    unknown.error(404, "unknown_region");
    assert!(unknown.text().contains("eu") && unknown.text().contains("us"));

    let bucket = world.api(0).bucket().await;
    let key = bucket.key("k");
    for (host, name) in names {
        let put = router.api().put(&key, name).header("host", host).await;
        assert_eq!(region(put.status(200)), name);
    }
    world.wait_equal(&bucket).await;

    world.kill(0);
    // How soon is measured by `cloudkv-faults region-loss`.
    eventually("the global name goes on", SOON, async || {
        let answer = ask(&router, "api.cloudkv.io", &key).await?;
        (answer.status == 200 && region(&answer) == "us").then_some(())
    })
    .await;
    let pinned = ask(&router, "api.eu.cloudkv.io", &key).await.unwrap();
    assert_eq!(pinned.error(503, "unavailable").header("retry-after"), "1");
    let other = ask(&router, "api.us.cloudkv.io", &key).await.unwrap();
    other.status(200);
    // A write with a condition is judged where it is sent, or nowhere: once the current region is
    // another one, it is that one.
    eventually("the current region is the other one", SOON, async || {
        let put = router.api().put(&key, "later").header("if-match", "*");
        let put = put.try_send().await.ok()?;
        (put.status == 200 && region(&put) == "us").then_some(())
    })
    .await;

    world.restart(0).await;
    eventually("the region is served again", SOON, async || {
        let answer = ask(&router, "api.eu.cloudkv.io", &key).await?;
        (answer.status == 200).then_some(())
    })
    .await;
    let stays = ask(&router, "api.cloudkv.io", &key).await.unwrap();
    assert_eq!(region(stays.status(200)), "us", "it doesn't flip back");
}

#[tokio::test]
async fn what_a_region_has_not_heard_of_is_asked_of_one_of_its_nodes_only() {
    let world = World::start(&["eu", "us"], 2, 2).await;
    let router = Router::start_with(&[world.seat(0).rpc()], &["--region", "us"]).await;
    let bucket = world.api(0).bucket().await;
    let key = bucket.key("k");
    let ask = async |token: &str| {
        let call = router.api().get(&key).header("host", "api.us.cloudkv.io");
        call.header("x-cloudkv-min-version", token).await
    };
    let put = world.api(0).put(&key, "v").await;
    let token = put.status(200).header("x-cloudkv-version").to_owned();
    eventually("requests go over the stream of calls", SOON, async || {
        let before = router.metric("cloudkv_router_streamed_total").await;
        let streamed = ask(&token).await.status == 200
            && router.metric("cloudkv_router_streamed_total").await > before;
        streamed.then_some(())
    })
    .await;
    world.cut_off(1);
    let put = world.api(0).put(&key, "unheard of").await;
    let token = put.status(200).header("x-cloudkv-version").to_owned();
    let before = router.metric("cloudkv_router_retries_total").await;
    ask(&token).await.error(503, "behind");
    let after = router.metric("cloudkv_router_retries_total").await;
    assert!(after <= before, "{after} retries, {before} before");
}
