//! Tests of the choice between an interrupted backup and a new one.

use bytes::Bytes;
use tempfile::TempDir;

use super::*;
use crate::backup::format::{FORMAT, PartEntry, part_name};

const HOUR: Duration = Duration::from_secs(3600);

fn target() -> (TempDir, BackupTarget) {
    let dir = tempfile::tempdir().unwrap();
    let url = format!("file://{}", dir.path().display());
    (dir, BackupTarget::open(&url).unwrap())
}

fn wanted() -> BackupStart {
    BackupStart {
        format: FORMAT,
        id: String::new(),
        cluster_id: "cluster".to_owned(),
        region: "eu".to_owned(),
        shards: 3,
        version: "1.0".to_owned(),
        started_at: String::new(),
    }
}

fn now() -> SystemTime {
    UNIX_EPOCH + Duration::from_secs(1_800_000_000)
}

async fn plan(target: &BackupTarget, wanted: BackupStart, at: SystemTime) -> BackupPlan {
    plan_backup(target, wanted, (at, false)).await.unwrap()
}

#[tokio::test]
async fn an_interrupted_backup_goes_on_within_a_day() {
    let (_dir, target) = target();
    let first = plan(&target, wanted(), now()).await;
    assert!(!first.is_resumed && first.kept.is_empty());
    let later = plan(&target, wanted(), now() + 23 * HOUR).await;
    assert!(later.is_resumed);
    assert_eq!(later.start, first.start);
    let too_late = plan(&target, wanted(), now() + 25 * HOUR).await;
    assert!(!too_late.is_resumed);
    assert_ne!(too_late.start.id, first.start.id);
}

#[tokio::test]
async fn a_backup_goes_on_for_the_same_cluster_region_and_shards_only() {
    let (_dir, target) = target();
    plan(&target, wanted(), now()).await;
    let others = [
        BackupStart {
            cluster_id: "other".to_owned(),
            ..wanted()
        },
        BackupStart {
            region: "us".to_owned(),
            ..wanted()
        },
        BackupStart {
            shards: 4,
            ..wanted()
        },
    ];
    for other in others {
        assert!(!plan(&target, other, now() + HOUR).await.is_resumed);
    }
    // The software may have been upgraded meanwhile.
    let upgraded = BackupStart {
        version: "1.1".to_owned(),
        ..wanted()
    };
    assert!(plan(&target, upgraded, now() + HOUR).await.is_resumed);
}

#[tokio::test]
async fn a_new_backup_gets_an_id_of_its_own() {
    let (_dir, target) = target();
    let first = plan(&target, wanted(), now()).await;
    let second = plan_backup(&target, wanted(), (now(), true)).await.unwrap();
    assert!(!second.is_resumed);
    assert_ne!(second.start.id, first.start.id);
    assert_eq!(target.list().await.unwrap().len(), 2);
}

#[tokio::test]
async fn shards_whose_parts_are_there_are_kept() {
    let (_dir, target) = target();
    let first = plan(&target, wanted(), now()).await;
    let id = &first.start.id;
    for shard in [0, 2] {
        let name = part_name(&shard_dir(shard), 0);
        let entry = ShardEntry {
            shard,
            applied_index: 7,
            last_version: 8,
            records: 1,
            parts: vec![PartEntry {
                name: name.clone(),
                bytes: 1,
                sha256: String::new(),
                records: 1,
            }],
        };
        let file = shard_file(shard);
        let json = to_json(&file, &entry).unwrap();
        target.put(id, &file, json).await.unwrap();
        if shard == 2 {
            target
                .put(id, &name, Bytes::from_static(b"x"))
                .await
                .unwrap();
        }
    }
    let resumed = plan(&target, wanted(), now() + HOUR).await;
    assert_eq!(resumed.kept.keys().copied().collect::<Vec<_>>(), [2]);
}

#[tokio::test]
async fn a_complete_backup_is_followed_by_a_new_one() {
    let (_dir, target) = target();
    let first = plan(&target, wanted(), now()).await;
    let manifest = Bytes::from_static(b"{}");
    target
        .put(&first.start.id, MANIFEST_FILE, manifest)
        .await
        .unwrap();
    assert!(!plan(&target, wanted(), now() + HOUR).await.is_resumed);
}
