//! A region of three nodes from a user's view: any node serves, and any one may fail.
// Helpers of tests panic as tests do.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

use std::sync::Mutex;
use std::time::Duration;

use cloudkv_test_harness::load::{LoadPattern, PlainLoad};
use cloudkv_test_harness::region::{Region, key_in_shard};
use cloudkv_test_harness::{Bucket, eventually, try_eventually};
use futures_util::future::join_all;

const STATE_TIMEOUT: Duration = Duration::from_secs(20);

/// Returns the name of one key for each shard.
fn keys_by_shard(region: &Region, bucket: &Bucket) -> Vec<String> {
    let shards = region.shards();
    (0..shards)
        .map(|shard| key_in_shard(bucket, "k", shard, shards))
        .collect()
}

/// Writes a key, and retries until it is acknowledged.
async fn put(region: &Region, seat: usize, path: &str, value: &str) {
    let last = Mutex::new(None);
    let done = try_eventually(STATE_TIMEOUT, async || {
        let answer = region.api(seat).put(path, value.to_owned());
        let answer = answer.try_send().await;
        let is_done = answer.as_ref().is_ok_and(|answer| answer.status == 200);
        *last.lock().expect("not poisoned") = Some(answer);
        is_done.then_some(())
    });
    if done.await.is_none() {
        let statuses = region.statuses().await;
        panic!("write of {path} through node {seat} timed out: {last:?}\n{statuses:#?}");
    }
}

#[tokio::test]
async fn any_node_serves_any_request() {
    let region = Region::start().await;
    let bucket = region.api(2).create_bucket().await;
    let names = keys_by_shard(&region, &bucket);
    for (index, name) in names.iter().enumerate() {
        let path = bucket.key_path(name);
        let etag = region
            .api(index % 3)
            .put(&path, name.clone())
            .await
            .assert_status(200)
            .etag();
        for seat in 0..3 {
            let get = region.api(seat).get(&path).await;
            assert_eq!(
                (get.assert_status(200).text(), get.etag()),
                (name.as_str(), etag.clone())
            );
        }
        let create = region
            .api((index + 1) % 3)
            .put(&path, "no")
            .header("if-none-match", "*");
        create.await.assert_error(412, "precondition_failed");
    }
    let mut sorted = names.clone();
    sorted.sort();
    for seat in 0..3 {
        let api = region.api(seat);
        assert_eq!(
            api.get(&bucket.listing_path())
                .await
                .assert_status(200)
                .lines(),
            sorted
        );
        let listed = api.bucket_summary(&bucket).await;
        assert_eq!(listed["id"], bucket.id.as_str());
        eventually("the count is published", STATE_TIMEOUT, async || {
            let summary = region.api(seat).bucket_summary(&bucket).await;
            (summary["estimated_keys"] == names.len()).then_some(())
        })
        .await;
    }
    let path = format!("{}?confirm={}", bucket.path(), names.len());
    region
        .api(1)
        .delete(&path)
        .api_key(&bucket.account)
        .await
        .assert_status(200);
    for seat in 0..3 {
        let get = region.api(seat).get(&bucket.key_path(&names[0])).await;
        get.assert_error(404, "unknown_bucket");
    }
}

#[tokio::test]
async fn a_new_bucket_is_known_at_all_nodes_at_once() {
    let region = Region::start().await;
    for round in 0..12 {
        let bucket = region.api(round % 3).create_bucket().await;
        let path = bucket.key_path("k");
        region
            .api((round + 1) % 3)
            .put(&path, "v")
            .await
            .assert_status(200);
        region
            .api((round + 2) % 3)
            .get(&path)
            .await
            .assert_status(200);
        region.api((round + 2) % 3).bucket_summary(&bucket).await;
    }
}

#[tokio::test]
async fn a_region_serves_without_any_one_of_its_nodes_which_then_catches_up() {
    let mut region = Region::start().await;
    let bucket = region.api(0).create_bucket().await;
    let names = keys_by_shard(&region, &bucket);
    for dead in 0..3 {
        region.kill(dead);
        for name in &names {
            for seat in (0..3).filter(|seat| *seat != dead) {
                let value = format!("{dead} is dead, written by {seat}");
                put(&region, seat, &bucket.key_path(name), &value).await;
                let get = region.api((dead + 1) % 3).get(&bucket.key_path(name)).await;
                assert_eq!(get.assert_status(200).text(), value);
            }
        }
        region.restart(dead).await;
        region.wait_formed().await;
        for name in &names {
            let get = region.api(dead).get(&bucket.key_path(name)).await;
            assert!(get.assert_status(200).text().starts_with(&dead.to_string()));
        }
    }
    region.wait_converged().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_rolling_restart_shows_clients_no_error() {
    let mut region = Region::start().await;
    let bucket = region.api(0).create_bucket().await;
    let nodes = region.http_addresses(0..3);
    let load = PlainLoad::start(&nodes, &bucket, 9, LoadPattern::OwnKeys, Some(150.0));
    for seat in 0..3 {
        region.terminate(seat).await;
        region.restart(seat).await;
        region.wait_formed().await;
    }
    let outcome = load.stop().await;
    assert!(outcome.requests > 100 && outcome.retries > 0, "{outcome:?}");
    assert_eq!(outcome.errors, 0, "{outcome:?}");
}

#[tokio::test]
async fn a_partitioned_leader_serves_no_stale_reads_and_the_others_go_on() {
    let region = Region::start().await;
    let bucket = region.api(0).create_bucket().await;
    for shard in 0..region.shards() {
        let name = key_in_shard(&bucket, "k", shard, region.shards());
        let path = bucket.key_path(&name);
        region.api(0).put(&path, "old").await.assert_status(200);
        let leader = region.wait_leader(&format!("shard-{shard}")).await;
        region.network.isolate(leader);
        put(&region, (leader + 1) % 3, &path, "new").await;
        // It may hold the request until its deadline, refuse it, or know the new leader by now.
        let get = region.api(leader).get(&path).await;
        if get.status == 200 {
            assert_eq!(get.text(), "new", "a stale read: {get:?}");
        } else {
            assert!([503, 504].contains(&get.status), "{get:?}");
        }
        region.network.heal();
        region.wait_formed().await;
        assert_eq!(
            region
                .api(leader)
                .get(&path)
                .await
                .assert_status(200)
                .text(),
            "new"
        );
    }
}

#[tokio::test]
async fn a_paused_leader_serves_no_stale_reads() {
    let region = Region::start().await;
    let bucket = region.api(0).create_bucket().await;
    for shard in 0..region.shards() {
        let key = |stem| bucket.key_path(&key_in_shard(&bucket, stem, shard, region.shards()));
        let (path, busy) = (key("k"), key("busy"));
        let leader = region.wait_leader(&format!("shard-{shard}")).await;
        put(&region, leader, &path, "old").await;
        // Appends are in flight when it is paused, and their answers wait for it when it resumes.
        let writes = (0..16).map(|_| tokio::spawn(region.api(leader).put(&busy, "x").try_send()));
        let writes: Vec<_> = writes.collect();
        tokio::task::yield_now().await;
        region.nodes[leader].pause();
        put(&region, (leader + 1) % 3, &path, "new").await;
        let reads = (0..64).map(|_| tokio::spawn(region.api(leader).get(&path).try_send()));
        let reads: Vec<_> = reads.collect();
        tokio::task::yield_now().await;
        region.nodes[leader].resume();
        for read in reads {
            match read.await.unwrap() {
                Ok(get) if get.status == 200 => assert_eq!(get.text(), "new", "{get:?}"),
                Ok(get) => assert!([503, 504].contains(&get.status), "{get:?}"),
                Err(error) => panic!("a read: {error}"),
            }
        }
        for write in writes {
            // Their outcome doesn't matter here.
            let _ = write.await.unwrap();
        }
        region.wait_formed().await;
    }
}

#[tokio::test]
async fn a_region_serves_while_two_nodes_cannot_reach_each_other() {
    let region = Region::start().await;
    let bucket = region.api(0).create_bucket().await;
    for round in 0..3 {
        let (one, other, bridge) = (round, (round + 1) % 3, (round + 2) % 3);
        region.network.cut(one, other);
        for name in keys_by_shard(&region, &bucket) {
            put(&region, bridge, &bucket.key_path(&name), &round.to_string()).await;
        }
        region.network.heal();
        region.wait_formed().await;
        for name in keys_by_shard(&region, &bucket) {
            let get = region.api(one).get(&bucket.key_path(&name)).await;
            assert_eq!(get.assert_status(200).text(), round.to_string());
        }
    }
}

#[tokio::test]
async fn eventual_reads_are_served_by_a_partitioned_node() {
    let region = Region::start().await;
    let bucket = region.api(0).create_bucket().await;
    let path = bucket.key_path("k");
    region.api(0).put(&path, "v").await.assert_status(200);
    region.wait_converged().await;
    region.network.isolate(1);
    let get = region
        .api(1)
        .get(&format!("{path}?consistency=eventual"))
        .await;
    assert_eq!(get.assert_status(200).text(), "v");
    region.network.heal();
}

#[tokio::test]
async fn tolerated_losses_are_reported_as_nodes_fail_and_return() {
    let mut region = Region::start().await;
    let wait_survives = async |region: &Region, prefix: &str| {
        eventually(prefix, STATE_TIMEOUT, async || {
            region
                .status(0)
                .await?
                .survives
                .starts_with(prefix)
                .then_some(())
        })
        .await;
    };
    wait_survives(&region, "the loss of any one node").await;
    let lost = region.node_id(2).await;
    region.kill(2);
    wait_survives(&region, &format!("the loss of no node now: node {lost}")).await;
    region.restart(2).await;
    wait_survives(&region, "the loss of any one node").await;
}

#[tokio::test]
async fn a_partitioned_node_answers_all_requests_for_an_unknown_bucket() {
    let region = Region::start().await;
    let mut bucket = region.api(0).create_bucket().await;
    region.wait_converged().await;
    bucket.id = "a0000000000000".into();
    let path = bucket.key_path("k");
    // Each of them would otherwise wait for the leader in vain, one after the other.
    region.network.isolate(1);
    let reads = (0..100).map(async |_| region.api(1).get(&path).await);
    let answers = tokio::time::timeout(STATE_TIMEOUT, join_all(reads)).await;
    for answer in answers.expect("all are answered at once") {
        answer.assert_error(503, "unavailable");
    }
    region.network.heal();
    eventually("the leader is queried again", STATE_TIMEOUT, async || {
        let answer = region.api(1).get(&path).await;
        (answer.status == 404).then(|| answer.assert_error(404, "unknown_bucket"));
        (answer.status == 404).then_some(())
    })
    .await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_eventual_read_after_a_restart_shows_all_that_was_written_before_it() {
    let mut region = Region::start().await;
    region.wait_leaders_balanced().await;
    let bucket = region.api(0).create_bucket().await;
    let leader = region.wait_leader("shard-0").await;
    let follower = (leader + 1) % 3;
    let path = bucket.key_path(&key_in_shard(&bucket, "k", 0, region.shards()));
    put(&region, leader, &path, "before").await;
    region.wait_converged().await;
    region.kill(follower);
    put(&region, leader, &path, "after").await;
    // It learns who leads well before it has caught up, which takes more than one message.
    let delay = Duration::from_millis(100);
    region.network.delay(follower, delay, Duration::ZERO);
    region.restart(follower).await;
    let eventual = format!("{path}?consistency=eventual");
    let first = eventually("the restarted node answers", STATE_TIMEOUT, async || {
        let answer = region.api(follower).get(&eventual).try_send().await.ok()?;
        (answer.status == 200).then_some(answer)
    });
    assert_eq!(first.await.text(), "after");
}
