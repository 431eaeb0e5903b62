//! Three regions behind a router, under load by the global name: what clients see when nodes, and
//! with them regions, go is counted.
//!
//! A write that a killed node took with it is answered 504 `unknown_outcome`, since it may have been
//! done, and must not be done twice. Nothing else may fail.
// Helpers of tests panic as tests do.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

use std::time::Duration;

use cloudkv_cluster_tests::faults::{PlainLoad, Work};
use cloudkv_cluster_tests::region::World;
use cloudkv_cluster_tests::{Answer, Bucket, Router, eventually};
use futures_util::future::join_all;

const SOON: Duration = Duration::from_secs(60);
const REGIONS: [&str; 3] = ["eu", "us", "ap"];
const CLIENTS: usize = 64;
/// Requests a second: debug builds of three nodes, a router and 64 clients share few processors.
const RATE: f64 = 400.0;
const KEYS: u64 = 64;

struct Scene {
    world: World,
    router: Router,
    bucket: Bucket,
}

impl Scene {
    async fn start() -> Self {
        let world = World::start(&REGIONS, 1, 3).await;
        let seeds: Vec<_> = (0..3).map(|seat| world.seat(seat).rpc()).collect();
        let router = Router::start_with(&seeds, &["--region", REGIONS[0]]).await;
        let bucket = world.api(0).bucket_with(&[("plan", "pro")]).await;
        let scene = Self {
            world,
            router,
            bucket,
        };
        let puts = (0..KEYS).map(async |key| {
            let path = scene.bucket.key(&key.to_string());
            scene.world.api(0).put(&path, "v").await.status(200);
        });
        join_all(puts).await;
        scene.world.wait_equal(&scene.bucket).await;
        for region in 0..3 {
            scene.wait_served(region).await;
        }
        scene
    }

    fn load(&self) -> PlainLoad {
        let (to, work) = ([self.router.http()], Work::AllKeys(KEYS));
        PlainLoad::start(&to, &self.bucket, CLIENTS, work, Some(RATE))
    }

    async fn ask(&self, host: &str) -> Option<Answer> {
        let path = self.bucket.key("0");
        let call = self.router.api().get(&path).header("host", host);
        call.try_send().await.ok()
    }

    /// The region that the global name stands for, as requests are answered now.
    async fn current(&self) -> Option<String> {
        let answer = self.ask("api.cloudkv.io").await?;
        (answer.status == 200).then(|| answer.header("x-cloudkv-region").to_owned())
    }

    /// Waits until a region is served by its own name.
    async fn wait_served(&self, region: usize) {
        let name = REGIONS[region];
        eventually(&format!("{name} is served"), SOON, async || {
            let answer = self.ask(&format!("api.{name}.cloudkv.io")).await?;
            (answer.status == 200).then_some(())
        })
        .await;
    }

    async fn wait_refused(&self, region: usize) {
        let name = REGIONS[region];
        eventually(&format!("{name} is refused"), SOON, async || {
            let answer = self.ask(&format!("api.{name}.cloudkv.io")).await?;
            (answer.status == 503).then(|| {
                answer.error(503, "unavailable");
                assert_eq!(answer.header("retry-after"), "1");
            })
        })
        .await;
    }
}

#[tokio::test]
async fn each_node_that_is_killed_costs_only_writes_that_were_under_way_at_it() {
    let mut scene = Scene::start().await;
    let load = scene.load();
    let mut left = 0;
    for (region, name) in REGIONS.into_iter().enumerate() {
        load.goes_on(200).await;
        let before = load.errors();
        let current = scene.current().await.unwrap();
        scene.world.kill(region);
        scene.wait_refused(region).await;
        load.goes_on(400).await;
        let lost = load.errors() - before;
        let may = if current == name {
            // The global name goes on by another region, until that goes, too.
            let is = scene.current().await.unwrap();
            assert_ne!(is, current);
            left += 1;
            CLIENTS as u64
        } else {
            0
        };
        assert!(lost <= may, "{lost} errors by {name}");
        scene.world.restart(region).await;
        scene.world.wait_serving(region).await;
        scene.wait_served(region).await;
    }
    let outcome = load.stop().await;
    assert_eq!(outcome.errors, outcome.unknown, "{:?}", outcome.shown);
    assert_eq!(outcome.retried, 0, "the router closed connections");
    assert!(left > 0, "the global name had to leave a region");
    let detours = scene.router.metric("cloudkv_router_detours_total").await;
    assert!(detours > 0.0, "no fault met a request");
    scene.world.wait_equal(&scene.bucket).await;
}

#[tokio::test]
async fn a_rolling_restart_of_all_regions_fails_no_request() {
    let mut scene = Scene::start().await;
    let load = scene.load();
    let mut left = 0;
    for (region, name) in REGIONS.into_iter().enumerate() {
        load.goes_on(100).await;
        let current = scene.current().await.unwrap();
        scene.world.terminate(region).await;
        load.goes_on(100).await;
        if current == name {
            assert_ne!(scene.current().await.unwrap(), current);
            left += 1;
        }
        scene.world.restart(region).await;
        scene.world.wait_serving(region).await;
        scene.wait_served(region).await;
    }
    load.goes_on(100).await;
    let outcome = load.stop().await;
    assert_eq!(outcome.errors, 0, "{:?}", outcome.shown);
    assert_eq!(outcome.retried, 0, "the router closed connections");
    assert!(left > 0, "the global name had to leave a region");
    scene.world.wait_equal(&scene.bucket).await;
}
