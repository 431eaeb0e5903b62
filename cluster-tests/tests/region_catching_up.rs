//! A node that lacks everything becomes level with the others while these go on.
// Helpers of tests panic as tests do.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

use std::time::Duration;

use cloudkv_cluster_tests::eventually;
use cloudkv_cluster_tests::faults::{PlainLoad, Work, fill};
use cloudkv_cluster_tests::region::{Region, RegionOptions, key_in_shard};
use serde_json::Value;

/// The node that loses its disk.
const LOSER: usize = 2;
/// Values that are there, and their size.
const KEYS: u64 = 2000;
const VALUE: usize = 16 << 10;
/// Bytes a second that its links carry: the snapshot takes eight seconds.
const LINK: u64 = 4 << 20;
/// Writes a second: while the snapshot is on its way, more than the log keeps in any case.
const WRITES: f64 = 90.0;
/// Several times what the bytes need, on a busy machine.
const WITHIN: Duration = Duration::from_secs(60);

#[tokio::test]
async fn a_wiped_node_becomes_level_over_a_slow_link_while_the_others_write() {
    let options = RegionOptions {
        shards: 1,
        ..RegionOptions::default()
    };
    let mut region = Region::start_with(options).await;
    let bucket = region.api(0).bucket_with(&[("plan", "business")]).await;
    let others = [region.seat(0).http(), region.seat(1).http()];
    fill(&others, &bucket, 8, KEYS, VALUE).await.unwrap();
    let work = Work::Overwrite {
        keys: KEYS,
        bytes: VALUE,
    };

    let lost = region.node_id(LOSER).await;
    region.kill(LOSER);
    region.rejoin_wiped(LOSER).await;
    region.network.throttle(LOSER, LINK);
    let load = PlainLoad::start(&others, &bucket, 4, work, Some(WRITES));
    region.replace(0, &lost).await;
    region.wait_formed_within(WITHIN).await;
    let outcome = load.stop().await;
    assert_eq!(outcome.errors, 0, "{outcome:?}");
    region.wait_converged().await;
    says_how_it_caught_up(&region).await;
}

/// The node that lacked everything tells in its log how it caught up, and whoever sent it a snapshot
/// tells the same; they name each other by their addresses.
async fn says_how_it_caught_up(region: &Region) {
    for message in ["catching up begun", "caught up"] {
        let what = format!("the node says: {message}");
        eventually(&what, WITHIN, async || events(region, LOSER, message).pop()).await;
    }
    let address = |seat: usize| region.seat(seat).rpc().to_string();
    for message in ["snapshot transfer begun", "snapshot transfer ended"] {
        let received = events(region, LOSER, message);
        assert!(!received.is_empty(), "{message}");
        for received in received {
            let sender = (0..LOSER).find(|seat| received["node"] == address(*seat));
            let sender = sender.unwrap_or_else(|| panic!("no node's address: {received}"));
            let sent = events(region, sender, message).into_iter();
            let mut sent = sent.filter(|sent| sent["group"] == received["group"]);
            assert!(
                sent.any(|sent| sent["node"] == address(LOSER)),
                "the sender does not say so: {received}"
            );
        }
    }
}

/// The events of a node's log with this message.
fn events(region: &Region, seat: usize, message: &str) -> Vec<Value> {
    let text = region.members[seat].log().text();
    let events = text
        .lines()
        .filter_map(|line| serde_json::from_str::<Value>(line).ok());
    events.filter(|event| event["message"] == message).collect()
}

/// Bytes a second that the links carry while most shards are level at once and one takes long.
const SLOW_LINK: u64 = 128 << 10;
/// Values of the shard that takes long: longer than a node must live before it may lead.
const LARGE_SHARD_VALUES: usize = 240;

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_node_that_lacks_a_shard_is_given_no_leadership() {
    let level = "info,cloudkv_node::cluster::keeper=debug";
    let options = RegionOptions {
        args: vec!["--log-level".to_owned(), level.to_owned()],
        ..RegionOptions::default()
    };
    let mut region = Region::start_with(options).await;
    let bucket = region.api(0).bucket_with(&[("plan", "business")]).await;
    region.wait_spread().await;
    // The node that takes the lost one's place is to lead what that one led: not this shard.
    let mut large = None;
    for shard in 0..region.shards() {
        if region.wait_leader(&format!("shard-{shard}")).await != LOSER {
            large = Some(shard);
        }
    }
    let large = large.unwrap();
    for number in 0..LARGE_SHARD_VALUES {
        let key = key_in_shard(&bucket, &format!("v{number}-"), large, region.shards());
        let put = region.api(0).put(&bucket.key(&key), "v".repeat(VALUE));
        put.await.status(200);
    }

    let lost = region.node_id(LOSER).await;
    region.kill(LOSER);
    region.rejoin_wiped(LOSER).await;
    region.network.throttle(LOSER, SLOW_LINK);
    region.replace(0, &lost).await;
    let node = region.node_id(LOSER).await;
    // Read before the status: what they say was done before.
    let transfers = |region: &Region| {
        let logs = (0..LOSER).map(|seat| region.members[seat].log().text());
        let given = logs.map(|log| {
            let lines = log.lines().filter(|line| line.contains("preferred leader"));
            lines.filter(|line| line.contains(&node.0)).count()
        });
        given.sum::<usize>()
    };
    let before = transfers(&region);
    eventually(
        "the large shard's voters include the node",
        WITHIN,
        async || {
            let given = transfers(&region) - before;
            let leader = region.leader_of(&format!("shard-{large}")).await?;
            let status = region.status(leader).await?;
            let shard = status.group(&format!("shard-{large}"))?;
            if shard.voters.contains(&node) && !shard.changing {
                return Some(());
            }
            assert_eq!(
                given, 0,
                "leadership was given to a node that lacks a shard"
            );
            None
        },
    )
    .await;
    region.network.throttle(LOSER, 0);
    eventually("the node is given leadership", WITHIN, async || {
        (transfers(&region) > before).then_some(())
    })
    .await;
}

/// Values that a node misses: several times what the log keeps in any case.
const MISSED_VALUES: u64 = 2500;
/// Entries that the log keeps for the lagging node alone, at least.
const KEPT_ENTRIES: u64 = 300;

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn whoever_leads_next_has_the_log_that_a_lagging_node_lacks() {
    let args = ["--write-buffer-mib", "4"].map(str::to_owned);
    let options = RegionOptions {
        shards: 1,
        args: args.to_vec(),
        ..RegionOptions::default()
    };
    let mut region = Region::start_with(options).await;
    let bucket = region.api(0).bucket_with(&[("plan", "business")]).await;
    let leader = region.wait_leader("shard-0").await;
    let (lagging, other) = ((leader + 1) % 3, (leader + 2) % 3);
    region.network.isolate(lagging);
    let seats = [region.seat(leader).http(), region.seat(other).http()];
    fill(&seats, &bucket, 4, MISSED_VALUES, VALUE)
        .await
        .unwrap();
    let last = region.status(lagging).await.unwrap();
    let last = last.group("shard-0").unwrap().last_log;
    for seat in [leader, other] {
        let what = format!("node {seat} keeps the log for the lagging node");
        eventually(&what, WITHIN, async || {
            let status = region.members[seat].admin_api().get("/status").unchecked();
            let status = status.try_send().await.ok()?.json();
            let groups = status["groups"].as_array()?;
            let shard = groups.iter().find(|it| it["group"] == "shard-0")?;
            let purged = shard["purged"].as_u64()?;
            assert!(
                purged <= last,
                "node {seat} purged {purged}, the lagging node has {last}"
            );
            let kept = status["log_retention"]["kept_entries"].as_u64()?;
            (kept > KEPT_ENTRIES).then_some(())
        })
        .await;
    }
    region.terminate(leader).await;
    region.restart(leader).await;
    region.network.heal();
    region.wait_converged().await;
    let page = region.members[lagging].admin_api().get("/metrics");
    let page = page.unchecked().await;
    let received = page.text().lines().filter(|line| {
        line.starts_with("cloudkv_snapshots_total{") && line.contains("direction=\"received\"")
    });
    let received: Vec<&str> = received.filter(|line| !line.ends_with(" 0")).collect();
    assert!(received.is_empty(), "the log was gone: {received:?}");
}
