//! Tests of exports of the data directories of stopped nodes.

use std::os::unix::fs::PermissionsExt;

use bytes::Bytes;
use cloudkv_proto::v1 as pb;
use cloudkv_proto::v1::shard_command::Kind;
use cloudkv_proto::v1::write::Op;

use super::*;
use crate::store::testing::small_engine;
use crate::types::ReadResult;

const IDENTITY: &str = r#"{"format": 1, "cluster_id": "c", "node_id": 1, "region": "eu",
    "shards": 2, "incarnation": 9}"#;
const BUCKET: &str = "aABCDEFGHIJKLM";
const DROPPED: &str = "aZZZZZZZZZZZZZ";
const OTHER: &str = "aBBBBBBBBBBBBB";
/// Later than all expiries of these tests, in nanoseconds since 1970.
const NEVER: u64 = 4_000_000_000_000_000_000;

/// Data directory of a stopped node, with a replica of shard 0.
struct DirectoryFixture {
    dir: tempfile::TempDir,
}

impl DirectoryFixture {
    /// Creates one in which these commands are applied, and those are only in the log.
    async fn new(applied: Vec<Kind>, logged: Vec<Kind>) -> Self {
        let dir = tempfile::tempdir().unwrap();
        std::fs::write(dir.path().join("identity.json"), IDENTITY).unwrap();
        let engine = Arc::new(small_engine(dir.path()));
        let mut group = open_group(&engine).0;
        for kind in applied {
            group.apply(command(kind)).await.unwrap();
        }
        let logged = logged.into_iter().map(command).collect();
        group.append_to_log(logged).await;
        drop(group);
        drop(engine);
        Self { dir }
    }

    async fn export(&self, to: &Path, all: bool) -> Result<Vec<String>, ExportDirectoryError> {
        let args = ExportDirectoryArgs {
            data_dir: self.dir.path().to_owned(),
            to: to.to_owned(),
            all,
        };
        let mut lines = Vec::new();
        export_directory(&args, &mut |line: &str| lines.push(line.to_owned())).await?;
        Ok(lines)
    }
}

fn open_group(engine: &Arc<Engine>) -> (OfflineGroup<Shard>, Arc<ShardView>) {
    let db = engine.state.clone();
    let mut view = None;
    let group = OfflineGroup::open(engine, GroupId::shard(0), |rows| {
        let state = ShardState::open(db, rows, StateMemory::OFFLINE)?;
        view = Some(state.view());
        Ok(state)
    });
    (group.unwrap(), view.unwrap())
}

fn command(kind: Kind) -> pb::ShardCommand {
    pb::ShardCommand { kind: Some(kind) }
}

fn bootstrap() -> Kind {
    Kind::Bootstrap(pb::BootstrapShard {
        region: 1,
        incarnation: 9,
        level: 2,
        must_seed: false,
    })
}

fn add_region() -> Kind {
    let peers = vec![pb::Peer {
        region: 2,
        incarnation: 7,
    }];
    Kind::SetPeers(pb::SetPeers { epoch: 2, peers })
}

fn write(time: u64, bucket: &str, key: &str, op: Op) -> Kind {
    let write = pb::Write {
        bucket: Bytes::copy_from_slice(bucket.as_bytes()),
        key: Bytes::copy_from_slice(key.as_bytes()),
        op: Some(op),
        condition: None,
    };
    let writes = vec![write];
    Kind::Writes(pb::WriteBatch { time, writes })
}

fn put(time: u64, bucket: &str, key: &str, expires_at: u64) -> Kind {
    let put = pb::Put {
        value: Bytes::from(format!("value of {key}")),
        may_create: true,
        expires_at,
        ..Default::default()
    };
    write(time, bucket, key, Op::Put(put))
}

fn delete(time: u64, key: &str) -> Kind {
    write(time, BUCKET, key, Op::Delete(pb::Delete {}))
}

fn drop_bucket() -> Kind {
    let bucket = Bytes::from_static(DROPPED.as_bytes());
    Kind::DropBucket(pb::DropBucket { bucket })
}

fn line(key: &str, time: u64, expires_at: &str) -> String {
    format!(
        "{{\"key\":\"{key}\",\"value\":\"value of {key}\",\"expires_at\":{expires_at},\
         \"version\":\"{time:016x}-1\"}}"
    )
}

/// Returns the sorted lines of a file.
fn lines_of(dir: &Path, bucket: &str) -> Vec<String> {
    let path = dir.join(format!("{bucket}.ndjson"));
    let mode = std::fs::metadata(&path).unwrap().permissions().mode();
    assert_eq!(mode & 0o777, 0o600);
    let text = std::fs::read_to_string(path).unwrap();
    let mut lines: Vec<String> = text.lines().map(ToOwned::to_owned).collect();
    lines.sort();
    lines
}

#[tokio::test]
async fn what_other_regions_may_lack_is_exported_and_the_directory_stays_as_it_is() {
    let applied = vec![
        bootstrap(),
        put(10, BUCKET, "sent", 0),
        add_region(),
        put(20, BUCKET, "a", 0),
        put(21, BUCKET, "b", 0),
        put(22, DROPPED, "c", 0),
        drop_bucket(),
    ];
    let logged = vec![
        put(30, BUCKET, "a", 0),
        delete(31, "b"),
        put(32, OTHER, "d", 1_000_000_000),
    ];
    let fixture = DirectoryFixture::new(applied, logged).await;
    let target = tempfile::tempdir().unwrap();
    for round in ["first", "second"] {
        let to = target.path().join(round);
        let lines = fixture.export(&to, false).await.unwrap();
        let written = format!("3 lines of 2 buckets written to {}", to.display());
        let import = "import them with POST /buckets/{bucket}/import?mode=newer";
        assert_eq!(lines[1..], [written, import.to_owned()], "{lines:?}");
        let deletion = format!(
            "{{\"op\":\"delete\",\"key\":\"b\",\"version\":\"{:016x}-1\"}}",
            31
        );
        assert_eq!(lines_of(&to, BUCKET), [line("a", 30, "null"), deletion]);
        let expired = line("d", 32, "\"1970-01-01T00:00:01.000000Z\"");
        assert_eq!(lines_of(&to, OTHER), [expired]);
        assert_eq!(std::fs::read_dir(&to).unwrap().count(), 2);
    }
    assert!(!fixture.dir.path().join("state.copy").exists());
    // Another leader may have replaced the entries that are only in the log.
    let engine = Arc::new(small_engine(fixture.dir.path()));
    let (_, view) = open_group(&engine);
    let read = view.get(BUCKET.as_bytes(), b"b", 0).unwrap();
    assert!(matches!(read, ReadResult::Live(_)), "{read:?}");
}

#[tokio::test]
async fn all_live_keys_are_exported_if_that_is_wanted() {
    let applied = vec![
        bootstrap(),
        put(10, BUCKET, "a", 0),
        put(11, BUCKET, "b", NEVER),
        put(12, BUCKET, "expired", 1_000_000_000),
        put(13, DROPPED, "c", 0),
        drop_bucket(),
    ];
    let logged = vec![add_region(), put(14, BUCKET, "d", 0), delete(15, "d")];
    let fixture = DirectoryFixture::new(applied, logged).await;
    let target = tempfile::tempdir().unwrap();
    let lines = fixture.export(target.path(), true).await.unwrap();
    assert!(lines[1].starts_with("2 lines of 1 buckets"), "{lines:?}");
    let never = line("b", 11, "\"2096-10-02T07:06:40.000000Z\"");
    assert_eq!(
        lines_of(target.path(), BUCKET),
        [line("a", 10, "null"), never]
    );
}

#[tokio::test]
async fn a_cluster_of_one_region_has_no_change_log_and_an_empty_directory_nothing() {
    let applied = vec![bootstrap(), put(10, BUCKET, "a", 0)];
    let fixture = DirectoryFixture::new(applied, Vec::new()).await;
    let target = tempfile::tempdir().unwrap();
    let refused = fixture.export(target.path(), false).await.unwrap_err();
    assert!(matches!(refused, ExportDirectoryError::NoChangeLog(_)));
    assert!(refused.to_string().ends_with("with --all"), "{refused}");
    let lines = fixture.export(target.path(), true).await.unwrap();
    assert!(lines[1].starts_with("1 lines of 1 buckets"), "{lines:?}");

    let fixture = DirectoryFixture::new(Vec::new(), Vec::new()).await;
    let target = tempfile::tempdir().unwrap();
    let refused = fixture.export(target.path(), true).await.unwrap_err();
    assert!(matches!(refused, ExportDirectoryError::NoReplica(_)));

    let applied = vec![bootstrap(), add_region()];
    let fixture = DirectoryFixture::new(applied, Vec::new()).await;
    let lines = fixture.export(target.path(), false).await.unwrap();
    assert!(lines[1].starts_with("there is nothing"), "{lines:?}");
}

#[tokio::test]
async fn wrong_directories_and_running_nodes_are_refused() {
    let fixture = DirectoryFixture::new(vec![bootstrap()], Vec::new()).await;
    let target = tempfile::tempdir().unwrap();
    let to = target.path().join("to");
    let engine = small_engine(fixture.dir.path());
    let refused = fixture.export(&to, true).await.unwrap_err();
    assert!(matches!(refused, ExportDirectoryError::Running(_)));
    drop(engine);
    assert!(!to.exists());
    let refused = fixture.export(fixture.dir.path(), true).await.unwrap_err();
    assert!(matches!(refused, ExportDirectoryError::NotEmpty(_)));
    std::fs::remove_file(fixture.dir.path().join("identity.json")).unwrap();
    let refused = fixture.export(&to, true).await.unwrap_err();
    assert!(matches!(refused, ExportDirectoryError::NoNode(_)));
}

#[test]
fn large_numbers_have_separators() {
    for (number, text) in [
        (0, "0"),
        (999, "999"),
        (1000, "1,000"),
        (1234567, "1,234,567"),
    ] {
        assert_eq!(with_separators(number), text);
    }
}
