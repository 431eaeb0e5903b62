//! The advice to an operator whose node can't read its log or has lost its identity: never to
//! remove the only copy.
// Helpers of tests panic as tests do.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

use std::fs::{self, File, OpenOptions};
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};

use cloudkv_test_harness::{Bucket, Node, NodeOptions};
use cloudkv_test_harness::{StartupFailure, run_to_exit};

/// Size of the blocks in which log segments are written.
const BLOCK_BYTES: u64 = 4096;
/// Offset of a segment's number in its file, behind the head and the format of its first record.
const SEGMENT_NUMBER_OFFSET: u64 = 27;

/// Returns the position up to which a log was synced: segment and offset.
fn synced_position(data_dir: &Path) -> (u64, u64) {
    let mark = fs::read(data_dir.join("log-synced")).unwrap();
    let mark = u64::from_be_bytes(mark.try_into().unwrap());
    (mark >> 32, mark & u64::from(u32::MAX))
}

/// Flips a bit of the segment that was written last.
fn damage(data_dir: &Path, offset: u64) {
    let (segment, _) = synced_position(data_dir);
    let files = fs::read_dir(data_dir.join("log")).unwrap();
    let has_number = |path: &PathBuf| {
        let mut number = [0; 8];
        let file = File::open(path).unwrap();
        file.read_exact_at(&mut number, SEGMENT_NUMBER_OFFSET)
            .unwrap();
        u64::from_be_bytes(number) == segment
    };
    let path = files.map(|entry| entry.unwrap().path()).find(has_number);
    let mut options = OpenOptions::new();
    let file = options.read(true).write(true).open(path.unwrap()).unwrap();
    let mut byte = [0];
    file.read_exact_at(&mut byte, offset).unwrap();
    file.write_all_at(&[byte[0] ^ 1], offset).unwrap();
}

/// Starts a single node, fills a bucket, and kills the node.
async fn killed_node() -> (Node, Bucket) {
    let mut node = Node::start().await;
    let (api, bucket) = (node.api(), node.api().create_bucket().await);
    for key in 0..60 {
        let path = bucket.key_path(&format!("k{key}"));
        api.put(&path, vec![b'v'; 300]).await.assert_status(200);
    }
    // The last record must lie in a block that the next sync writes again.
    let mut extra = 0;
    while synced_position(&node.data_dir()).1 % BLOCK_BYTES < 100 {
        extra += 1;
        let path = bucket.key_path(&format!("more{extra}"));
        api.put(&path, "v").await.assert_status(200);
    }
    node.kill_9();
    (node, bucket)
}

async fn expect_refusal(node: &Node) -> StartupFailure {
    let refusal = run_to_exit(NodeOptions::default().command(&node.data_dir())).await;
    assert_eq!(refusal.code, Some(1), "{refusal:?}");
    let advises_removal = refusal.message.contains("remove the data directory, start");
    assert!(
        !advises_removal,
        "it advises to remove the only copy: {refusal:?}"
    );
    refusal
}

#[tokio::test]
async fn a_torn_write_in_the_only_copy_is_reported_and_can_be_skipped() {
    let (mut node, bucket) = killed_node().await;
    let (_, offset) = synced_position(&node.data_dir());
    damage(&node.data_dir(), offset - 1);
    let refusal = expect_refusal(&node).await;
    refusal.assert_mentions(&[
        "power failure has cut off",
        "No other node",
        "do not remove",
        "log-synced",
    ]);
    let mark = node.data_dir().join("log-synced");
    fs::rename(&mark, node.data_dir().join("log-synced.old")).unwrap();
    node.restart().await;
    for key in 0..59 {
        let get = node.api().get(&bucket.key_path(&format!("k{key}"))).await;
        get.assert_status(200);
    }
    let last = bucket.key_path("after");
    node.api().put(&last, "v").await.assert_status(200);
    node.kill_9();
    node.restart().await;
    assert_eq!(node.api().get(&last).await.text(), "v");
}

#[tokio::test]
async fn damage_before_the_last_write_is_not_reported_as_torn() {
    let (node, _) = killed_node().await;
    let (_, offset) = synced_position(&node.data_dir());
    damage(&node.data_dir(), offset / 2);
    let refusal = expect_refusal(&node).await;
    refusal.assert_mentions(&[
        "which no power failure explains",
        "No other node",
        "do not remove",
    ]);
}

#[tokio::test]
async fn a_log_without_an_identity_is_refused() {
    let (mut node, bucket) = killed_node().await;
    let identity = node.data_dir().join("identity.json");
    let kept = fs::read(&identity).unwrap();
    fs::remove_file(&identity).unwrap();
    let refusal = expect_refusal(&node).await;
    refusal.assert_mentions(&["identity.json", "Put it back"]);
    assert!(!identity.exists(), "a refusal creates no identity");
    fs::write(&identity, kept).unwrap();
    node.restart().await;
    node.api()
        .get(&bucket.key_path("k0"))
        .await
        .assert_status(200);
}
