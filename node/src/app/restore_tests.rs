//! Tests of restores: of what is in the groups afterwards, and of what is refused.

use std::collections::BTreeMap;

use bytes::Bytes;
use cloudkv_common::config::RegionName;
use cloudkv_common::process::describe_error;
use cloudkv_proto::v1 as pb;

use super::*;
use crate::backup::{
    BackupStart, FORMAT, MANIFEST_FILE, METADATA_DIR, PartEntry, START_FILE, ShardEntry,
    encode_part, id_at, part_name, shard_dir, shard_file, to_json,
};
use crate::cluster::read_marker;
use crate::meta::{Catalog, Meta, MetaState};
use crate::raft::OfflineGroup;
use crate::shard::{Shard, ShardState, ShardView, StateMemory, shard_of};
use crate::types::{AccountId, BucketId, Plan, ReadResult, Version};

const BUCKET: &str = "aABCDEFGHIJKLM";
const UNKNOWN_BUCKET: &str = "aZZZZZZZZZZZZZ";
const OWNER: [u8; 32] = [7; 32];
const SHARDS: u16 = 3;
/// Time of the newest version, which no key has any more; no clock is that late.
const LAST_VERSION: u64 = 8_000_000_000_000_000_000;
/// Later than that.
const NEVER: u64 = 9_000_000_000_000_000_000;

/// A complete backup of region 2 of a cluster, in a folder.
struct BackupFixture {
    dir: tempfile::TempDir,
    target: BackupTarget,
}

impl BackupFixture {
    /// Creates a backup with these records beside those of other tests, in parts of so many.
    async fn new(records: Vec<pb::KeyRecord>, part_records: usize) -> Self {
        let dir = tempfile::tempdir().unwrap();
        let url = format!("file://{}", dir.path().join("backups").display());
        let target = BackupTarget::open(&url).unwrap();
        let fixture = Self { dir, target };
        fixture.add_backup(1000, records, part_records).await;
        fixture
    }

    /// Adds the backup that began at a time, in seconds since 1970.
    async fn add_backup(&self, at: u64, records: Vec<pb::KeyRecord>, part_records: usize) {
        let id = id_at(at);
        let mut by_shard: BTreeMap<u16, Vec<pb::KeyRecord>> = BTreeMap::new();
        for record in records {
            let shard = shard_of(&record.bucket, &record.key, SHARDS);
            by_shard.entry(shard).or_default().push(record);
        }
        let mut shard_files = Vec::new();
        for shard in 0..SHARDS {
            let records = by_shard.remove(&shard).unwrap_or_default();
            let mut parts = Vec::new();
            for (number, records) in records.chunks(part_records).enumerate() {
                let records = records.to_vec();
                let count = records.len() as u64;
                let name = part_name(&shard_dir(shard), number);
                let message = pb::BackupRecords { records };
                parts.push(self.put_part(&id, &message, name, count).await);
            }
            let entry = ShardEntry {
                shard,
                applied_index: 9,
                last_version: LAST_VERSION - u64::from(shard),
                records: records.len() as u64,
                parts,
            };
            self.put_json(&id, &shard_file(shard), &entry).await;
            shard_files.push(entry);
        }
        let name = part_name(METADATA_DIR, 0);
        let metadata = self.put_part(&id, &metadata(), name, 6).await;
        let start = BackupStart {
            format: FORMAT,
            id: id.clone(),
            cluster_id: "source".to_owned(),
            region: "us".to_owned(),
            shards: SHARDS,
            version: "0.2.0".to_owned(),
            started_at: "1970-01-01T00:16:40Z".to_owned(),
        };
        self.put_json(&id, START_FILE, &start).await;
        self.put_manifest(Manifest {
            start,
            finished_at: "1970-01-01T00:16:41Z".to_owned(),
            level: 2,
            metadata: vec![metadata],
            records: shard_files.iter().map(|entry| entry.records).sum(),
            shard_files,
            bytes: 1,
            checksum: String::new(),
        })
        .await;
    }

    async fn put_part(
        &self,
        id: &str,
        message: &impl prost::Message,
        name: String,
        records: u64,
    ) -> PartEntry {
        let (bytes, entry) = encode_part(message, name, records).unwrap();
        self.target.put(id, &entry.name, bytes).await.unwrap();
        entry
    }

    async fn put_json(&self, id: &str, name: &str, content: &impl serde::Serialize) {
        let json = to_json(name, content).unwrap();
        self.target.put(id, name, json).await.unwrap();
    }

    async fn put_manifest(&self, manifest: Manifest) {
        let manifest = manifest.seal().unwrap();
        let id = manifest.start.id.clone();
        self.put_json(&id, MANIFEST_FILE, &manifest).await;
    }

    fn data_dir(&self) -> std::path::PathBuf {
        self.dir.path().join("data")
    }

    fn args(&self) -> RestoreArgs {
        RestoreArgs {
            from: self.target.url().to_owned(),
            id: None,
            data_dir: self.data_dir(),
            region: None,
            shards: None,
        }
    }

    /// Restores with these arguments. Returns what the terminal shows.
    async fn restore(&self, args: &RestoreArgs) -> Result<String, RestoreError> {
        let mut lines = Vec::new();
        restore(args, &mut |line| lines.push(line.to_owned())).await?;
        assert_eq!(read_marker(&args.data_dir).unwrap(), None);
        Ok(lines.join("\n"))
    }

    /// Asserts that a restore fails so, and what the directory's mark says afterwards.
    async fn assert_refused(&self, args: &RestoreArgs, expected: &str, is_marked: bool) {
        let text = describe_error(&self.restore(args).await.unwrap_err());
        assert!(text.contains(expected), "{text}");
        let mark = read_marker(&args.data_dir).unwrap();
        assert_eq!(mark.is_some(), is_marked, "{mark:?}");
    }
}

/// Metadata with one bucket, its account, another account, and three plans.
fn metadata() -> pb::BackupMetadata {
    let account = |id: [u8; 32]| pb::RestoredAccount {
        id: Bytes::copy_from_slice(&id),
        account: Some(pb::Account {
            created_at: 5,
            empty_since: 0,
            buckets: 8,
        }),
    };
    let bucket = pb::Bucket {
        account: Bytes::copy_from_slice(&OWNER),
        access: pb::Access::Protected.into(),
        plan: pb::Plan::Business.into(),
        comment: Some("comment".to_owned()),
        created_at: 6,
        ..Default::default()
    };
    let plans = crate::meta::default_plans().into_iter();
    pb::BackupMetadata {
        accounts: vec![account(OWNER), account([9; 32])],
        buckets: vec![pb::RestoredBucket {
            id: Bytes::from_static(BUCKET.as_bytes()),
            bucket: Some(bucket),
        }],
        plans: plans
            .map(|limits| pb::PlanLimits { keys: 77, ..limits })
            .collect(),
    }
}

fn record(bucket: &'static str, key: usize, expires_at: u64) -> pb::KeyRecord {
    let record = pb::Record {
        version: Some(pb::Version {
            time: 100 + key as u64,
            region: 2,
        }),
        expires_at,
        content_type: Bytes::from_static(b"text/plain"),
        metadata: Bytes::from_static(b"{\"a\":1}"),
        value: Bytes::from(format!("value {key}")),
        change: 3,
        source: 4,
        ..Default::default()
    };
    pb::KeyRecord {
        bucket: Bytes::from_static(bucket.as_bytes()),
        key: Bytes::from(key_name(key)),
        record: Some(record),
    }
}

fn key_name(key: usize) -> String {
    format!("key {key}")
}

fn records(count: usize) -> Vec<pb::KeyRecord> {
    let expiry = |key: usize| if key.is_multiple_of(2) { NEVER } else { 0 };
    (0..count)
        .map(|key| record(BUCKET, key, expiry(key)))
        .collect()
}

/// A data directory that was restored, with its groups as they are on the disk.
struct RestoredDirectory {
    identity: Identity,
    catalog: Arc<Catalog>,
    shards: Vec<Arc<ShardView>>,
    _engine: Arc<Engine>,
}

impl RestoredDirectory {
    async fn open(dir: &Path) -> Self {
        let identity = Identity::read(dir).unwrap();
        let engine = Arc::new(Engine::open(dir, &ENGINE_SETTINGS).unwrap());
        let mut catalog = None;
        let db = engine.state.clone();
        let meta = OfflineGroup::<Meta>::open(&engine, GroupId::META, |rows| {
            let state = MetaState::open(db, rows)?;
            catalog = Some(state.catalog());
            Ok(state)
        });
        meta.unwrap().apply_log().await.unwrap();
        let mut shards = Vec::new();
        for number in 0..identity.shards {
            let db = engine.state.clone();
            let mut view = None;
            let group = OfflineGroup::<Shard>::open(&engine, GroupId::shard(number), |rows| {
                let state = ShardState::open(db, rows, StateMemory::OFFLINE)?;
                view = Some(state.view());
                Ok(state)
            });
            group.unwrap().apply_log().await.unwrap();
            shards.push(view.unwrap());
        }
        Self {
            identity,
            catalog: catalog.unwrap(),
            shards,
            _engine: engine,
        }
    }

    fn get(&self, bucket: &str, key: usize) -> ReadResult {
        let (bucket, key) = (bucket.as_bytes(), key_name(key));
        let number = shard_of(bucket, key.as_bytes(), self.identity.shards);
        let shard = &self.shards[usize::from(number)];
        shard.get(bucket, key.as_bytes(), 0).unwrap()
    }

    fn key_count(&self) -> u64 {
        let states = self
            .shards
            .iter()
            .map(|shard| shard.bucket(BUCKET.as_bytes()).unwrap());
        states.map(|state| state.keys).sum()
    }

    fn assert_records(&self, count: usize) {
        for key in 0..count {
            let stored = self.get(BUCKET, key).into_value().unwrap();
            let expected = record(BUCKET, key, 0).record.unwrap();
            let version = Version {
                time: 100 + key as u64,
                region: 1,
            };
            assert_eq!(stored.version, version);
            assert_eq!(stored.value, expected.value);
            assert_eq!(stored.content_type, expected.content_type);
            assert_eq!(stored.metadata, expected.metadata);
            assert_eq!(stored.expires_at, (key % 2 == 0).then_some(NEVER));
        }
        assert_eq!(self.key_count(), count as u64);
    }
}

#[tokio::test]
async fn all_keys_are_restored_whatever_the_number_of_shards() {
    for (shards, part_records) in [(None, 10_000), (Some(1), 7), (Some(5), 1500)] {
        let backup = BackupFixture::new(records(5000), part_records).await;
        let args = RestoreArgs {
            shards,
            region: RegionName::parse("eu"),
            ..backup.args()
        };
        let text = backup.restore(&args).await.unwrap();
        assert!(text.contains("5000 records restored into"), "{text}");
        let restored = RestoredDirectory::open(&args.data_dir).await;
        let identity = &restored.identity;
        assert_eq!(identity.shards, shards.unwrap_or(SHARDS));
        assert_eq!(
            (identity.region.as_str(), identity.region_number),
            ("eu", 1)
        );
        assert!(identity.bootstraps_cluster && !identity.is_seeded);
        assert_ne!(identity.cluster_id, "source");
        restored.assert_records(5000);
        for shard in &restored.shards {
            assert!(shard.is_open());
            assert_eq!(shard.last_version(), LAST_VERSION);
            assert_eq!((shard.region(), shard.level()), (1, 2));
            assert_eq!(shard.incarnation(), identity.incarnation);
        }
    }
}

#[tokio::test]
async fn the_metadata_is_that_of_a_new_cluster_without_nodes() {
    let backup = BackupFixture::new(records(10), 100).await;
    let text = backup.restore(&backup.args()).await.unwrap();
    assert!(text.contains("2 accounts and 1 buckets"), "{text}");
    let restored = RestoredDirectory::open(&backup.data_dir()).await;
    let (catalog, identity) = (&restored.catalog, &restored.identity);
    let header = catalog.header();
    assert_eq!(header.cluster_id, identity.cluster_id);
    assert_eq!((header.shards, header.level), (u32::from(SHARDS), 2));
    assert_eq!(header.regions.len(), 1);
    assert_eq!(header.regions[0].name, "local");
    assert_eq!(header.regions[0].incarnation, identity.incarnation);
    // It registers itself when it is started.
    assert!(catalog.topology().nodes().is_empty());
    let id = BucketId::parse(BUCKET.as_bytes()).unwrap();
    let bucket = catalog.bucket(&id).unwrap();
    assert_eq!(bucket.owner, AccountId(OWNER));
    assert_eq!((bucket.plan, bucket.limits.keys), (Plan::Business, 77));
    assert_eq!(bucket.comment.as_deref(), Some("comment"));
    assert_eq!(catalog.account_count(), 2);
    assert_eq!(catalog.buckets_of(&AccountId(OWNER)).len(), 1);
}

#[tokio::test]
async fn expired_keys_and_those_of_unknown_buckets_stay_away() {
    let mut all = records(10);
    all.push(record(BUCKET, 10, 1));
    // A clock that is behind the newest version doesn't bring it back.
    all.push(record(BUCKET, 11, LAST_VERSION));
    all.push(record(UNKNOWN_BUCKET, 12, 0));
    let backup = BackupFixture::new(all, 4).await;
    let text = backup.restore(&backup.args()).await.unwrap();
    assert!(text.contains("2 records have expired"), "{text}");
    assert!(
        text.contains("1 records of buckets that were deleted"),
        "{text}"
    );
    let restored = RestoredDirectory::open(&backup.data_dir()).await;
    restored.assert_records(10);
    for (bucket, key) in [(BUCKET, 10), (BUCKET, 11), (UNKNOWN_BUCKET, 12)] {
        assert_eq!(restored.get(bucket, key), ReadResult::Missing);
    }
}

#[tokio::test]
async fn the_newest_complete_backup_is_restored_unless_one_is_chosen() {
    let backup = BackupFixture::new(records(3), 100).await;
    backup.add_backup(2000, records(5), 100).await;
    let incomplete = id_at(3000);
    backup.add_backup(3000, records(7), 100).await;
    let deleted = backup.target.delete(&incomplete, MANIFEST_FILE);
    deleted.await.unwrap();
    let text = backup.restore(&backup.args()).await.unwrap();
    assert!(text.contains("has 2 complete backups") && text.contains(&id_at(2000)));
    RestoredDirectory::open(&backup.data_dir())
        .await
        .assert_records(5);
    let choose = |id: String, dir: &str| RestoreArgs {
        id: Some(id),
        data_dir: backup.dir.path().join(dir),
        ..backup.args()
    };
    let args = choose(id_at(1000), "other");
    backup.restore(&args).await.unwrap();
    let restored = RestoredDirectory::open(&args.data_dir).await;
    restored.assert_records(3);
    let args = choose(incomplete, "third");
    backup.assert_refused(&args, "isn't complete", false).await;
    let args = choose(id_at(4000), "third");
    backup.assert_refused(&args, "has no backup", false).await;
    assert!(!args.data_dir.exists());
}

#[tokio::test]
async fn a_backup_with_damage_leaves_a_directory_that_no_node_uses() {
    let backup = BackupFixture::new(records(100), 10).await;
    let id = id_at(1000);
    let parts = [
        part_name(METADATA_DIR, 0),
        part_name(&shard_dir(0), 0),
        part_name(&shard_dir(2), 1),
    ];
    for (number, part) in parts.iter().enumerate() {
        let intact = backup.target.get(&id, part).await.unwrap();
        let mut flipped = intact.to_vec();
        *flipped.last_mut().unwrap() ^= 1;
        for (kind, damaged) in [("flipped", Some(flipped)), ("missing", None)] {
            match damaged {
                Some(bytes) => backup.target.put(&id, part, bytes.into()).await.unwrap(),
                None => backup.target.delete(&id, part).await.unwrap(),
            }
            let args = RestoreArgs {
                data_dir: backup.dir.path().join(format!("{kind}-{number}")),
                ..backup.args()
            };
            backup.assert_refused(&args, part, true).await;
            // Nor is the backup restored into what is left.
            backup.assert_refused(&args, "isn't empty", true).await;
        }
        backup.target.put(&id, part, intact).await.unwrap();
    }
    backup.restore(&backup.args()).await.unwrap();
    let restored = RestoredDirectory::open(&backup.data_dir()).await;
    restored.assert_records(100);
}

#[tokio::test]
async fn what_cannot_be_restored_is_refused_before_anything_is_written() {
    let backup = BackupFixture::new(records(3), 10).await;
    let args = backup.args();
    fs::create_dir(&args.data_dir).unwrap();
    fs::write(args.data_dir.join("file"), "content").unwrap();
    backup.assert_refused(&args, "isn't empty", false).await;
    fs::remove_file(args.data_dir.join("file")).unwrap();
    let none = RestoreArgs {
        shards: Some(0),
        ..args.clone()
    };
    backup.assert_refused(&none, "--shards is 0", false).await;
    let manifest = read_manifest(&backup.target, &id_at(1000)).await.unwrap();
    let later = Manifest {
        level: 3,
        ..manifest.clone()
    };
    backup.put_manifest(later).await;
    backup
        .assert_refused(&args, "use a later version", false)
        .await;
    backup.put_manifest(manifest).await;
    assert_eq!(fs::read_dir(&args.data_dir).unwrap().count(), 0);
    // An empty directory may exist, with what a new file system has in it.
    fs::create_dir(args.data_dir.join(LOST_AND_FOUND)).unwrap();
    backup.restore(&args).await.unwrap();
    let nowhere = RestoreArgs {
        from: format!("file://{}", backup.dir.path().join("nothing").display()),
        data_dir: backup.dir.path().join("other"),
        ..args
    };
    backup
        .assert_refused(&nowhere, "has no complete backup", false)
        .await;
}
