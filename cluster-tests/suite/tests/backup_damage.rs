//! Backups with damaged and missing files: each is named, and no node starts from what is left.
// Helpers of tests panic as tests do.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

use std::fs;
use std::path::Path;

use cloudkv_test_harness::backup::{
    BackupFolder, SavedBucket, back_up, fill_buckets, list_backups, restore, start_restored,
};
use cloudkv_test_harness::{Node, NodeOptions, run_to_exit};

/// A complete backup of a node that doesn't run any more.
struct Backup {
    folder: BackupFolder,
    id: String,
    saved: Vec<SavedBucket>,
}

impl Backup {
    async fn create() -> Self {
        let folder = BackupFolder::create();
        let node = Node::start().await;
        let saved = fill_buckets(&node.api()).await;
        let admin = node.admin_api().address();
        back_up(admin, &folder.url(), &[]).await.assert_success();
        let id = folder.id();
        Self { folder, id, saved }
    }

    /// Asserts that a file is named by those who verify or restore the backup while its content is
    /// this, or while it isn't there. Puts it back.
    async fn assert_damage_is_named(&self, name: &str, content: Option<Vec<u8>>) {
        let path = self.folder.file(&self.id, name);
        let intact = fs::read(&path).unwrap();
        match content {
            Some(content) => {
                assert_ne!(content, intact);
                fs::write(&path, content).unwrap();
            }
            None => fs::remove_file(&path).unwrap(),
        }
        let url = self.folder.url();
        let verified = list_backups(&url, &["--verify"]).await;
        println!("{verified}");
        verified.assert_failure().assert_mentions(&[name]);
        let dir = tempfile::tempdir().unwrap();
        let data_dir = dir.path().join("data");
        let refused = restore(&url, &data_dir, &["--id", &self.id]).await;
        refused.assert_failure().assert_mentions(&[name]);
        assert_no_node_starts(&data_dir).await;
        fs::write(&path, intact).unwrap();
    }

    /// Asserts that the backup is intact, and has what there was.
    async fn assert_intact(&self) {
        let verified = list_backups(&self.folder.url(), &["--verify"]).await;
        verified.assert_success().assert_mentions(&[&self.id]);
        let restored = start_restored(&self.folder.url(), &["local"], 1, 8, &[]).await;
        for bucket in &self.saved {
            bucket.assert_restored(&restored.api(0)).await;
        }
    }
}

/// Asserts that no node starts from a directory, if a restore has left one.
async fn assert_no_node_starts(data_dir: &Path) {
    if !data_dir.exists() {
        return;
    }
    let started = run_to_exit(NodeOptions::default().command(data_dir)).await;
    assert_eq!(started.code, Some(1), "{started:?}");
    started.assert_mentions(&["must not be used", "restore"]);
}

#[tokio::test]
async fn each_damaged_part_is_named_and_the_backup_is_restored_once_it_is_put_back() {
    let backup = Backup::create().await;
    let parts = backup.folder.parts(&backup.id);
    assert!(parts.len() > 8, "{parts:?}");
    let is_chosen = |part: &&String| {
        ["metadata", "shard-000", "shard-007"]
            .iter()
            .any(|dir| part.starts_with(dir))
    };
    for part in parts.iter().filter(is_chosen) {
        let intact = fs::read(backup.folder.file(&backup.id, part)).unwrap();
        let mut flipped = intact.clone();
        flipped[intact.len() / 2] ^= 1;
        let truncated = intact[..intact.len() - 1].to_vec();
        for content in [None, Some(flipped), Some(truncated), Some(vec![])] {
            backup.assert_damage_is_named(part, content).await;
        }
    }
    backup.assert_intact().await;
}

#[tokio::test]
async fn all_damaged_files_are_named_at_once() {
    let backup = Backup::create().await;
    let damaged = ["shard-001/part-00000.zst", "shard-004/part-00000.zst"];
    for part in damaged {
        let path = backup.folder.file(&backup.id, part);
        let mut bytes = fs::read(&path).unwrap();
        *bytes.last_mut().unwrap() ^= 0x80;
        fs::write(&path, bytes).unwrap();
    }
    let missing = ["metadata/part-00000.zst", "shard-005/shard.json"];
    for name in missing {
        fs::remove_file(backup.folder.file(&backup.id, name)).unwrap();
    }
    let begin = backup.folder.file(&backup.id, "backup.json");
    let text = fs::read_to_string(&begin).unwrap();
    fs::write(&begin, change_digit(&text, "shards")).unwrap();
    let verified = list_backups(&backup.folder.url(), &["--verify"]).await;
    let verified = verified.assert_failure().assert_mentions(&damaged);
    verified
        .assert_mentions(&missing)
        .assert_mentions(&["backup.json"]);
    let text = verified.text();
    assert!(!text.contains("shard-002/part"), "{text}");
    // Without the check, it is only listed.
    let listed = list_backups(&backup.folder.url(), &[]).await;
    listed.assert_success().assert_mentions(&[&backup.id]);
}

/// Returns a text with the first digit behind a field's name changed.
fn change_digit(text: &str, field: &str) -> String {
    let field = text.rfind(&format!("\"{field}\"")).unwrap();
    let digit = text[field..].find(|it: char| it.is_ascii_digit()).unwrap();
    let (before, rest) = text.split_at(field + digit);
    let other = if rest.starts_with('1') { '2' } else { '1' };
    format!("{before}{other}{}", &rest[1..])
}

#[tokio::test]
async fn a_changed_digit_of_the_manifest_is_noticed() {
    let backup = Backup::create().await;
    let manifest = backup.folder.file(&backup.id, "manifest.json");
    let intact = fs::read_to_string(manifest).unwrap();
    let mut damaged: Vec<String> = ["records", "bytes", "shards", "last_version", "level"]
        .map(|field| change_digit(&intact, field))
        .into();
    damaged.push(intact[..intact.len() - 2].to_owned());
    damaged.push(String::new());
    for content in damaged {
        let content = Some(content.into_bytes());
        backup
            .assert_damage_is_named("manifest.json", content)
            .await;
    }
    backup.assert_intact().await;
}

#[tokio::test]
async fn nothing_is_restored_into_a_directory_that_holds_something() {
    let backup = Backup::create().await;
    let url = backup.folder.url();
    let dir = tempfile::tempdir().unwrap();
    fs::write(dir.path().join("file"), "something").unwrap();
    let refused = restore(&url, dir.path(), &[]).await;
    refused.assert_failure().assert_mentions(&["empty"]);
    assert_eq!(fs::read_dir(dir.path()).unwrap().count(), 1);
    // Nor into that of a cluster, whether it runs or not.
    let mut node = Node::start().await;
    let bucket = node.api().create_bucket().await;
    let refused = restore(&url, &node.data_dir(), &[]).await;
    refused.assert_failure().assert_mentions(&["empty"]);
    node.terminate().await;
    let refused = restore(&url, &node.data_dir(), &[]).await;
    refused.assert_failure().assert_mentions(&["empty"]);
    node.restart().await;
    node.api().bucket_summary(&bucket).await;
    let unknown = ["--id", "20200101T000000Z"];
    let refused = restore(&url, &dir.path().join("data"), &unknown).await;
    refused.assert_failure().assert_mentions(&[unknown[1]]);
    backup.assert_intact().await;
}
