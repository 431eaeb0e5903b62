//! Tests of reading, listing and verifying backups.

use bytes::Bytes;

use super::*;
use crate::backup::format::{
    BackupStart, FORMAT, METADATA_DIR, ShardEntry, part_name, shard_dir, to_json,
};
use crate::backup::listing::{complete_backups, list_backups};
use crate::backup::part::encode_part;
use crate::backup::reader::{PartReader, read_manifest};

const ID: &str = "20261201T034500Z";
const OLD_ID: &str = "20261130T034500Z";

/// Backup of two shards, with two parts each.
struct BackupFixture {
    _dir: tempfile::TempDir,
    target: BackupTarget,
    manifest: Manifest,
}

impl BackupFixture {
    async fn create() -> Self {
        let dir = tempfile::tempdir().unwrap();
        let target = BackupTarget::open(&format!("file://{}", dir.path().display())).unwrap();
        let start = start(ID);
        put_json(&target, ID, START_FILE, &start).await;
        let mut shard_files = Vec::new();
        for shard in 0..2 {
            let mut parts = Vec::new();
            for number in 0..2 {
                let records = records(shard, number);
                let name = part_name(&shard_dir(shard), number);
                let (bytes, entry) = encode_part(&records, name, 3).unwrap();
                target.put(ID, &entry.name, bytes).await.unwrap();
                parts.push(entry);
            }
            let entry = ShardEntry {
                shard,
                applied_index: 9,
                last_version: 100,
                records: 6,
                parts,
            };
            put_json(&target, ID, &shard_file(shard), &entry).await;
            shard_files.push(entry);
        }
        let metadata = pb::BackupMetadata {
            accounts: vec![pb::RestoredAccount::default()],
            ..Default::default()
        };
        let (bytes, entry) = encode_part(&metadata, part_name(METADATA_DIR, 0), 1).unwrap();
        target.put(ID, &entry.name, bytes).await.unwrap();
        let manifest = Manifest {
            start,
            finished_at: "2026-12-01T03:46:00Z".to_owned(),
            level: 2,
            metadata: vec![entry],
            shard_files,
            records: 12,
            bytes: 1,
            checksum: String::new(),
        };
        let manifest = manifest.seal().unwrap();
        put_json(&target, ID, MANIFEST_FILE, &manifest).await;
        Self {
            _dir: dir,
            target,
            manifest,
        }
    }

    /// Verifies the backup, and checks that all parts are counted.
    async fn verify(&self) -> Vec<String> {
        let mut counts = Vec::new();
        let mut progress = |done, all| counts.push((done, all));
        let verified = verify_backup(&self.target, ID, &mut progress).await;
        let expected: Vec<(u64, u64)> = (1..=5).map(|done| (done, 5)).collect();
        assert_eq!(counts, expected);
        verified.unwrap()
    }

    async fn put(&self, name: &str, bytes: impl Into<Bytes>) {
        self.target.put(ID, name, bytes.into()).await.unwrap();
    }
}

fn start(id: &str) -> BackupStart {
    BackupStart {
        format: FORMAT,
        id: id.to_owned(),
        cluster_id: "c".to_owned(),
        region: "eu".to_owned(),
        shards: 2,
        version: "0.2.0".to_owned(),
        started_at: "2026-12-01T03:45:00Z".to_owned(),
    }
}

async fn put_json(target: &BackupTarget, id: &str, name: &str, content: &impl serde::Serialize) {
    let json = to_json(name, content).unwrap();
    target.put(id, name, json).await.unwrap();
}

fn records(shard: u16, part: usize) -> pb::BackupRecords {
    let record = |number| pb::KeyRecord {
        key: Bytes::from(format!("{shard}/{part}/{number}")),
        ..Default::default()
    };
    let records = (0..3).map(record).collect();
    pb::BackupRecords { records }
}

#[tokio::test]
async fn an_intact_backup_is_read_part_by_part() {
    let backup = BackupFixture::create().await;
    assert_eq!(backup.verify().await, [""; 0]);
    let manifest = read_manifest(&backup.target, ID).await.unwrap();
    assert_eq!(manifest, backup.manifest);
    let parts = manifest.shard_files[1].parts.clone();
    let mut reader = PartReader::<pb::BackupRecords>::new(&backup.target, ID, parts);
    for part in 0..2 {
        assert_eq!(reader.next().await.unwrap(), Some(records(1, part)));
    }
    assert_eq!(reader.next().await.unwrap(), None);
    assert_eq!(reader.next().await.unwrap(), None);
}

#[tokio::test]
async fn all_damaged_and_missing_files_are_named() {
    let backup = BackupFixture::create().await;
    let second = part_name(&shard_dir(0), 1);
    let intact = backup.target.get(ID, &second).await.unwrap();
    let mut flipped = intact.to_vec();
    flipped[intact.len() / 2] ^= 1;
    backup.put(&second, flipped).await;
    let metadata = part_name(METADATA_DIR, 0);
    backup.target.delete(ID, &metadata).await.unwrap();
    backup.target.delete(ID, &shard_file(1)).await.unwrap();
    put_json(&backup.target, ID, START_FILE, &start(OLD_ID)).await;
    let problems = backup.verify().await;
    let names = [START_FILE.to_owned(), shard_file(1), second, metadata];
    assert_eq!(problems.len(), names.len(), "{problems:?}");
    for (problem, name) in problems.iter().zip(&names) {
        assert!(problem.starts_with(name.as_str()), "{problem}");
    }
    let parts = backup.manifest.shard_files[0].parts.clone();
    let mut reader = PartReader::<pb::BackupRecords>::new(&backup.target, ID, parts);
    assert!(reader.next().await.is_ok());
    assert!(reader.next().await.unwrap_err().is_damage());
}

#[tokio::test]
async fn a_damaged_manifest_is_named_and_its_parts_are_verified() {
    let backup = BackupFixture::create().await;
    let json = backup.target.get(ID, MANIFEST_FILE).await.unwrap();
    let text = String::from_utf8(json.to_vec()).unwrap();
    let changed = text.replace("\"level\":2", "\"level\":1");
    assert_ne!(changed, text);
    backup.put(MANIFEST_FILE, changed).await;
    backup
        .target
        .delete(ID, &part_name(METADATA_DIR, 0))
        .await
        .unwrap();
    let problems = backup.verify().await;
    assert_eq!(problems.len(), 2, "{problems:?}");
    assert!(problems[0].starts_with(MANIFEST_FILE) && problems[1].starts_with(METADATA_DIR));
    let error = read_manifest(&backup.target, ID).await.unwrap_err();
    assert!(error.is_damage() && error.to_string().starts_with(MANIFEST_FILE));
    let listed = list_backups(&backup.target).await.unwrap();
    assert!(listed[0].complete && listed[0].damage.is_some());
    // With nothing that can be parsed, nothing else is known.
    for content in ["", "{", &text[..text.len() - 2]] {
        backup.put(MANIFEST_FILE, content.to_owned()).await;
        let verified = verify_backup(&backup.target, ID, &mut |_, _| ()).await;
        let problems = verified.unwrap();
        assert!(problems.len() == 1 && problems[0].starts_with(MANIFEST_FILE));
        assert!(list_backups(&backup.target).await.unwrap()[0].complete);
    }
}

#[tokio::test]
async fn incomplete_backups_are_listed_and_not_read() {
    let backup = BackupFixture::create().await;
    let target = &backup.target;
    put_json(target, OLD_ID, START_FILE, &start(OLD_ID)).await;
    let listed = list_backups(target).await.unwrap();
    let states: Vec<_> = listed
        .iter()
        .map(|backup| (backup.id.as_str(), backup.complete, backup.records))
        .collect();
    assert_eq!(states, [(OLD_ID, false, 0), (ID, true, 12)]);
    assert!(listed.iter().all(|backup| backup.region == "eu"));
    assert!(listed.iter().all(|backup| backup.damage.is_none()));
    assert_eq!(complete_backups(target).await.unwrap(), [ID]);
    for error in [
        read_manifest(target, OLD_ID).await.unwrap_err(),
        verify_backup(target, OLD_ID, &mut |_, _| ())
            .await
            .unwrap_err(),
    ] {
        assert!(matches!(error, BackupError::Incomplete { .. }), "{error}");
    }
    for id in ["20200101T000000Z", "../20261201T034500Z", ""] {
        let error = read_manifest(target, id).await.unwrap_err();
        assert!(matches!(error, BackupError::Unknown { .. }), "{error}");
    }
}
