//! A node that lost its data catches up while the others go on.
// Helpers of tests panic as tests do.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

use std::time::Duration;

use cloudkv_test_harness::load::{LoadPattern, PlainLoad, fill};
use cloudkv_test_harness::region::{NodeId, Region, RegionOptions, key_in_shard};
use cloudkv_test_harness::{Bucket, eventually};
use serde_json::Value;

/// The node that loses its disk.
const WIPED_SEAT: usize = 2;
/// Number of keys, and the size of their values.
const KEY_COUNT: u64 = 2000;
const VALUE_BYTES: usize = 16 << 10;
/// Bandwidth of its links: the snapshot takes eight seconds.
const LINK_BYTES_PER_SECOND: u64 = 4 << 20;
/// Rate of writes: during the snapshot transfer, more than the log retains in any case.
const WRITES_PER_SECOND: f64 = 90.0;
/// Several times the transfer time, for a busy machine.
const STATE_TIMEOUT: Duration = Duration::from_secs(60);
/// Arguments of nodes that flush their state while it is filled, so that the log's beginning is
/// purged.
const EARLY_FLUSH_ARGS: [&str; 2] = ["--write-buffer-mib", "4"];

/// Starts three nodes with these arguments, and creates a bucket.
async fn start(shards: u32, args: [&str; 2]) -> (Region, Bucket) {
    let options = RegionOptions {
        shards,
        args: args.map(str::to_owned).to_vec(),
        ..RegionOptions::default()
    };
    let region = Region::start_with(options).await;
    let api = region.api(0);
    let bucket = api.create_bucket_with(&[("plan", "business")]).await;
    (region, bucket)
}

/// Wipes the node's disk, and lets it join again over links of this bandwidth; returns the ID that
/// is lost.
async fn rejoin_wiped(region: &mut Region, bytes_per_second: u64) -> NodeId {
    let lost = region.node_id(WIPED_SEAT).await;
    region.kill(WIPED_SEAT);
    region.rejoin_wiped(WIPED_SEAT).await;
    region.network.limit_links(WIPED_SEAT, bytes_per_second);
    lost
}

#[tokio::test]
async fn a_wiped_node_catches_up_over_a_slow_link_while_the_others_write() {
    let (mut region, bucket) = start(1, EARLY_FLUSH_ARGS).await;
    let others = region.http_addresses(0..WIPED_SEAT);
    fill(&others, &bucket, 8, KEY_COUNT, VALUE_BYTES)
        .await
        .unwrap();
    let work = LoadPattern::Overwrite {
        keys: KEY_COUNT,
        bytes: VALUE_BYTES,
    };

    let lost = rejoin_wiped(&mut region, LINK_BYTES_PER_SECOND).await;
    let load = PlainLoad::start(&others, &bucket, 4, work, Some(WRITES_PER_SECOND));
    region.replace_node(0, &lost).await;
    region.wait_formed_within(STATE_TIMEOUT).await;
    let outcome = load.stop().await;
    assert_eq!(outcome.errors, 0, "{outcome:?}");
    region.wait_converged().await;
    assert_catch_up_is_logged(&region).await;
}

/// Checks that the node logs how it caught up, and the senders of its snapshots log the same; each
/// event names the other node by its address.
async fn assert_catch_up_is_logged(region: &Region) {
    for message in ["catching up started", "caught up"] {
        let what = format!("the node logs: {message}");
        eventually(&what, STATE_TIMEOUT, async || {
            events(region, WIPED_SEAT, message).pop()
        })
        .await;
    }
    let address = |seat: usize| region.seat(seat).rpc().to_string();
    for message in ["snapshot transfer started", "snapshot transfer ended"] {
        let received = events(region, WIPED_SEAT, message);
        assert!(!received.is_empty(), "{message}");
        for received in received {
            let sender = (0..WIPED_SEAT).find(|seat| received["node"] == address(*seat));
            let sender = sender.unwrap_or_else(|| panic!("no node's address: {received}"));
            let sent = events(region, sender, message).into_iter();
            let mut sent = sent.filter(|sent| sent["group"] == received["group"]);
            assert!(
                sent.any(|sent| sent["node"] == address(WIPED_SEAT)),
                "not logged by the sender: {received}"
            );
        }
    }
}

/// Returns the events of a node's log with this message.
fn events(region: &Region, seat: usize, message: &str) -> Vec<Value> {
    let text = region.nodes[seat].log().text();
    let events = text
        .lines()
        .filter_map(|line| serde_json::from_str::<Value>(line).ok());
    events.filter(|event| event["message"] == message).collect()
}

/// Bandwidth of the links with which most shards catch up at once and one takes long.
const SLOW_LINK_BYTES_PER_SECOND: u64 = 128 << 10;
/// Number of keys of the shard that takes long: longer than a node must be up before it may lead.
const LARGE_SHARD_KEYS: usize = 240;

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_node_that_lacks_a_shard_gets_no_leadership() {
    let level = "info,cloudkv_node::cluster::placement_controller=debug";
    let (mut region, bucket) = start(4, ["--log-level", level]).await;
    region.wait_leaders_balanced().await;
    // The replacement node is to lead the lost node's shards: the large shard must not be one.
    let mut large = None;
    for shard in 0..region.shards() {
        if region.wait_leader(&format!("shard-{shard}")).await != WIPED_SEAT {
            large = Some(shard);
        }
    }
    let large = large.unwrap();
    for number in 0..LARGE_SHARD_KEYS {
        let key = key_in_shard(&bucket, &format!("v{number}-"), large, region.shards());
        let put = region
            .api(0)
            .put(&bucket.key_path(&key), "v".repeat(VALUE_BYTES));
        put.await.assert_status(200);
    }

    let lost = rejoin_wiped(&mut region, SLOW_LINK_BYTES_PER_SECOND).await;
    region.replace_node(0, &lost).await;
    let node = region.node_id(WIPED_SEAT).await;
    // Logs are read before the status: a logged transfer precedes that status.
    let transfers = |region: &Region| {
        let logs = (0..WIPED_SEAT).map(|seat| region.nodes[seat].log().text());
        let counts = logs.map(|log| {
            let lines = log.lines().filter(|line| line.contains("preferred leader"));
            lines.filter(|line| line.contains(&node.0)).count()
        });
        counts.sum::<usize>()
    };
    let before = transfers(&region);
    eventually(
        "the large shard's voters include the node",
        STATE_TIMEOUT,
        async || {
            let new_transfers = transfers(&region) - before;
            let leader = region.leader_of(&format!("shard-{large}")).await?;
            let status = region.status(leader).await?;
            let shard = status.group(&format!("shard-{large}"))?;
            if shard.voters.contains(&node) && !shard.changing {
                return Some(());
            }
            assert_eq!(
                new_transfers, 0,
                "leadership was transferred to a node that lacks a shard"
            );
            None
        },
    )
    .await;
    region.network.limit_links(WIPED_SEAT, 0);
    eventually(
        "leadership is transferred to the node",
        STATE_TIMEOUT,
        async || (transfers(&region) > before).then_some(()),
    )
    .await;
}

/// Number of keys that a node misses: several times what the log retains in any case.
const MISSED_KEYS: u64 = 2500;
/// Minimum number of entries that the log retains for the lagging node alone.
const MIN_RETAINED_ENTRIES: u64 = 300;

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_new_leader_retains_the_log_that_a_lagging_node_lacks() {
    let (mut region, bucket) = start(1, EARLY_FLUSH_ARGS).await;
    let leader = region.wait_leader("shard-0").await;
    let (lagging, other) = ((leader + 1) % 3, (leader + 2) % 3);
    region.network.isolate(lagging);
    let connected = region.http_addresses([leader, other]);
    fill(&connected, &bucket, 4, MISSED_KEYS, VALUE_BYTES)
        .await
        .unwrap();
    let last = region.status(lagging).await.unwrap();
    let last = last.group("shard-0").unwrap().last_log;
    for seat in [leader, other] {
        let what = format!("node {seat} retains the log for the lagging node");
        eventually(&what, STATE_TIMEOUT, async || {
            let status = region.nodes[seat].admin_api().get("/status").unchecked();
            let status = status.try_send().await.ok()?.json();
            let groups = status["groups"].as_array()?;
            let shard = groups.iter().find(|it| it["group"] == "shard-0")?;
            let purged = shard["purged"].as_u64()?;
            assert!(
                purged <= last,
                "node {seat} purged {purged}, the lagging node has {last}"
            );
            let retained = status["log_retention"]["kept_entries"].as_u64()?;
            (retained > MIN_RETAINED_ENTRIES).then_some(())
        })
        .await;
    }
    region.terminate(leader).await;
    region.restart(leader).await;
    region.network.heal();
    region.wait_converged().await;
    let page = region.nodes[lagging].admin_api().get("/metrics");
    let page = page.unchecked().await;
    let received = page.text().lines().filter(|line| {
        line.starts_with("cloudkv_snapshots_total{") && line.contains("direction=\"received\"")
    });
    let received: Vec<&str> = received.filter(|line| !line.ends_with(" 0")).collect();
    assert!(received.is_empty(), "the log was purged: {received:?}");
}
