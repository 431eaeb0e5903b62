//! A bucket that is deleted while an isolated region still writes to it.

use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};
use std::time::Duration;

use cloudkv_test_harness::region::MultiRegionCluster;
use cloudkv_test_harness::{ApiClient, Bucket, eventually};

/// Time for the metadata group to apply a change, with two of three regions.
const METADATA_TIMEOUT: Duration = Duration::from_secs(60);

/// Time for a region to learn of a new or deleted bucket.
const PROPAGATION_TIMEOUT: Duration = Duration::from_secs(60);

/// Number of keys that each region writes before the deletion.
const KEYS_PER_REGION: usize = 10;

/// A bucket that was deleted.
#[derive(Clone, Debug)]
pub(super) struct DeletedBucket {
    bucket: Bucket,
    /// Number of writes that were acknowledged after the deletion.
    pub late_writes: u64,
}

/// Creates a bucket, fills it, isolates a region, deletes the bucket in another one, and writes to
/// it in the isolated region, which doesn't know of the deletion yet.
///
/// # Panics
/// Panics if two of three regions can't create or delete the bucket.
pub(super) async fn delete_under_partition(
    cluster: &MultiRegionCluster,
    isolated: usize,
    hold: Duration,
) -> DeletedBucket {
    let regions = cluster.running_regions();
    let nodes: Vec<usize> = regions
        .iter()
        .flat_map(|region| cluster.seats(*region))
        .collect();
    let bucket = create_bucket(cluster, &nodes).await;
    for region in &regions {
        let api = cluster.api(cluster.seats(*region).start);
        eventually("a new bucket is written", PROPAGATION_TIMEOUT, async || {
            let mut written = 0;
            for key in 0..KEYS_PER_REGION {
                written += write_key(&api, &bucket, &format!("{region}-{key}")).await;
            }
            (written == KEYS_PER_REGION as u64).then_some(())
        })
        .await;
    }
    cluster.isolate_region(isolated);
    let others: Vec<usize> = nodes
        .into_iter()
        .filter(|seat| cluster.region_of(*seat) != isolated)
        .collect();
    delete_bucket(cluster, &others, &bucket).await;
    let deadline = tokio::time::Instant::now() + hold;
    let mut late_writes = 0;
    for number in 0_u64.. {
        let seats = cluster.seats(isolated);
        let seat = seats.start + usize::try_from(number).unwrap_or(0) % seats.len();
        late_writes += write_key(&cluster.api(seat), &bucket, &format!("late-{number}")).await;
        if tokio::time::Instant::now() >= deadline {
            break;
        }
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
    cluster.network.heal();
    DeletedBucket {
        bucket,
        late_writes,
    }
}

impl DeletedBucket {
    /// Waits until every node reports to readers and writers that the bucket doesn't exist.
    pub(super) async fn wait_deleted(&self, cluster: &MultiRegionCluster) {
        for seat in cluster.running() {
            let what = format!("node {seat} knows that the bucket was deleted");
            let api = cluster.api(seat);
            let path = self.bucket.key_path("0-0");
            eventually(&what, PROPAGATION_TIMEOUT, async || {
                for call in [
                    api.get(&path),
                    api.put(&path, "x"),
                    api.get(&self.bucket.listing_path()),
                ] {
                    let response = call.try_send().await.ok()?;
                    let is_deleted =
                        response.status == 404 && response.error_code() == "unknown_bucket";
                    is_deleted.then_some(())?;
                }
                Some(())
            })
            .await;
        }
    }
}

/// Writes a key; returns 1 if the write was acknowledged, and 0 if not.
async fn write_key(api: &ApiClient, bucket: &Bucket, name: &str) -> u64 {
    let put = api.put(&bucket.key_path(name), "v").try_send().await;
    u64::from(put.is_ok_and(|response| response.status == 200))
}

async fn create_bucket(cluster: &MultiRegionCluster, nodes: &[usize]) -> Bucket {
    let attempts = AtomicUsize::new(0);
    eventually("a bucket is made", METADATA_TIMEOUT, async || {
        let at = attempts.fetch_add(1, Ordering::Relaxed);
        let api = cluster.api(nodes[at % nodes.len()]);
        let created = api.post("/buckets").query(&[("plan", "pro")]);
        let created = created.try_send().await.ok()?;
        (created.status == 201).then(|| Bucket::from_response(&created))
    })
    .await
}

/// Deletes a bucket, confirming as many keys as it has.
pub(super) async fn delete_bucket(cluster: &MultiRegionCluster, nodes: &[usize], bucket: &Bucket) {
    let (attempts, keys) = (AtomicUsize::new(0), AtomicU64::new(0));
    eventually("a bucket is deleted", METADATA_TIMEOUT, async || {
        // Regions may count differently: ask the one again that returned the number.
        let at = attempts.load(Ordering::Relaxed);
        let api = cluster.api(nodes[at % nodes.len()]);
        let confirm = keys.load(Ordering::Relaxed);
        let path = format!("{}?confirm={confirm}", bucket.path());
        let deleted = api.delete(&path).api_key(&bucket.account);
        let deleted = deleted.try_send().await.ok()?;
        match deleted.status {
            // A 404 may follow an earlier call whose response was lost.
            200 | 404 => return Some(()),
            409 => {
                let key_count = deleted.json()["keys"].as_u64()?;
                keys.store(key_count, Ordering::Relaxed);
            }
            503 | 504 => {
                attempts.fetch_add(1, Ordering::Relaxed);
            }
            _ => panic!("deleting a bucket: {deleted:?}"),
        }
        None
    })
    .await;
}
