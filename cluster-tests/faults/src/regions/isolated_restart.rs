//! An isolated region that is killed as a whole, just after a bucket was created in it.
//!
//! The region's nodes must remember, after a restart without any other region, all metadata that
//! they have shown: the newest bucket is read and written before the links heal.

use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use crate::node_faults;
use cloudkv_test_harness::region::MultiRegionCluster;
use cloudkv_test_harness::{Bucket, eventually};

/// Time for the metadata group to create a bucket.
const METADATA_TIMEOUT: Duration = Duration::from_secs(60);

/// Time for the region's nodes to serve the bucket after their restart.
const SERVE_TIMEOUT: Duration = Duration::from_secs(60);

/// Creates a bucket, uses it through each node of a region, isolates the region, kills these nodes,
/// and starts them again. Each must serve the bucket before the region reaches any other.
///
/// # Panics
/// Panics if the bucket can't be created, or a node doesn't serve it.
pub(super) async fn restart_isolated(
    cluster: &mut MultiRegionCluster,
    region: usize,
    hold: Duration,
) -> Bucket {
    let seats: Vec<usize> = cluster.seats(region).collect();
    let bucket = create_bucket(cluster, &seats).await;
    for seat in &seats {
        let api = cluster.api(*seat);
        let path = bucket.key_path(&format!("cut-{seat}"));
        eventually("a new bucket is written", METADATA_TIMEOUT, async || {
            let put = api.put(&path, "before").try_send().await.ok()?;
            (put.status == 200).then_some(())
        })
        .await;
    }
    cluster.isolate_region(region);
    node_faults::kill(cluster, &seats, hold).await;
    for seat in &seats {
        let api = cluster.api(*seat);
        let path = bucket.key_path(&format!("cut-{seat}"));
        let what = format!("node {seat} serves the newest bucket after a restart, cut off");
        eventually(&what, SERVE_TIMEOUT, async || {
            let read = api.get(&path).try_send().await.ok()?;
            let put = api.put(&path, "before").try_send().await.ok()?;
            let is_same = read.status != 200 || read.text() == "before";
            assert!(is_same, "node {seat} has another value: {read:?}");
            (read.status == 200 && put.status == 200).then_some(())
        })
        .await;
    }
    cluster.network.heal();
    bucket
}

async fn create_bucket(cluster: &MultiRegionCluster, seats: &[usize]) -> Bucket {
    let attempts = AtomicUsize::new(0);
    eventually("a bucket is created", METADATA_TIMEOUT, async || {
        let at = attempts.fetch_add(1, Ordering::Relaxed);
        let api = cluster.api(seats[at % seats.len()]);
        let created = api.post("/buckets").query(&[("plan", "pro")]);
        let created = created.try_send().await.ok()?;
        (created.status == 201).then(|| Bucket::from_response(&created))
    })
    .await
}
