//! A node that lacks everything becomes level with the others while these go on.
// Helpers of tests panic as tests do.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

use std::time::Duration;

use cloudkv_cluster_tests::faults::{PlainLoad, Work, fill};
use cloudkv_cluster_tests::region::{Region, RegionOptions};

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
}
