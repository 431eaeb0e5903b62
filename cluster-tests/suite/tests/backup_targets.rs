//! Targets of backups: URLs, and places that can't be written.
// Helpers of tests panic as tests do.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

use cloudkv_test_harness::Node;
use cloudkv_test_harness::backup::{BackupFolder, back_up, list_backups, restore};

#[tokio::test]
async fn targets_that_cannot_be_used_are_refused_with_what_would_be_right() {
    let node = Node::start().await;
    let admin = node.admin_api().address();
    let dir = tempfile::tempdir().unwrap();
    let file = dir.path().join("file");
    std::fs::write(&file, "no folder").unwrap();
    let file = format!("file://{}/backups", file.display());
    let expected = [
        ("ftp://host/folder", "s3://"),
        ("https://bucket.example.com/folder", "s3://"),
        ("/folder", "file:///"),
        ("file://folder", "file:///"),
        ("s3://bucket/folder", "AWS_ACCESS_KEY_ID"),
    ];
    let data_dir = dir.path().join("data");
    for (url, word) in expected {
        let refused = back_up(admin, url, &[]).await;
        refused.assert_failure().assert_mentions(&[word]);
        let refused = list_backups(url, &[]).await;
        assert_ne!(refused.code, Some(0), "{url}: {refused}");
        let refused = restore(url, &data_dir, &[]).await;
        assert_ne!(refused.code, Some(0), "{url}: {refused}");
    }
    let refused = back_up(admin, &file, &[]).await;
    refused.assert_failure().assert_mentions(&[&file]);
    let refused = restore(&file, &data_dir, &[]).await;
    assert_ne!(refused.code, Some(0), "{refused}");
    // The node goes on, and its next backup is complete.
    let folder = BackupFolder::create();
    back_up(admin, &folder.url(), &[]).await.assert_success();
}
