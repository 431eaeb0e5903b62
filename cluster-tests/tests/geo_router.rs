//! A router in front of several regions: the global name stays up, and a region's own name is that
//! region and no other.
// Helpers of tests panic as tests do.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

use std::time::{Duration, Instant};

use cloudkv_cluster_tests::region::World;
use cloudkv_cluster_tests::{Router, eventually};

const SOON: Duration = Duration::from_secs(30);

/// Asks for a path under a host; the status, and the region that answered.
async fn ask(router: &Router, host: &str, path: &str) -> (u16, Option<String>) {
    let answer = router.api().get(path).header("host", host).unchecked();
    match answer.try_send().await {
        Ok(answer) => {
            let region = answer.find_header("x-cloudkv-region").map(str::to_owned);
            (answer.status, region)
        }
        Err(_) => (0, None),
    }
}

#[tokio::test]
async fn names_lead_to_their_regions_and_the_global_one_survives_a_region() {
    let mut world = World::start(&["eu", "us", "ap"], 1, 3).await;
    let seeds: Vec<_> = (0..3).map(|seat| world.seat(seat).rpc()).collect();
    let router = Router::start_with(&seeds, &["--region", "eu"]).await;
    let bucket = router.api().bucket().await;
    let path = bucket.key("k");
    let put = router
        .api()
        .put(&path, "v")
        .header("host", "api.us.cloudkv.io");
    put.await.status(200);
    for region in ["eu", "us", "ap"] {
        let host = format!("api.{region}.cloudkv.io");
        eventually("each region has the value", SOON, async || {
            let answer = ask(&router, &host, &path).await;
            (answer == (200, Some(region.to_owned()))).then_some(())
        })
        .await;
    }
    let nowhere = ask(&router, "api.mars.cloudkv.io", &path).await;
    assert_eq!(nowhere.0, 404);
    let (_, current) = ask(&router, "api.cloudkv.io", &path).await;
    let current = current.expect("a region that answers");
    let seat = ["eu", "us", "ap"]
        .iter()
        .position(|name| *name == current)
        .expect("one of the regions");
    world.kill(seat);
    let killed = Instant::now();
    eventually("the global name goes on elsewhere", SOON, async || {
        let (status, region) = ask(&router, "api.cloudkv.io", &path).await;
        (status == 200 && region.as_deref() != Some(&current)).then_some(())
    })
    .await;
    eprintln!("the global name went on after {:?}", killed.elapsed());
    let pinned = format!("api.{current}.cloudkv.io");
    eventually("the region's own name says 503", SOON, async || {
        (ask(&router, &pinned, &path).await.0 == 503).then_some(())
    })
    .await;
    world.restart(seat).await;
    eventually("the region's own name serves again", SOON, async || {
        let answer = ask(&router, &pinned, &path).await;
        (answer == (200, Some(current.clone()))).then_some(())
    })
    .await;
}
