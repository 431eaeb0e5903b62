//! Recoveries by force, in a cluster of one region that has lost two of its three nodes for good.
// Helpers of tests panic as tests do.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

use std::time::Duration;

use cloudkv_test_harness::backup::{KeyCopies, assert_same_keys, copy_keys};
use cloudkv_test_harness::region::{RecoveryScope, Region, RegionOptions};
use cloudkv_test_harness::rng::Rng;
use cloudkv_test_harness::{ApiClient, Bucket, eventually, try_eventually};
use uuid::Uuid;

const STATE_TIMEOUT: Duration = Duration::from_secs(60);
const SCOPES: [RecoveryScope; 2] = [RecoveryScope::Metadata, RecoveryScope::Shards];
/// Number of times that a node is killed while it recovers the same groups.
const KILLS: usize = 8;
/// Longer than the start of a node takes, in milliseconds.
const START_MS: u64 = 2000;

/// Writes keys, all of which every node has then.
async fn fill(region: &Region) -> (Bucket, KeyCopies) {
    let api = region.api(0);
    let bucket = api.create_bucket().await;
    api.put_numbered(&bucket, "k", 60, "v").await;
    for number in 0..20 {
        let path = bucket.key_path(&format!("k{number}"));
        let call = match number % 2 {
            0 => api.delete(&path),
            _ => api.put(&path, "later"),
        };
        call.await.assert_status(200);
    }
    region.wait_converged().await;
    let keys = copy_keys(&api, &bucket).await;
    assert_eq!(keys.len(), 50);
    (bucket, keys)
}

/// Asserts that a bucket has these keys, and that it can be written to.
async fn assert_serves(api: &ApiClient, bucket: &Bucket, keys: &KeyCopies) {
    assert_same_keys(&copy_keys(api, bucket).await, keys);
    let path = bucket.key_path("another");
    api.put(&path, "v").await.assert_status(200);
    assert_eq!(api.get(&path).await.text(), "v");
    api.delete(&path).await.assert_status(200);
    let second = api.create_bucket_for(&bucket.account, &[]).await;
    api.put_numbered(&second, "k", 20, "v").await;
    assert_eq!(api.list(&second).await.len(), 20);
}

fn has_pending_recovery(region: &Region, seat: usize) -> bool {
    let path = region.nodes[seat].data_dir().join("recovery.json");
    path.is_file()
}

/// Asserts that a node goes on, and has no recovery to carry out.
async fn assert_unchanged(region: &mut Region, seat: usize) {
    assert!(!has_pending_recovery(region, seat));
    assert!(region.nodes[seat].exit_status().is_none());
    region.wait_status(seat).await;
}

/// Returns the host by which a node is named.
fn host(region: &Region, seat: usize) -> String {
    region.seat(seat).rpc().ip().to_string()
}

#[tokio::test]
async fn what_two_lost_nodes_had_acknowledged_is_there_and_new_nodes_join() {
    let mut region = Region::start().await;
    let (bucket, keys) = fill(&region).await;
    region.destroy(&[1, 2]);
    let lost = [host(&region, 1), host(&region, 2)];
    for scope in SCOPES {
        let report = region.wait_recoverable(0, scope).await;
        let text = report["confirmation"].as_str().unwrap();
        assert_eq!(report["rejoins"], false, "{report}");
        assert!(lost.iter().all(|host| text.contains(host)), "{report}");
        let [group, action] = scope.command();
        let printed = region.run_admin(0, &[group, action]).await;
        println!("{}", printed.stdout);
        printed
            .assert_failure()
            .assert_mentions(&[text, "--confirm"]);
        printed.assert_mentions(&lost.each_ref().map(String::as_str));
        let upper = text.to_uppercase();
        for wrong in [&text[1..], &upper, "yes"] {
            let confirm = [group, action, "--confirm", wrong];
            let refused = region.run_admin(0, &confirm).await;
            refused.assert_failure().assert_mentions(&[text]);
        }
        assert_unchanged(&mut region, 0).await;
        region.recover(0, scope).await;
        let region = &region;
        eventually("it is carried out", STATE_TIMEOUT, async || {
            (!has_pending_recovery(region, 0)).then_some(())
        })
        .await;
        if scope == RecoveryScope::Metadata {
            // It serves before the shards do.
            let set = ["plan", "set", "free", "--keys=5000"];
            region.admin_with_retries(0, &set).await;
        }
    }
    region.wait_formed().await;
    assert_serves(&region.api(0), &bucket, &keys).await;
    region.admin_with_retries(0, &["verify"]).await;

    for seat in [1, 2] {
        region.rejoin_wiped(seat).await;
    }
    region.wait_formed().await;
    region.wait_converged().await;
    assert_serves(&region.api(1), &bucket, &keys).await;
    region.admin_with_retries(2, &["verify"]).await;
    eventually("nothing needs an operator", STATE_TIMEOUT, async || {
        let checked = region.admin(0, &["status", "--check"]).await;
        checked.ok()
    })
    .await;
    // Any one node may fail again.
    region.kill(0);
    let api = region.api(1);
    eventually("the others serve", STATE_TIMEOUT, async || {
        let put = api.put(&bucket.key_path("k0"), "v").try_send().await.ok()?;
        (put.status == 200).then_some(())
    })
    .await;
}

#[tokio::test]
async fn nodes_that_were_declared_lost_are_refused_for_ever() {
    let mut region = Region::start().await;
    region.expect_errors(&["removed"]);
    let (bucket, keys) = fill(&region).await;
    // The one that has bootstrapped the cluster knows no other address at its start.
    region.kill(0);
    region.kill(1);
    for scope in SCOPES {
        region.recover(2, scope).await;
    }
    region.wait_formed().await;
    // Two at once: together they were a majority.
    for _ in 0..2 {
        region.nodes[0].start();
        region.nodes[1].start();
        region.network.set_listening(0, true);
        region.network.set_listening(1, true);
        for seat in [0, 1] {
            region.wait_exit(seat).await;
            let log = region.nodes[seat].log().tail();
            assert!(log.contains("removed"), "{log}");
        }
        region.wait_formed().await;
        assert_serves(&region.api(2), &bucket, &keys).await;
    }
    for seat in [0, 1] {
        region.rejoin_wiped(seat).await;
    }
    region.wait_formed().await;
    assert_serves(&region.api(0), &bucket, &keys).await;
}

#[tokio::test]
async fn a_recovery_is_refused_while_there_is_a_leader_or_a_majority() {
    let mut region = Region::start().await;
    for scope in SCOPES {
        let [group, action] = scope.command();
        let reported = region.run_admin(0, &[group, action]).await;
        let confirm = [group, action, "--confirm", "recover it"];
        let confirmed = region.run_admin(0, &confirm).await;
        for refused in [reported, confirmed] {
            let refused = refused.assert_failure();
            refused.assert_mentions(&["has a leader"]);
        }
    }
    assert_unchanged(&mut region, 0).await;
    let leader = region.wait_leader("meta").await;
    let seat = (leader + 1) % 3;
    region.kill(leader);
    eventually("another leads", STATE_TIMEOUT, async || {
        let report = region
            .recovery_report(seat, RecoveryScope::Metadata)
            .await?;
        assert!(report["refusal"].is_string(), "{report}");
        region.leader_of("meta").await
    })
    .await;
    for scope in SCOPES {
        let what = format!("{scope:?} have a leader");
        eventually(&what, STATE_TIMEOUT, async || {
            let report = region.recovery_report(seat, scope).await?;
            let refusal = report["refusal"].as_str().expect("a refusal");
            refusal.contains("has a leader").then_some(())
        })
        .await;
    }
    assert_unchanged(&mut region, seat).await;
}

#[tokio::test]
async fn a_kill_at_any_moment_of_a_recovery_changes_nothing() {
    let mut region = Region::start().await;
    let (bucket, keys) = fill(&region).await;
    region.destroy(&[1, 2]);
    let (seed, _) = Uuid::new_v4().as_u64_pair();
    println!("seed {seed}");
    let mut rng = Rng::new(seed);
    for scope in SCOPES {
        let report = region.wait_recoverable(0, scope).await;
        region.confirm_recovery(0, scope, &report).await;
        // It is stopping, or has stopped.
        region.kill_even_if_exiting(0).await;
        assert!(has_pending_recovery(&region, 0), "it was confirmed");
        for _ in 0..KILLS {
            region.nodes[0].start();
            let moment = rng.millis(0..START_MS);
            let is_done = async || (!has_pending_recovery(&region, 0)).then_some(());
            let done = try_eventually(moment, is_done).await;
            region.kill_even_if_exiting(0).await;
            if done.is_some() {
                break;
            }
        }
        region.restart(0).await;
    }
    region.wait_formed().await;
    assert_serves(&region.api(0), &bucket, &keys).await;
    region.admin_with_retries(0, &["verify"]).await;
    for seat in [1, 2] {
        region.rejoin_wiped(seat).await;
    }
    region.wait_formed().await;
    region.wait_converged().await;
}

/// Returns the seats of a group's voters, its leader first.
async fn voters_of(region: &Region, group: &str) -> Vec<usize> {
    let leader = region.wait_leader(group).await;
    let status = region.wait_status(leader).await;
    let voters = &status.group(group).expect("it leads the group").voters;
    let mut seats = vec![leader];
    for seat in region.running() {
        let id = region.node_id(seat).await;
        if seat != leader && voters.contains(&id) {
            seats.push(seat);
        }
    }
    seats
}

/// Returns the last entry of the metadata that a node has applied.
async fn applied_metadata(region: &Region, seat: usize) -> Option<u64> {
    let status = region.status(seat).await?;
    Some(status.group("meta")?.applied)
}

#[tokio::test]
async fn another_survivor_with_later_entries_is_named_and_recovers_the_metadata() {
    let mut region = Region::start_with(RegionOptions {
        nodes: 4,
        seats: 4,
        shards: 1,
        ..RegionOptions::default()
    })
    .await;
    let voters = voters_of(&region, "meta").await;
    let [leader, other, behind] = voters[..] else {
        panic!("three voters were expected: {voters:?}");
    };
    let ahead = (0..4).find(|seat| !voters.contains(seat)).unwrap();
    // Not by the network: what it holds up would arrive when it is healed.
    region.terminate(behind).await;
    let bucket = eventually("a bucket is created", STATE_TIMEOUT, async || {
        let post = region.api(leader).post("/buckets").try_send().await.ok()?;
        (post.status == 201).then(|| Bucket::from_response(&post))
    })
    .await;
    let patch = async |api: &ApiClient, comment: &'static str| {
        let patch = api.patch(&bucket.path()).api_key(&bucket.account);
        let answer = patch.urlencoded(comment).try_send().await.ok()?;
        (answer.status == 200).then_some(())
    };
    eventually("the bucket is changed", STATE_TIMEOUT, async || {
        patch(&region.api(leader), "comment=before").await
    })
    .await;
    eventually("the learner has all", STATE_TIMEOUT, async || {
        let applied = applied_metadata(&region, leader).await;
        (applied.is_some() && applied_metadata(&region, ahead).await == applied).then_some(())
    })
    .await;
    region.kill(leader);
    region.kill(other);
    region.restart(behind).await;

    let scope = RecoveryScope::Metadata;
    let named = format!("{} has later entries", host(&region, ahead));
    eventually("the other survivor is named", STATE_TIMEOUT, async || {
        let report = region.recovery_report(behind, scope).await?;
        let Some(refusal) = report["refusal"].as_str() else {
            // The two haven't found each other again.
            let unreachable = report["unreachable"].to_string();
            assert!(unreachable.contains(&host(&region, ahead)), "{report}");
            return None;
        };
        (refusal.contains(&named) && refusal.contains("recover it there")).then_some(())
    })
    .await;
    // Until it has found the other one again, that one counts as lost, too.
    let found = host(&region, behind);
    let offered = eventually("a recovery is offered", STATE_TIMEOUT, async || {
        let report = region.recovery_report(ahead, scope).await?;
        let is_offered =
            report["refusal"].is_null() && !report["lost"].to_string().contains(&found);
        is_offered.then_some(report)
    })
    .await;
    let refused = offered["confirmation"].as_str().unwrap();
    let refused = ["metadata", "recover", "--confirm", refused];
    let refused = region.run_admin(behind, &refused).await;
    refused.assert_failure().assert_mentions(&[&named]);
    assert_unchanged(&mut region, behind).await;
    region.recover(ahead, scope).await;
    // It has what the other one lacked, and that one follows it.
    for seat in [ahead, behind] {
        eventually("the bucket is known", STATE_TIMEOUT, async || {
            patch(&region.api(seat), "comment=after").await
        })
        .await;
    }
    assert_eq!(region.wait_leader("meta").await, ahead);
}
