//! Several regions as their users see them: each takes writes by itself, and all come to hold the
//! same.
// Helpers of tests panic as tests do.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

use std::time::Duration;

use cloudkv_cluster_tests::region::World;
use cloudkv_cluster_tests::{Api, eventually};

const SOON: Duration = Duration::from_secs(30);

/// Waits until a node answers with a value, or that there is none.
async fn wait_value(world: &World, seat: usize, path: &str, value: Option<&str>) {
    let what = format!("node {seat} has {value:?}");
    eventually(&what, SOON, async || {
        let got = world.api(seat).get(path).await;
        let same = match value {
            Some(value) => got.status == 200 && got.text() == value,
            None => got.status == 404,
        };
        same.then_some(())
    })
    .await;
}

async fn put(api: &Api, path: &str, value: &str) {
    api.put(path, value.to_owned()).await.status(200);
}

#[tokio::test]
async fn what_one_region_writes_the_others_have_soon() {
    let world = World::start(&["eu", "us", "ap"], 1, 3).await;
    let bucket = world.api(1).bucket().await;
    for seat in 0..3 {
        let path = bucket.key(&format!("from-{seat}"));
        let put = world
            .api(seat)
            .put(&path, "hello")
            .header("content-type", "text/x");
        let etag = put.await.status(200).etag();
        for other in 0..3 {
            wait_value(&world, other, &path, Some("hello")).await;
            let got = world.api(other).get(&path).await;
            assert_eq!(
                (got.etag(), got.header("content-type")),
                (etag.clone(), "text/x")
            );
        }
    }
    let path = bucket.key("from-0");
    world.api(2).delete(&path).await.status(200);
    for other in 0..3 {
        wait_value(&world, other, &path, None).await;
    }
    let gone = bucket.key("soon-gone");
    world
        .api(0)
        .put(&format!("{gone}?ttl=3s"), "x")
        .await
        .status(200);
    wait_value(&world, 1, &gone, Some("x")).await;
    wait_value(&world, 1, &gone, None).await;
    wait_value(&world, 2, &gone, None).await;
    assert_eq!(world.wait_equal(&bucket).await.len(), 2);
    world.wait_nothing_held().await;
}

#[tokio::test]
async fn regions_that_were_cut_off_from_each_other_serve_and_then_agree() {
    let world = World::start(&["eu", "us"], 1, 2).await;
    let bucket = world.api(0).bucket().await;
    for key in 0..40 {
        let path = bucket.key(&format!("k{key}"));
        world.api(key % 2).put(&path, "before").await.status(200);
    }
    world.wait_equal(&bucket).await;
    world.cut_off(1);
    for key in 0..40 {
        let path = bucket.key(&format!("k{key}"));
        let (eu, us) = (world.api(0), world.api(1));
        match key % 4 {
            0 => put(&eu, &path, "eu").await,
            1 => put(&us, &path, "us").await,
            2 => {
                put(&eu, &path, "eu").await;
                put(&us, &path, "us, later").await;
            }
            _ => {
                put(&us, &path, "us").await;
                eu.delete(&path).await.status(200);
            }
        }
    }
    world.network.heal();
    let all = world.wait_equal(&bucket).await;
    assert_eq!(all.len(), 30);
    for key in 0..40 {
        let value = all.get(&format!("k{key}")).map(|(_, value)| value.clone());
        let expected: Option<&[u8]> = match key % 4 {
            0 => Some(b"eu"),
            1 => Some(b"us"),
            2 => Some(b"us, later"),
            _ => None,
        };
        assert_eq!(value.as_deref(), expected, "k{key}");
    }
    world.wait_nothing_held().await;
}

#[tokio::test]
async fn a_region_joins_while_the_others_are_written() {
    let mut world = World::start(&["eu", "us", "ap"], 1, 2).await;
    let bucket = world.api(0).bucket().await;
    for key in 0..200 {
        let path = bucket.key(&format!("old{key}"));
        world.api(key % 2).put(&path, "old").await.status(200);
    }
    for key in 0..20 {
        world
            .api(0)
            .delete(&bucket.key(&format!("old{key}")))
            .await
            .status(200);
    }
    world.start_region(2).await;
    let mut written = 0;
    while !world.is_ready(2).await {
        let path = bucket.key(&format!("new{written}"));
        world.api(written % 2).put(&path, "new").await.status(200);
        written += 1;
    }
    let path = bucket.key("from-the-new-one");
    world.api(2).put(&path, "hello").await.status(200);
    let all = world.wait_equal(&bucket).await;
    assert_eq!(all.len(), 180 + written + 1);
    world.wait_nothing_held().await;
}

#[tokio::test]
async fn a_region_that_was_gone_for_long_comes_back_and_nothing_deleted_returns() {
    let mut world = World::start(&["eu", "us"], 1, 2).await;
    let bucket = world.api(0).bucket().await;
    for key in 0..60 {
        world
            .api(0)
            .put(&bucket.key(&format!("k{key}")), "old")
            .await
            .status(200);
    }
    world.wait_equal(&bucket).await;
    world.kill(1);
    for key in 0..30 {
        world
            .api(0)
            .delete(&bucket.key(&format!("k{key}")))
            .await
            .status(200);
    }
    for round in 0..20 {
        for key in 30..40 {
            let value = format!("round {round}");
            world
                .api(0)
                .put(&bucket.key(&format!("k{key}")), value)
                .await
                .status(200);
        }
    }
    world.kill(0);
    world.restart(0).await;
    world.restart(1).await;
    let all = world.wait_equal(&bucket).await;
    assert_eq!(all.len(), 30);
    assert_eq!(all["k30"].1, b"round 19");
    world.wait_nothing_held().await;
}

#[tokio::test]
async fn a_bucket_that_is_deleted_is_gone_everywhere() {
    let world = World::start(&["eu", "us"], 1, 2).await;
    let bucket = world.api(0).bucket().await;
    world.api(0).put(&bucket.key("k"), "v").await.status(200);
    wait_value(&world, 1, &bucket.key("k"), Some("v")).await;
    let path = format!("{}?confirm=1", bucket.path());
    world
        .api(1)
        .delete(&path)
        .api_key(&bucket.account)
        .await
        .status(200);
    for seat in 0..2 {
        world
            .api(seat)
            .get(&bucket.key("k"))
            .await
            .error(404, "unknown_bucket");
    }
    world.wait_nothing_held().await;
}
