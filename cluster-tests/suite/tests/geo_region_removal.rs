//! Removal of a region that is lost for good: the survivors reconcile all that it had sent to any
//! of them, go on without it, and let it join again only as a new one. And `verify`, which
//! compares regions.
// Helpers of tests panic as tests do.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

use std::time::Duration;

use cloudkv_test_harness::region::{MultiRegionCluster, RegionOptions};
use cloudkv_test_harness::{Bucket, eventually};
use serde_json::Value;

const STATE_TIMEOUT: Duration = Duration::from_secs(60);

async fn status(world: &MultiRegionCluster, seat: usize) -> Option<Value> {
    let call = world.nodes[seat].admin_api().get("/status").unchecked();
    let answer = call.try_send().await.ok()?;
    (answer.status == 200).then(|| answer.json())
}

/// Waits until a node knows exactly these regions.
async fn wait_regions(world: &MultiRegionCluster, seat: usize, names: &[&str]) {
    let what = format!("node {seat} knows {names:?}");
    eventually(&what, STATE_TIMEOUT, async || {
        let status = status(world, seat).await?;
        let regions = status["regions"].as_array()?.iter();
        let known: Vec<&str> = regions.filter_map(|it| it["name"].as_str()).collect();
        (known == names).then_some(())
    })
    .await;
}

/// Returns the digests of a node's shards, tombstones included.
async fn digests(world: &MultiRegionCluster, seat: usize) -> Option<Vec<String>> {
    let status = status(world, seat).await?;
    let groups = status["groups"].as_array()?.iter();
    let shards = groups.filter(|it| it["group"] != "meta");
    shards
        .map(|it| it["digest"].as_str().map(str::to_owned))
        .collect()
}

/// Waits until two nodes have the same digests, tombstones included.
async fn wait_same_digests(world: &MultiRegionCluster, one: usize, other: usize) {
    eventually("all digests are equal", STATE_TIMEOUT, async || {
        (digests(world, one).await? == digests(world, other).await?).then_some(())
    })
    .await;
}

/// Deletes all keys of a bucket, and waits until neither records nor tombstones are left.
async fn delete_all(world: &MultiRegionCluster, bucket: &Bucket, seats: &[usize]) {
    for name in world.bucket_values(seats[0], bucket).await.unwrap().keys() {
        let path = bucket.key_path(name);
        world.api(seats[0]).delete(&path).await.assert_status(200);
    }
    for seat in seats {
        let what = format!("node {seat} has no record and no tombstone left");
        eventually(&what, STATE_TIMEOUT, async || {
            let digests = digests(world, *seat).await?;
            let is_empty = digests.iter().all(|digest| digest == "0000000000000000");
            is_empty.then_some(())
        })
        .await;
    }
}

async fn fill(world: &MultiRegionCluster, seat: usize, bucket: &Bucket, prefix: &str, value: &str) {
    let api = world.api(seat);
    api.put_numbered(bucket, prefix, 40, value).await;
}

/// Asserts that a node still shows the node of a region that was removed, under its name.
async fn assert_shows_removed_region(
    world: &MultiRegionCluster,
    seat: usize,
    removed_seat: usize,
    region: &str,
) {
    let host = world.seat(removed_seat).rpc().ip().to_string();
    for args in [&["status"][..], &["status", "--verbose"]] {
        let page = world.admin(seat, args).await.unwrap();
        let mut lines = page.lines();
        let line = lines.find(|line| line.starts_with(region) && line.contains(&host));
        let line = line.unwrap_or_else(|| panic!("no node of {region}:\n{page}"));
        assert!(line.contains("removed"), "{page}");
    }
    world.admin(seat, &["status", "--check"]).await.unwrap();
}

#[tokio::test]
async fn the_last_node_of_a_region_is_not_replaced() {
    let mut world = MultiRegionCluster::start(&["eu", "us"], 1, 2).await;
    let lost = world.node_id(1).await;
    world.kill(1);
    let refused = world.admin(0, &["replace", &lost.0]).await.unwrap_err();
    assert!(refused.contains("the last one of region us"), "{refused}");
    assert!(refused.contains("admin remove-region us"), "{refused}");
    let advice = "if it is lost for good, `cloudkv-node admin remove-region us`";
    eventually("the status advises it, too", STATE_TIMEOUT, async || {
        let page = world.admin(0, &["status"]).await.ok()?;
        let text = page.split_whitespace().collect::<Vec<_>>().join(" ");
        text.contains(advice).then_some(())
    })
    .await;
    let status = status(&world, 0).await.unwrap();
    let mut nodes = status["nodes"].as_array().unwrap().iter();
    let node = nodes.find(|node| node["id"].as_u64() == lost.0.parse().ok());
    assert_eq!(node.unwrap()["state"], "active", "{status}");
    // Not the only node of the only region either.
    world.admin_with_retries(0, &["remove-region", "us"]).await;
    wait_regions(&world, 0, &["eu"]).await;
    let own = world.node_id(0).await;
    let refused = world.admin(0, &["replace", &own.0]).await.unwrap_err();
    assert!(refused.contains("is alive"), "{refused}");
}

#[tokio::test]
async fn survivors_reconcile_what_a_lost_region_had_sent_to_one_of_them() {
    let mut world = MultiRegionCluster::start(&["eu", "us", "ap"], 1, 3).await;
    let bucket = world.api(0).create_bucket().await;
    fill(&world, 2, &bucket, "all", "old").await;
    world.wait_bucket_converged(&bucket).await;
    // From here on, ap's writes reach eu alone.
    world.network.cut(1, 2);
    fill(&world, 2, &bucket, "all", "new").await;
    fill(&world, 2, &bucket, "last", "words").await;
    for key in 0..20 {
        let path = bucket.key_path(&format!("all{key}"));
        world.api(2).delete(&path).await.assert_status(200);
    }
    let end = bucket.key_path("end");
    world.api(2).put(&end, "end").await.assert_status(200);
    world.wait_value(0, &end, Some("end"), STATE_TIMEOUT).await;
    eventually("eu has all of ap", STATE_TIMEOUT, async || {
        let eu = world.bucket_values(0, &bucket).await?;
        (Some(eu) == world.bucket_values(2, &bucket).await).then_some(())
    })
    .await;
    let refused = world.admin(0, &["remove-region", "ap"]).await.unwrap_err();
    assert!(refused.contains("of region ap is alive"), "{refused}");
    world.kill(2);
    let before = world.bucket_values(0, &bucket).await.unwrap();
    assert_eq!(before.len(), 61);
    assert_ne!(world.bucket_values(1, &bucket).await.unwrap(), before);
    // Retained for ap until it is removed.
    fill(&world, 1, &bucket, "retained", "v").await;
    let wrong = world.admin(0, &["remove-region", "xx"]).await.unwrap_err();
    assert!(wrong.contains("no region has the name"), "{wrong}");
    let output = world.admin_with_retries(1, &["remove-region", "ap"]).await;
    assert!(output.contains("go on without it"), "{output}");
    for seat in 0..2 {
        wait_regions(&world, seat, &["eu", "us"]).await;
        assert_shows_removed_region(&world, seat, 2, "ap").await;
    }
    let all = world.wait_bucket_converged(&bucket).await;
    assert_eq!(all.len(), 101);
    assert!(
        before
            .iter()
            .all(|(name, record)| all.get(name) == Some(record))
    );
    world.wait_no_retained_changes().await;
    wait_same_digests(&world, 0, 1).await;

    // Its old node is refused; with an empty directory it joins as a new one, and gets all data.
    world.nodes[2].start();
    assert!(!world.wait_exit(2).await.success());
    let log = std::fs::read_to_string(world.nodes[2].log().path()).unwrap();
    assert!(log.contains("its region was"), "{log}");
    world.network.heal();
    world.rejoin_wiped(2).await;
    world.wait_serving(2).await;
    fill(&world, 2, &bucket, "again", "here").await;
    assert_eq!(world.wait_bucket_converged(&bucket).await.len(), 141);
    let status = status(&world, 0).await.unwrap();
    let regions = status["regions"].as_array().unwrap();
    let numbers: Vec<u64> = regions
        .iter()
        .filter_map(|it| it["number"].as_u64())
        .collect();
    assert_eq!(numbers, [1, 2, 4]);
    let equal = world.admin_with_retries(1, &["verify"]).await;
    assert!(
        equal.contains("equal") && !equal.contains("different"),
        "{equal}"
    );
    delete_all(&world, &bucket, &[0, 1, 2]).await;
}

#[tokio::test]
async fn a_partitioned_region_stops_when_it_learns_of_its_removal() {
    let mut world = MultiRegionCluster::start(&["eu", "us"], 1, 2).await;
    world.expect_errors(&["removed from the cluster"]);
    let bucket = world.api(0).create_bucket().await;
    fill(&world, 1, &bucket, "k", "v").await;
    world.wait_bucket_converged(&bucket).await;
    world.isolate_region(1);
    fill(&world, 0, &bucket, "k", "w").await;
    for key in 0..10 {
        let path = bucket.key_path(&format!("k{key}"));
        world.api(0).delete(&path).await.assert_status(200);
    }
    world.admin_with_retries(0, &["remove-region", "us"]).await;
    wait_regions(&world, 0, &["eu"]).await;
    let put = world.api(1).put(&bucket.key_path("late"), "lost").await;
    put.assert_status(200);
    world.network.heal();
    assert!(!world.wait_exit(1).await.success());
    // The remaining region retains neither changes nor tombstones, and merges nothing from the
    // other.
    world.wait_no_retained_changes().await;
    assert_eq!(world.bucket_values(0, &bucket).await.unwrap().len(), 30);
    let last = world.admin(0, &["remove-region", "eu"]).await.unwrap_err();
    assert!(last.contains("the last region can't be removed"), "{last}");
    delete_all(&world, &bucket, &[0]).await;
    fill(&world, 0, &bucket, "k", "x").await;
    world.rejoin_wiped(1).await;
    world.wait_serving(1).await;
    assert_eq!(world.wait_bucket_converged(&bucket).await.len(), 40);
    wait_same_digests(&world, 0, 1).await;
}

#[tokio::test]
async fn a_region_that_failed_to_join_is_removed_and_others_can_join() {
    let mut world = MultiRegionCluster::start(&["eu", "us", "ap", "sa"], 1, 2).await;
    let bucket = world.api(0).create_bucket().await;
    fill(&world, 0, &bucket, "k", "v").await;
    // It can't be seeded, since it can't reach one of the others.
    world.network.cut(1, 2);
    world.start_region(2).await;
    eventually("ap joins", STATE_TIMEOUT, async || {
        let status = status(&world, 0).await?;
        let regions = status["regions"].as_array()?;
        regions.iter().any(|it| it["joining"] == true).then_some(())
    })
    .await;
    world.kill(2);
    let refused = world.admin(0, &["remove-region", "us"]).await.unwrap_err();
    assert!(refused.contains("is alive"), "{refused}");
    world.admin_with_retries(0, &["remove-region", "ap"]).await;
    wait_regions(&world, 1, &["eu", "us"]).await;
    world.network.heal();
    world.start_region(3).await;
    world.wait_serving(3).await;
    assert_eq!(world.wait_bucket_converged(&bucket).await.len(), 40);
    world.wait_no_retained_changes().await;
}

#[tokio::test]
async fn a_removal_needs_a_majority_of_the_metadata_and_resumes_after_crashes() {
    let mut world = MultiRegionCluster::start(&["eu", "us", "ap"], 1, 3).await;
    let bucket = world.api(0).create_bucket().await;
    world.network.cut(0, 2);
    fill(&world, 2, &bucket, "k", "v").await;
    eventually("us alone has all of ap", STATE_TIMEOUT, async || {
        (world.bucket_values(1, &bucket).await?.len() == 40).then_some(())
    })
    .await;
    assert!(world.bucket_values(0, &bucket).await.unwrap().is_empty());
    world.kill(2);
    world.kill(1);
    eventually(
        "the removal is refused for lack of voters",
        STATE_TIMEOUT,
        async || {
            let refused = world.admin(0, &["remove-region", "ap"]).await.unwrap_err();
            assert!(refused.contains("answered 503"), "{refused}");
            refused.contains("2 of them are needed").then_some(())
        },
    )
    .await;
    world.restart(1).await;
    world.admin_with_retries(1, &["remove-region", "ap"]).await;
    // However far the removal is by now.
    world.kill(0);
    world.restart(0).await;
    world.kill(1);
    world.restart(1).await;
    for seat in 0..2 {
        wait_regions(&world, seat, &["eu", "us"]).await;
    }
    assert_eq!(world.wait_bucket_converged(&bucket).await.len(), 40);
    world.wait_no_retained_changes().await;
}

#[tokio::test]
async fn a_region_of_three_is_removed_while_leaders_of_the_others_are_killed() {
    let mut world = MultiRegionCluster::start(&["eu", "us", "ap"], 3, 2).await;
    let bucket = world.api(0).create_bucket().await;
    fill(&world, 3, &bucket, "k", "v").await;
    world.wait_bucket_converged(&bucket).await;
    for seat in 3..6 {
        world.kill(seat);
    }
    fill(&world, 0, &bucket, "k", "w").await;
    world.admin_with_retries(1, &["remove-region", "us"]).await;
    let leader = world.wait_leader("shard-0").await;
    world.kill(leader);
    world.restart(leader).await;
    wait_regions(&world, leader, &["eu"]).await;
    world.wait_no_retained_changes().await;
    assert_eq!(world.bucket_values(0, &bucket).await.unwrap().len(), 40);
}

#[tokio::test]
async fn verify_finds_a_record_that_differs_in_one_region() {
    let mut world = MultiRegionCluster::start(&["eu", "us"], 1, 2).await;
    let bucket = world.api(0).create_bucket().await;
    fill(&world, 0, &bucket, "k", "v").await;
    world
        .api(0)
        .put(&bucket.key_path("odd"), "value-as-written")
        .await
        .assert_status(200);
    let deleted = bucket.key_path("k1");
    world.api(1).delete(&deleted).await.assert_status(200);
    world.wait_bucket_converged(&bucket).await;
    let equal = world.admin_with_retries(0, &["verify"]).await;
    assert!(
        equal.contains("equal") && !equal.contains("different"),
        "{equal}"
    );
    // While keys change all the time, `verify` must not report that regions differ for good.
    let busy = async |seat: usize| loop {
        for key in 0..3 {
            let path = bucket.key_path(&format!("k{key}"));
            world.api(seat).put(&path, "busy").await.assert_status(200);
        }
    };
    tokio::select! {
        result = world.admin(1, &["verify"]) => if let Err(error) = result {
            assert!(error.contains("change faster"), "{error}");
        },
        () = busy(0) => {}
        () = busy(1) => {}
    }
    world.wait_bucket_converged(&bucket).await;
    world.terminate(1).await;
    world.nodes[1].alter_stored_value(b"value-as-written", b"value-as-altered");
    world.restart(1).await;
    // It waits until the region's leaders are known to the others.
    let error = world.admin(0, &["verify", "--json"]).await;
    let error = error.expect_err("the regions differ");
    assert!(error.contains("the regions differ"), "{error}");
    assert_eq!(error.matches("\"different\"").count(), 1, "{error}");
    assert_eq!(error.matches("\"range\"").count(), 1, "{error}");
    let contents = world.bucket_values(1, &bucket).await.unwrap();
    assert_eq!(contents["odd"].1, b"value-as-altered");
}

#[tokio::test]
async fn regions_are_compared_right_after_all_nodes_were_restarted() {
    let mut world = MultiRegionCluster::start(&["eu", "us"], 1, 2).await;
    let bucket = world.api(0).create_bucket().await;
    fill(&world, 0, &bucket, "k", "v").await;
    world.wait_bucket_converged(&bucket).await;
    for _ in 0..2 {
        world.kill(0);
        world.kill(1);
        world.nodes[0].start();
        world.nodes[1].start();
        for seat in 0..2 {
            world.wait_listening(seat).await;
        }
        let output = world.admin(0, &["verify"]).await;
        let output = output.expect("it waits until both regions have leaders");
        assert!(output.contains("equal"), "{output}");
    }
}

#[tokio::test]
async fn a_region_for_which_too_many_changes_are_retained_is_removed() {
    let options = RegionOptions {
        args: vec!["--geo-budget-mib".into(), "1".into()],
        shards: 1,
        ..RegionOptions::default()
    };
    let mut world = MultiRegionCluster::start_with(&["eu", "us"], 1, 2, options).await;
    world.expect_errors(&["retained changes"]);
    let bucket = world.api(0).create_bucket().await;
    let stage = async || {
        status(&world, 0).await?["held_for_regions"]["stage"]
            .as_str()
            .map(str::to_owned)
    };
    assert_eq!(stage().await.as_deref(), Some("fine"));
    world.network.cut(0, 1);
    let value = vec![b'v'; 3000];
    for key in 0..400 {
        let path = bucket.key_path(&format!("k{key}"));
        world
            .api(0)
            .put(&path, value.clone())
            .await
            .assert_status(200);
        // Only for a while: then the region is removed.
        if stage().await.as_deref() == Some("full") {
            break;
        }
    }
    eventually("the alarm is raised", STATE_TIMEOUT, async || {
        (stage().await? == "full").then_some(())
    })
    .await;
    wait_regions(&world, 0, &["eu"]).await;
    world.wait_no_retained_changes().await;
    eventually("the alarm is cleared", STATE_TIMEOUT, async || {
        (stage().await? == "fine").then_some(())
    })
    .await;
}
