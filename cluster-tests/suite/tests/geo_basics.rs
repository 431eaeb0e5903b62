//! Several regions from a user's view: each takes writes by itself, and all converge.
// Helpers of tests panic as tests do.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

use std::time::Duration;

use cloudkv_test_harness::region::MultiRegionCluster;
use cloudkv_test_harness::{ApiClient, HttpResponse, eventually};

const STATE_TIMEOUT: Duration = Duration::from_secs(30);

/// Waits until a node answers with `value`, or with 404 if it is `None`.
async fn wait_value(world: &MultiRegionCluster, seat: usize, path: &str, value: Option<&str>) {
    world.wait_value(seat, path, value, STATE_TIMEOUT).await;
}

async fn put(api: &ApiClient, path: &str, value: &str) {
    api.put(path, value.to_owned()).await.assert_status(200);
}

#[tokio::test]
async fn writes_of_one_region_reach_the_others() {
    let world = MultiRegionCluster::start(&["eu", "us", "ap"], 1, 3).await;
    let bucket = world.api(1).create_bucket().await;
    for seat in 0..3 {
        let path = bucket.key_path(&format!("from-{seat}"));
        let put = world
            .api(seat)
            .put(&path, "hello")
            .header("content-type", "text/x");
        let etag = put.await.assert_status(200).etag();
        for other in 0..3 {
            wait_value(&world, other, &path, Some("hello")).await;
            let got = world.api(other).get(&path).await;
            assert_eq!(
                (got.etag(), got.header("content-type")),
                (etag.clone(), "text/x")
            );
        }
    }
    let path = bucket.key_path("from-0");
    world.api(2).delete(&path).await.assert_status(200);
    for other in 0..3 {
        wait_value(&world, other, &path, None).await;
    }
    let expiring = bucket.key_path("expiring");
    world
        .api(0)
        .put(&format!("{expiring}?ttl=10s"), "x")
        .await
        .assert_status(200);
    wait_value(&world, 1, &expiring, Some("x")).await;
    wait_value(&world, 1, &expiring, None).await;
    wait_value(&world, 2, &expiring, None).await;
    assert_eq!(world.wait_bucket_converged(&bucket).await.len(), 2);
    world.wait_no_retained_changes().await;
}

#[tokio::test]
async fn partitioned_regions_serve_and_then_converge() {
    let world = MultiRegionCluster::start(&["eu", "us"], 1, 2).await;
    let bucket = world.api(0).create_bucket().await;
    for key in 0..40 {
        let path = bucket.key_path(&format!("k{key}"));
        world
            .api(key % 2)
            .put(&path, "before")
            .await
            .assert_status(200);
    }
    world.wait_bucket_converged(&bucket).await;
    world.isolate_region(1);
    for key in 0..40 {
        let path = bucket.key_path(&format!("k{key}"));
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
                eu.delete(&path).await.assert_status(200);
            }
        }
    }
    world.network.heal();
    let all = world.wait_bucket_converged(&bucket).await;
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
    world.wait_no_retained_changes().await;
}

#[tokio::test]
async fn a_region_joins_while_the_others_take_writes() {
    let mut world = MultiRegionCluster::start(&["eu", "us", "ap"], 1, 2).await;
    let bucket = world.api(0).create_bucket().await;
    for key in 0..200 {
        let path = bucket.key_path(&format!("old{key}"));
        world
            .api(key % 2)
            .put(&path, "old")
            .await
            .assert_status(200);
    }
    for key in 0..20 {
        world
            .api(0)
            .delete(&bucket.key_path(&format!("old{key}")))
            .await
            .assert_status(200);
    }
    world.start_region(2).await;
    let mut written = 0;
    while !world.is_ready(2).await {
        let path = bucket.key_path(&format!("new{written}"));
        world
            .api(written % 2)
            .put(&path, "new")
            .await
            .assert_status(200);
        written += 1;
    }
    let path = bucket.key_path("from-the-new-region");
    world.api(2).put(&path, "hello").await.assert_status(200);
    let all = world.wait_bucket_converged(&bucket).await;
    assert_eq!(all.len(), 180 + written + 1);
    world.wait_no_retained_changes().await;
}

#[tokio::test]
async fn a_region_that_was_down_catches_up_and_no_deleted_key_reappears() {
    let mut world = MultiRegionCluster::start(&["eu", "us"], 1, 2).await;
    let bucket = world.api(0).create_bucket().await;
    world.api(0).put_numbered(&bucket, "k", 60, "old").await;
    world.wait_bucket_converged(&bucket).await;
    world.kill(1);
    for key in 0..30 {
        world
            .api(0)
            .delete(&bucket.key_path(&format!("k{key}")))
            .await
            .assert_status(200);
    }
    for round in 0..20 {
        for key in 30..40 {
            let value = format!("round {round}");
            world
                .api(0)
                .put(&bucket.key_path(&format!("k{key}")), value)
                .await
                .assert_status(200);
        }
    }
    world.kill(0);
    world.restart(0).await;
    world.restart(1).await;
    let all = world.wait_bucket_converged(&bucket).await;
    assert_eq!(all.len(), 30);
    assert_eq!(all["k30"].1, b"round 19");
    world.wait_no_retained_changes().await;
}

#[tokio::test]
async fn a_deleted_bucket_is_unknown_in_all_regions() {
    let world = MultiRegionCluster::start(&["eu", "us"], 1, 2).await;
    let bucket = world.api(0).create_bucket().await;
    world
        .api(0)
        .put(&bucket.key_path("k"), "v")
        .await
        .assert_status(200);
    wait_value(&world, 1, &bucket.key_path("k"), Some("v")).await;
    let path = format!("{}?confirm=1", bucket.path());
    world
        .api(1)
        .delete(&path)
        .api_key(&bucket.account)
        .await
        .assert_status(200);
    for seat in 0..2 {
        world
            .api(seat)
            .get(&bucket.key_path("k"))
            .await
            .assert_error(404, "unknown_bucket");
    }
    world.wait_no_retained_changes().await;
}

/// Reads with a session token, and retries while the region is behind.
async fn get_since(
    world: &MultiRegionCluster,
    seat: usize,
    path: &str,
    token: &str,
) -> HttpResponse {
    eventually("the region isn't behind", STATE_TIMEOUT, async || {
        let got = world.api(seat).get(path);
        let got = got.header("x-cloudkv-min-version", token).await;
        if got.status == 503 {
            got.assert_error(503, "behind");
            return None;
        }
        got.assert_status(200);
        Some(got)
    })
    .await
}

#[tokio::test]
async fn a_session_that_saw_a_delete_does_not_see_the_key_elsewhere() {
    let world = MultiRegionCluster::start(&["eu", "us"], 1, 2).await;
    let bucket = world.api(0).create_bucket().await;
    let path = bucket.key_path("k");
    world.api(0).put(&path, "old").await.assert_status(200);
    wait_value(&world, 1, &path, Some("old")).await;
    world.isolate_region(1);
    // Another client deletes it.
    world.api(0).delete(&path).await.assert_status(200);
    let deleted = world.api(0).get(&path).await;
    deleted.assert_error(404, "not_found");
    let token = deleted.header("x-cloudkv-version");
    let elsewhere = async || {
        let get = world.api(1).get(&path);
        get.header("x-cloudkv-min-version", token).await
    };
    assert_eq!(world.api(1).get(&path).await.text(), "old");
    elsewhere().await.assert_error(503, "behind");
    world.network.heal();
    eventually("the delete has arrived", STATE_TIMEOUT, async || {
        let got = elsewhere().await;
        if got.status == 503 {
            return None;
        }
        got.assert_error(404, "not_found");
        Some(())
    })
    .await;
    // The token is kept in answers to absent keys and failed conditions.
    let never = world.api(0).get(&bucket.key_path("never"));
    let never = never.header("x-cloudkv-min-version", token).await;
    never.assert_error(404, "not_found");
    assert_eq!(never.header("x-cloudkv-version"), token);
    let existing = bucket.key_path("existing");
    world.api(0).put(&existing, "v").await.assert_status(200);
    let failed = world
        .api(0)
        .get(&existing)
        .header("if-match", "\"x\"")
        .await;
    failed.assert_error(412, "precondition_failed");
    assert!(failed.find_header("x-cloudkv-version").is_some());
}

#[tokio::test]
async fn a_session_token_shows_a_client_its_own_writes_in_any_region() {
    let world = MultiRegionCluster::start(&["eu", "us"], 1, 2).await;
    let bucket = world.api(0).create_bucket().await;
    world.delay_regions(Duration::from_millis(60));
    let mut token = String::new();
    for round in 0..20 {
        let path = bucket.key_path(&format!("k{}", round % 4));
        let value = format!("round {round}");
        let put = world.api(round % 2).put(&path, value.clone());
        let put = put.header("x-cloudkv-min-version", &token);
        let put = if token.is_empty() {
            world.api(round % 2).put(&path, value.clone()).await
        } else {
            put.await
        };
        token = put
            .assert_status(200)
            .header("x-cloudkv-version")
            .to_owned();
        let got = get_since(&world, (round + 1) % 2, &path, &token).await;
        assert_eq!(got.text(), value);
        token = got.header("x-cloudkv-version").to_owned();
        let eventual = format!("{path}?consistency=eventual");
        let got = get_since(&world, (round + 1) % 2, &eventual, &token).await;
        assert_eq!(got.text(), value);
    }
    eventually("the lag is reported", STATE_TIMEOUT, async || {
        let got = world.api(1).get(&bucket.key_path("k0")).await;
        let lag = got.find_header("x-cloudkv-lag")?;
        let ms: u64 = lag.strip_prefix("eu;ms=")?.parse().ok()?;
        (ms >= 60).then_some(())
    })
    .await;
    world.isolate_region(1);
    let path = bucket.key_path("k0");
    let put = world.api(0).put(&path, "cut off").await;
    let token = put
        .assert_status(200)
        .header("x-cloudkv-version")
        .to_owned();
    let got = world.api(1).get(&path);
    let got = got.header("x-cloudkv-min-version", &token).await;
    got.assert_error(503, "behind");
    let get_with = async |token: &str| {
        let got = world.api(1).get(&path);
        got.header("x-cloudkv-min-version", token).await
    };
    for wrong in ["x", "1.2.3"] {
        get_with(wrong).await.assert_error(400, "invalid_header");
    }
    // A partitioned region can't know whether that region exists by now.
    get_with("9.1.0.1").await.assert_error(503, "unavailable");
    world.network.heal();
    for unknown in ["9.1.0.1", "1.1.0.1"] {
        let what = "a token of an unknown history is refused";
        eventually(what, STATE_TIMEOUT, async || {
            let answer = get_with(unknown).await;
            (answer.status != 503).then(|| answer.assert_error(400, "invalid_header").status)
        })
        .await;
    }
}

#[tokio::test]
async fn nothing_is_lost_while_leaders_are_killed_in_two_regions() {
    let mut world = MultiRegionCluster::start(&["eu", "us"], 3, 2).await;
    let bucket = world.api(0).create_bucket().await;
    let mut last = std::collections::BTreeMap::new();
    for round in 0..6_usize {
        let dead = [0, 3, 1, 4, 2, 5][round];
        for key in 0..60 {
            if key == 20 {
                world.kill(dead);
            }
            if key == 40 {
                world.restart(dead).await;
            }
            // Each key is written in one region only, so its last acknowledged value wins.
            let region = key % 2;
            let seat = world
                .seats(region)
                .find(|seat| *seat != dead)
                .expect("a node that runs");
            let (name, value) = (format!("k{key}"), format!("{round}"));
            let path = bucket.key_path(&name);
            eventually("a write", STATE_TIMEOUT, async || {
                let put = world.api(seat).put(&path, value.clone());
                let put = put.try_send().await.ok()?;
                (put.status == 200).then_some(())
            })
            .await;
            last.insert(name, value);
        }
    }
    let all = world.wait_bucket_converged(&bucket).await;
    let actual: std::collections::BTreeMap<_, _> = all
        .into_iter()
        .map(|(name, (_, value))| (name, String::from_utf8_lossy(&value).into_owned()))
        .collect();
    assert_eq!(actual, last);
    world.wait_no_retained_changes().await;
}
