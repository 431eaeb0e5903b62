//! Nodes with wrong clocks, full disks, damaged logs and no data at all.
// Helpers of tests panic as tests do.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

use std::fs::{self, OpenOptions};
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};
use std::time::{Duration, SystemTime};

use cloudkv_test_harness::region::{Region, RegionOptions};
use cloudkv_test_harness::{Bucket, eventually};
use futures_util::stream::{self, StreamExt};

const STATE_TIMEOUT: Duration = Duration::from_secs(60);

/// Writes keys through a node; returns those that were acknowledged.
async fn fill(region: &Region, seat: usize, bucket: &Bucket, keys: u32, bytes: usize) -> Vec<u32> {
    let api = region.api(seat);
    let writes = (0..keys).map(async |key| {
        let call = api.put(&bucket.key_path(&format!("{key:06}")), vec![b'v'; bytes]);
        let answer = call.try_send().await.ok()?;
        (answer.status == 200).then_some(key)
    });
    let written: Vec<Option<u32>> = stream::iter(writes).buffer_unordered(16).collect().await;
    written.into_iter().flatten().collect()
}

/// Writes all keys, and retries until all are acknowledged.
async fn fill_all(
    region: &Region,
    seat: usize,
    bucket: &Bucket,
    keys: u32,
    bytes: usize,
) -> Vec<u32> {
    eventually("all keys are written", STATE_TIMEOUT, async || {
        let written = fill(region, seat, bucket, keys, bytes).await;
        (written.len() == keys as usize).then_some(written)
    })
    .await
}

async fn assert_all_exist(region: &Region, seat: usize, bucket: &Bucket, keys: &[u32]) {
    let api = region.api(seat);
    let reads = keys.iter().map(async |key| {
        let get = api.get(&bucket.key_path(&format!("{key:06}"))).await;
        get.assert_status(200);
    });
    stream::iter(reads)
        .buffer_unordered(16)
        .collect::<Vec<()>>()
        .await;
}

#[tokio::test]
async fn a_node_whose_clock_is_wrong_neither_leads_nor_harms() {
    for jump in [600_000, -600_000] {
        let mut region = Region::start().await;
        region.expect_errors(&["clock"]);
        let bucket = region.api(0).create_bucket().await;
        let late = bucket.key_path("late?ttl=60s");
        region.api(0).put(&late, "v").await.assert_status(200);
        // A clock that jumps while the node runs has no effect at once: the node's clock slews.
        region.nodes[2].set_clock(jump);
        region.kill(2);
        region.restart(2).await;
        eventually(
            "the node detects that its clock is wrong",
            STATE_TIMEOUT,
            async || (!region.status(2).await?.clock_ok).then_some(()),
        )
        .await;
        fill_all(&region, 0, &bucket, 50, 10).await;
        assert_eq!(region.wait_status(2).await.led_groups().count(), 0);
        for seat in [0, 1] {
            assert!(region.wait_status(seat).await.clock_ok);
            let get = region.api(seat).get(&bucket.key_path("late")).await;
            get.assert_status(200);
            let get = region.api(seat).get(&bucket.key_path("000000")).await;
            let written = get.assert_status(200).header_date("last-modified");
            let age = SystemTime::now()
                .duration_since(written)
                .unwrap_or_default();
            let ahead = written
                .duration_since(SystemTime::now())
                .unwrap_or_default();
            assert!(age.max(ahead) < Duration::from_secs(300), "{get:?}");
        }
        region.nodes[2].set_clock(0);
        region.kill(2);
        region.restart(2).await;
        region.wait_formed().await;
        eventually("its clock is right again", STATE_TIMEOUT, async || {
            region.status(2).await?.clock_ok.then_some(())
        })
        .await;
        region.wait_converged().await;
    }
}

#[tokio::test]
async fn a_node_that_lost_its_disk_returns_as_a_new_node() {
    let mut region = Region::start().await;
    let bucket = region.api(0).create_bucket().await;
    let keys = fill(&region, 0, &bucket, 500, 100).await;
    let lost = region.replace_after_disk_loss(1, 0).await;
    region.wait_formed().await;
    assert_ne!(region.node_id(1).await, lost);
    region.wait_converged().await;
    // Now another node may fail.
    region.kill(2);
    assert_all_exist(&region, 1, &bucket, &keys).await;
    fill_all(&region, 1, &bucket, 10, 100).await;
}

#[tokio::test]
async fn a_replica_that_differs_from_the_others_is_detected_and_no_longer_used() {
    let mut region = Region::start_with(RegionOptions {
        shards: 1,
        ..RegionOptions::default()
    })
    .await;
    region.expect_errors(&["differ"]);
    let bucket = region.api(0).create_bucket().await;
    let odd = bucket.key_path("odd");
    region
        .api(0)
        .put(&odd, "value-as-written")
        .await
        .assert_status(200);
    region.wait_converged().await;
    let lost = region.node_id(2).await;
    region.terminate(2).await;
    region.nodes[2].alter_stored_value(b"value-as-written", b"value-as-altered");
    region.restart(2).await;
    region.wait_formed().await;
    // An overwritten record is subtracted from the replica's digest; digests are compared after
    // some entries.
    let api = region.api(0);
    let write = async {
        loop {
            let _ = api.put(&odd, "written over").try_send().await;
        }
    };
    let status = tokio::select! {
        status = region.wait_exit(2) => status,
        () = write => unreachable!("it writes for ever"),
    };
    assert!(status.code().is_some_and(|code| code != 0), "{status}");
    let log = region.nodes[2].log().tail();
    assert!(log.contains("replica of shard-0 differs"), "{log}");
    // It is refused after a restart, too.
    region.nodes[2].start();
    let status = region.wait_exit(2).await;
    assert!(status.code().is_some_and(|code| code != 0), "{status}");
    let log = region.nodes[2].log().tail();
    assert!(log.contains("must not be used"), "{log}");
    region.rejoin_wiped(2).await;
    region.replace_node(0, &lost).await;
    region.wait_formed().await;
    region.wait_converged().await;
    assert_eq!(region.api(2).get(&odd).await.text(), "written over");
}

#[tokio::test]
async fn a_replica_of_the_metadata_that_differs_is_detected_and_no_longer_used() {
    let mut region = Region::start().await;
    region.expect_errors(&["differ"]);
    let comment = [("comment", "comment-as-written")];
    let bucket = region.api(0).create_bucket_with(&comment).await;
    region.wait_converged().await;
    let lost = region.node_id(2).await;
    region.terminate(2).await;
    region.nodes[2].alter_stored_value(b"comment-as-written", b"comment-as-altered");
    region.restart(2).await;
    region.wait_formed().await;
    let api = region.api(0);
    let change = async {
        loop {
            let call = api.patch(&bucket.path()).api_key(&bucket.account);
            let _ = call.urlencoded("comment=another").try_send().await;
        }
    };
    let status = tokio::select! {
        status = region.wait_exit(2) => status,
        () = change => unreachable!("it changes the bucket for ever"),
    };
    assert!(status.code().is_some_and(|code| code != 0), "{status}");
    let log = region.nodes[2].log().tail();
    assert!(log.contains("replica of meta differs"), "{log}");
    region.rejoin_wiped(2).await;
    region.replace_node(0, &lost).await;
    region.wait_formed().await;
    region.wait_converged().await;
}

#[tokio::test]
async fn a_full_disk_stops_a_node_and_loses_nothing() {
    let mut region = Region::start().await;
    region.expect_errors(&[""]);
    // The log's file exists; beyond this length nothing can be written to it.
    region.terminate(2).await;
    region.nodes[2].flags.max_file_kib = Some(2048);
    region.restart(2).await;
    region.wait_formed().await;
    let bucket = region.api(0).create_bucket_with(&[("plan", "pro")]).await;
    let mut keys = fill(&region, 0, &bucket, 1500, 4000).await;
    assert!(keys.len() > 1000, "the others serve: {}", keys.len());
    let status = region.wait_exit(2).await;
    assert!(status.code().is_some_and(|code| code != 0), "{status}");
    let log = region.nodes[2].log().tail();
    let reasons = ["File too large", "os error 27", "No space left", "disk"];
    assert!(reasons.iter().any(|words| log.contains(words)), "{log}");
    region.nodes[2].flags.max_file_kib = None;
    region.restart(2).await;
    region.wait_formed().await;
    region.wait_converged().await;
    keys.sort_unstable();
    assert_all_exist(&region, 2, &bucket, &keys).await;
}

/// Damages a synced part of a node's log.
fn damage_log(data_dir: &Path) {
    // The last synced position (segment and offset), and the segment's file, which begins with a
    // record that holds its number.
    let synced = fs::read(data_dir.join("log-synced")).unwrap();
    let synced = u64::from_be_bytes(synced.try_into().unwrap());
    let (segment, offset) = (synced >> 32, synced & u64::from(u32::MAX));
    let files = fs::read_dir(data_dir.join("log")).unwrap();
    let has_number = |path: &PathBuf| {
        let mut number = [0; 8];
        let file = fs::File::open(path).unwrap();
        file.read_exact_at(&mut number, 27).unwrap();
        u64::from_be_bytes(number) == segment
    };
    let path = files.map(|entry| entry.unwrap().path()).find(has_number);
    let file = OpenOptions::new().write(true).open(path.unwrap()).unwrap();
    file.write_all_at(&[0xa5; 512], offset / 2).unwrap();
}

#[tokio::test]
async fn a_damaged_log_is_reported_and_nothing_acknowledged_is_lost() {
    let mut region = Region::start().await;
    region.expect_errors(&[""]);
    let bucket = region.api(0).create_bucket().await;
    let keys = fill_all(&region, 0, &bucket, 400, 200).await;
    let lost = region.node_id(2).await;
    region.kill(2);
    // A part of the log that was synced long before the crash.
    damage_log(&region.nodes[2].data_dir());
    region.nodes[2].start();
    let status = region.wait_exit(2).await;
    assert!(status.code().is_some_and(|code| code != 0), "{status}");
    let log = region.nodes[2].log().tail().to_lowercase();
    assert!(log.contains("which no power failure explains"), "{log}");
    // Other nodes hold the same data, so the directory may be removed.
    assert!(log.contains("remove the data directory, start"), "{log}");
    assert!(log.contains(&format!("admin replace {lost}")), "{log}");
    assert!(log.contains(&region.seat(0).rpc().to_string()), "{log}");
    assert_all_exist(&region, 0, &bucket, &keys).await;
    // As the message says: remove the directory, and join as a new node.
    region.rejoin_wiped(2).await;
    region.replace_node(1, &lost).await;
    region.wait_formed().await;
    region.wait_converged().await;
    assert_all_exist(&region, 2, &bucket, &keys).await;
}

/// Damages a part of a stopped node's state, in percent, so that it can't start. Returns what it
/// says.
async fn damage_and_start(region: &mut Region, seat: usize, part: std::ops::Range<u64>) -> String {
    let flipped = region.nodes[seat].damage_state(part, 64);
    assert!(flipped > 10, "{flipped}");
    region.nodes[seat].start();
    let status = region.wait_exit(seat).await;
    let log = region.nodes[seat].log().tail();
    assert_eq!(status.code(), Some(1), "{log}");
    assert!(
        log.contains("holds damaged data") && log.contains("Corruption"),
        "{log}"
    );
    log
}

#[tokio::test]
async fn a_damaged_state_that_prevents_the_start_is_reported_with_advice() {
    let mut region = Region::start().await;
    region.expect_errors(&[""]);
    let bucket = region.api(0).create_bucket().await;
    let keys = fill_all(&region, 0, &bucket, 400, 200).await;
    let lost = region.node_id(2).await;
    region.terminate(2).await;
    // The indexes and properties of its files: the database can't be opened.
    let log = damage_and_start(&mut region, 2, 80..99).await;
    assert!(log.contains("remove the data directory, start"), "{log}");
    assert!(log.contains(&format!("admin replace {lost}")), "{log}");
    // As the message says: remove the directory, and join as a new node.
    region.rejoin_wiped(2).await;
    region.replace_node(1, &lost).await;
    region.wait_formed().await;
    assert_all_exist(&region, 2, &bucket, &keys).await;
}

#[tokio::test]
async fn the_only_copy_of_a_damaged_state_is_to_be_kept() {
    let mut region = Region::start_with(RegionOptions {
        nodes: 1,
        seats: 1,
        ..RegionOptions::default()
    })
    .await;
    region.expect_errors(&[""]);
    let bucket = region.api(0).create_bucket().await;
    fill_all(&region, 0, &bucket, 400, 200).await;
    region.terminate(0).await;
    // The database can be opened, and the first rows of its groups not be read.
    let log = damage_and_start(&mut region, 0, 0..60).await;
    assert!(
        log.contains("No other node holds its data: do not remove"),
        "{log}"
    );
}
