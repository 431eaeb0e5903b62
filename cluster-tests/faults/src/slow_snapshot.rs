//! Snapshot over a slow connection: a node loses its directory and receives a snapshot while writes
//! continue, and the snapshot's sender or the node itself may die or stall midway.

use std::time::Duration;

use futures_util::stream::{self, StreamExt};

use super::node_faults;
use cloudkv_test_harness::load::PlainClient;
use cloudkv_test_harness::load::incompressible;
use cloudkv_test_harness::region::{NodeStatus, Region, shard_of};
use cloudkv_test_harness::rng::Rng;
use cloudkv_test_harness::{RawRequest, eventually, try_eventually};

/// Shard whose snapshot takes long; it holds [`BALLAST`] values that no client uses.
const SLOW_SHARD: u32 = 0;
/// Number of entries; more than the log retains, so that a node can't recover without a snapshot.
const BALLAST: u64 = 768;
const VALUE_BYTES: usize = 16 << 10;
/// Maximum number of concurrent writes of ballast.
const BALLAST_WRITERS: usize = 16;
/// Time for one of those values to be written, and for the log to be purged of some.
const BALLAST_TIMEOUT: Duration = Duration::from_secs(60);
/// Bandwidth to the node, in KiB per second: the snapshot takes between 3 and 12 s.
const RATES_KIB: std::ops::Range<u64> = 1024..4096;
/// Time for all groups to be healthy again.
const HEALTHY_TIMEOUT: Duration = Duration::from_secs(180);
/// Time for the snapshot to begin.
const SNAPSHOT_START_TIMEOUT: Duration = Duration::from_secs(60);

/// Wipes a node of a healthy region, lets it join over a slow connection, and waits until it is
/// caught up. Returns whether its snapshot transfer was observed. If the node at `seat` has no
/// replica of the slow shard, as one of four has not, another one is wiped.
pub(super) async fn slow_snapshot(
    region: &mut Region,
    seat: usize,
    hold: Duration,
    rng: &mut Rng,
) -> bool {
    region.wait_formed_within(HEALTHY_TIMEOUT).await;
    load_ballast(region).await;
    region.wait_formed_within(HEALTHY_TIMEOUT).await;
    let seats = replica_seats(region).await;
    let seat = match seats.first() {
        Some(first) if !seats.contains(&seat) => *first,
        _ => seat,
    };
    let lost_id = region.node_id(seat).await;
    region.kill(seat);
    let rate = rng.range(RATES_KIB) << 10;
    region.network.limit_uplink(seat, rate);
    region.rejoin_wiped(seat).await;
    let nodes = region.nodes.len();
    let admin_seat = (seat + 1 + rng.index(nodes - 1)) % nodes;
    region.replace_node(admin_seat, &lost_id).await;

    let shared = &*region;
    let sender = try_eventually(SNAPSHOT_START_TIMEOUT, async || {
        sender_seat(shared, seat).await
    });
    let sender = sender.await;
    if let Some(sender) = sender {
        let hit = if rng.chance_permille(500) {
            sender
        } else {
            seat
        };
        match rng.range(0..3) {
            0 => node_faults::kill(region, &[hit], hold).await,
            1 => node_faults::pause(region, hit, hold).await,
            _ => {}
        }
    }
    region.wait_formed_within(HEALTHY_TIMEOUT).await;
    region.network.limit_uplink(seat, 0);
    sender.is_some()
}

/// Returns the seat of the node that sends the shard's snapshot to the one at `seat`.
async fn sender_seat(region: &Region, seat: usize) -> Option<usize> {
    let statuses = region.statuses().await;
    let group = group_name();
    let transfer = statuses.get(&seat)?.snapshots.iter().find(|it| {
        it.group == group && it.direction == "received" && it.state == "running" && it.bytes > 0
    })?;
    let sender = statuses
        .iter()
        .find(|(_, status)| status.node == transfer.node);
    sender.map(|(seat, _)| *seat)
}

fn group_name() -> String {
    format!("shard-{SLOW_SHARD}")
}

/// Writes more into the shard than its log retains, unless that was done before.
async fn load_ballast(region: &Region) {
    if is_log_purged(region).await {
        return;
    }
    let bucket = region
        .api(0)
        .create_bucket_with(&[("plan", "business")])
        .await;
    let nodes = region.http_addresses(region.running());
    let names = (0..).map(|number: u64| format!("ballast-{number}"));
    let names = names.filter(|name| shard_of(&bucket.id, name, region.shards()) == SLOW_SHARD);
    let writes = names.zip(0..BALLAST).map(async |(name, number)| {
        let request = RawRequest::new("PUT", &bucket.key_path(&name));
        let request = request.parse_body(incompressible::value(number, VALUE_BYTES));
        eventually("a value is written", BALLAST_TIMEOUT, async || {
            PlainClient::new(&nodes, 0).send(&request).await.ok()
        })
        .await;
    });
    // One after the other they would take most of a short run.
    let writes = stream::iter(writes).buffer_unordered(BALLAST_WRITERS);
    writes.for_each(async |()| ()).await;
    let purged = async || is_log_purged(region).await.then_some(());
    eventually("the log is purged", BALLAST_TIMEOUT, purged).await;
}

/// Returns true once no replica has the shard's whole log.
async fn is_log_purged(region: &Region) -> bool {
    let statuses = region.statuses().await;
    let group = group_name();
    let mut replicas = statuses
        .values()
        .filter_map(|status| status.group(&group))
        .peekable();
    let is_complete = statuses.len() == region.running().len() && replicas.peek().is_some();
    is_complete && replicas.all(|it| it.purged > 0)
}

/// Returns the seats of the running nodes with a replica of the slow shard.
async fn replica_seats(region: &Region) -> Vec<usize> {
    let statuses = region.statuses().await;
    let group = group_name();
    let holds = |status: &NodeStatus| status.group(&group).is_some();
    let seats = statuses.iter().filter(|(_, status)| holds(status));
    seats.map(|(seat, _)| *seat).collect()
}
