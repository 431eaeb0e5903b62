//! Backups of a region, and clusters that are restored from them.
// Helpers of tests panic as tests do.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use cloudkv_test_harness::backup::{
    BackupFolder, CompletedBackup, SavedBucket, back_up, copy_keys, fill_buckets, list_backups,
    restore, start_restored, version_time,
};
use cloudkv_test_harness::region::{MultiRegionCluster, Region, RegionOptions};
use cloudkv_test_harness::{ApiClient, Bucket, Node, eventually};
use serde_json::Value;
use tokio::task::JoinHandle;

const STATE_TIMEOUT: Duration = Duration::from_secs(60);
/// Number of keys that are written all the time.
const BUSY_KEYS: usize = 10;

/// What must not be in a restored cluster: keys that have expired, and a bucket that was deleted.
struct Gone {
    bucket: Bucket,
    deleted: Bucket,
}

impl Gone {
    async fn create(api: &ApiClient) -> Self {
        let (bucket, deleted) = (api.create_bucket().await, api.create_bucket().await);
        for name in ["expired?ttl=1s", "expires?ttl=15s", "stays"] {
            let path = bucket.key_path(name);
            api.put(&path, "v").await.assert_status(200);
        }
        api.put_numbered(&deleted, "k", 10, "v").await;
        eventually("a bucket is deleted", STATE_TIMEOUT, async || {
            let delete = api.delete(&format!("{}?confirm=10", deleted.path()));
            let answer = delete.api_key(&deleted.account).await;
            (answer.status == 200).then_some(())
        })
        .await;
        let expired = bucket.key_path("expired");
        eventually("a key has expired", STATE_TIMEOUT, async || {
            (api.get(&expired).await.status == 404).then_some(())
        })
        .await;
        Self { bucket, deleted }
    }

    async fn assert_gone(&self, api: &ApiClient) {
        let path = self.deleted.key_path("k0");
        api.get(&path).await.assert_error(404, "unknown_bucket");
        eventually("only one key is left", STATE_TIMEOUT, async || {
            let keys = copy_keys(api, &self.bucket).await;
            let names: Vec<&String> = keys.keys().collect();
            assert!(!names.contains(&&"expired".to_owned()), "{names:?}");
            (names == ["stays"]).then_some(())
        })
        .await;
    }
}

/// A client that changes keys, and creates buckets, all the time.
struct BusyClient {
    bucket: Bucket,
    is_stopped: Arc<AtomicBool>,
    /// Number of acknowledged writes to each key, each of which wrote the number.
    acknowledged: Arc<Mutex<[u64; BUSY_KEYS]>>,
    task: JoinHandle<()>,
}

impl BusyClient {
    async fn start(api: ApiClient) -> Self {
        let bucket = api.create_bucket().await;
        let is_stopped = Arc::new(AtomicBool::new(false));
        let acknowledged = Arc::new(Mutex::new([0; BUSY_KEYS]));
        let task = {
            let (bucket, is_stopped) = (bucket.clone(), is_stopped.clone());
            let acknowledged = acknowledged.clone();
            tokio::spawn(async move {
                for write in 1_u64.. {
                    for key in 0..BUSY_KEYS {
                        if is_stopped.load(Ordering::Relaxed) {
                            return;
                        }
                        let path = bucket.key_path(&key.to_string());
                        let put = api.put(&path, write.to_string()).await;
                        put.assert_status(200);
                        acknowledged.lock().unwrap()[key] = write;
                    }
                    if write < 5 {
                        let created = api.create_bucket_for(&bucket.account, &[]).await;
                        let path = created.key_path("k");
                        api.put(&path, "v").await.assert_status(200);
                    }
                }
            })
        };
        let client = Self {
            bucket,
            is_stopped,
            acknowledged,
            task,
        };
        eventually("each key is there", STATE_TIMEOUT, async || {
            let all = client.acknowledged();
            all.iter().all(|write| *write > 0).then_some(())
        })
        .await;
        client
    }

    fn acknowledged(&self) -> [u64; BUSY_KEYS] {
        *self.acknowledged.lock().unwrap()
    }

    /// Returns the last write of each key.
    async fn stop(self) -> [u64; BUSY_KEYS] {
        self.is_stopped.store(true, Ordering::Relaxed);
        self.task.await.unwrap();
        *self.acknowledged.lock().unwrap()
    }
}

/// Asserts that each busy key has a value that it had at some time between these writes.
async fn assert_within(
    api: &ApiClient,
    bucket: &Bucket,
    before: [u64; BUSY_KEYS],
    after: [u64; BUSY_KEYS],
) {
    for key in 0..BUSY_KEYS {
        let value = api.get(&bucket.key_path(&key.to_string())).await;
        let write: u64 = value.assert_status(200).text().parse().unwrap();
        let bounds = before[key]..=after[key];
        assert!(bounds.contains(&write), "{key}: {write} of {bounds:?}");
    }
}

/// Asserts that writes get later versions than all restored keys have.
async fn assert_later_versions(api: &ApiClient, saved: &[SavedBucket]) {
    let last = saved.iter().filter_map(SavedBucket::last_version_time);
    let last = last.max().expect("a key");
    let bucket = api.create_bucket().await;
    for number in 0..40 {
        let path = bucket.key_path(&number.to_string());
        let etag = api.put(&path, "v").await.assert_status(200).etag();
        assert!(version_time(&etag) > last, "{etag} after {last}");
    }
}

async fn plans(region: &Region, seat: usize) -> Value {
    let plans = region.nodes[seat].admin_api().get("/plans").unchecked();
    plans.await.assert_status(200).json()
}

async fn wait_checked(region: &Region, seat: usize) {
    eventually("nothing needs an operator", STATE_TIMEOUT, async || {
        region.admin(seat, &["status", "--check"]).await.ok()
    })
    .await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_region_under_load_is_restored_key_by_key_and_goes_on() {
    let folder = BackupFolder::create();
    let region = Region::start().await;
    region.wait_leaders_balanced().await;
    let set = ["plan", "set", "free", "--keys=12345", "--value-bytes=5000"];
    region.admin_with_retries(0, &set).await;
    let gone = Gone::create(&region.api(1)).await;
    let saved = fill_buckets(&region.api(0)).await;
    let plans_before = plans(&region, 0).await;
    let busy = BusyClient::start(region.api(2)).await;
    let (busy_bucket, before) = (busy.bucket.clone(), busy.acknowledged());
    let output = back_up(region.seat(1).admin(), &folder.url(), &[]).await;
    println!("{output}");
    let after = busy.stop().await;
    let id = folder.id();
    output.assert_success();
    output.assert_mentions(&[&format!("backup {id} is complete"), "records"]);
    assert!(folder.is_complete(&id));
    let listed = list_backups(&folder.url(), &["--verify"]).await;
    println!("{listed}");
    let listed = listed.assert_success();
    listed.assert_mentions(&[&id, "complete", "local"]);
    drop(region);

    let restored = start_restored(&folder.url(), &["local"], 3, 4, &[]).await;
    restored.wait_formed().await;
    assert_eq!(plans(&restored, 1).await, plans_before);
    for seat in 0..3 {
        let api = restored.api(seat);
        for bucket in &saved {
            bucket.assert_restored(&api).await;
        }
    }
    let api = restored.api(1);
    assert_within(&api, &busy_bucket, before, after).await;
    gone.assert_gone(&api).await;
    assert_later_versions(&api, &saved).await;
    // The accounts' keys still count.
    let owner = &saved[0].bucket;
    let patch = api.patch(&owner.path()).urlencoded("comment=another");
    let refused = patch.await;
    assert!((400..500).contains(&refused.status), "{refused:?}");
    let patch = api.patch(&owner.path()).api_key(&owner.account);
    let patch = patch.urlencoded("comment=another").await;
    patch.assert_status(200);
    wait_checked(&restored, 0).await;
    restored.admin_with_retries(2, &["verify"]).await;
    restored.wait_converged().await;
}

#[tokio::test]
async fn one_of_two_regions_is_restored_with_other_shards_and_another_name() {
    let folder = BackupFolder::create();
    let source = MultiRegionCluster::start(&["eu", "us"], 1, 2).await;
    let shared = source.api(0).create_bucket().await;
    source.api(0).put_numbered(&shared, "eu", 60, "v").await;
    source.api(1).put_numbered(&shared, "us", 60, "v").await;
    for number in 0..10 {
        let path = shared.key_path(&format!("us{number}"));
        source.wait_value(0, &path, Some("v"), STATE_TIMEOUT).await;
        source.api(0).delete(&path).await.assert_status(200);
    }
    source.wait_bucket_converged(&shared).await;
    let mut saved = fill_buckets(&source.api(1)).await;
    saved.push(SavedBucket::read(&source.api(1), &shared).await);
    let output = back_up(source.seat(1).admin(), &folder.url(), &["--json"]).await;
    let records: usize = saved.iter().map(SavedBucket::key_count).sum();
    let backup = CompletedBackup::from_output(&output);
    assert_eq!(backup.records, records as u64, "{output}");
    assert!(!backup.is_resumed && backup.kept_shards == 0, "{output}");
    drop(source);

    let args = ["--id", &backup.id, "--region", "ap", "--shards", "5"];
    let names = ["ap", "sa"];
    let mut restored = start_restored(&folder.url(), &names, 1, 5, &args).await;
    let api = restored.api(0);
    for bucket in &saved {
        bucket.assert_restored(&api).await;
    }
    // All are of the first region now: there is no other one whose changes they could be.
    let etag = api.get(&shared.key_path("us20")).await.etag();
    assert!(etag.ends_with("-1\""), "{etag}");
    restored.start_region(1).await;
    restored.wait_serving(1).await;
    let all = restored.wait_bucket_converged(&shared).await;
    assert_eq!(all.len(), 110);
    for bucket in &saved {
        bucket.assert_restored(&restored.api(1)).await;
    }
    assert_later_versions(&restored.api(1), &saved).await;
    let equal = restored.admin_with_retries(0, &["verify"]).await;
    let is_equal = equal.contains("equal") && !equal.contains("different");
    assert!(is_equal, "{equal}");
    wait_checked(&restored, 1).await;
}

#[tokio::test]
async fn writes_after_a_restore_have_later_versions_even_if_the_clock_is_behind() {
    let folder = BackupFolder::create();
    let source = Node::start().await;
    let saved = fill_buckets(&source.api()).await;
    let admin = source.admin_api().address();
    back_up(admin, &folder.url(), &[]).await.assert_success();
    drop(source);
    let mut restored = Region::prepare(RegionOptions {
        nodes: 1,
        seats: 1,
        shards: 8,
        ..RegionOptions::default()
    });
    let node = &mut restored.nodes[0];
    node.set_clock(-600_000);
    let output = restore(&folder.url(), &node.data_dir(), &[]).await;
    output.assert_success();
    // Nothing but the directory is needed.
    node.start();
    restored.wait_listening(0).await;
    restored.wait_ready(0).await;
    for bucket in &saved {
        bucket.assert_restored(&restored.api(0)).await;
    }
    assert_later_versions(&restored.api(0), &saved).await;
}

#[tokio::test]
async fn a_node_that_leads_nothing_makes_a_backup() {
    let folder = BackupFolder::create();
    let region = Region::start_with(RegionOptions {
        shards: 1,
        ..RegionOptions::default()
    })
    .await;
    let saved = fill_buckets(&region.api(0)).await;
    let leaders = [
        region.wait_leader("meta").await,
        region.wait_leader("shard-0").await,
    ];
    let follower = (0..3).find(|seat| !leaders.contains(seat)).unwrap();
    let admin = region.seat(follower).admin();
    back_up(admin, &folder.url(), &[]).await.assert_success();
    drop(region);
    let restored = start_restored(&folder.url(), &["local"], 1, 1, &[]).await;
    for bucket in &saved {
        bucket.assert_restored(&restored.api(0)).await;
    }
}
