//! openraft's own storage suite on this storage, and what it doesn't cover: that a crash leaves the
//! state after some entry, and that snapshots replace whole generations.

use std::io;
use std::sync::Arc;

use bytes::Bytes;
use cloudkv_proto::v1::{self as pb, shard_command::Kind};
use openraft::storage::{RaftLogStorage, RaftStateMachine};
use openraft::testing::log::{StoreBuilder, Suite};
use openraft::{EntryPayload, RaftLogReader, RaftSnapshotBuilder, StorageError};
use tempfile::TempDir;

use super::codec::{self, log_id};
use super::log_store::LogStore;
use super::replica::Replica;
use super::types::{Command, Entry, TypeConfig};
use crate::shard::{ChangesRange, Shard, ShardState, StateMemory};
use crate::store::keys::GroupId;
use crate::store::{Engine, EngineSettings};

pub(super) const GROUP: GroupId = GroupId(1);

pub(super) fn open(dir: &TempDir) -> (Arc<Engine>, LogStore<Shard>, Replica<Shard>) {
    let settings = EngineSettings {
        block_cache_bytes: 1 << 20,
        write_buffer_bytes: 1 << 20,
        log_segment_bytes: 1 << 20,
        compaction_rate: 0,
    };
    let engine = Arc::new(Engine::open(dir.path(), &settings).unwrap());
    // A cache so small that most reads of the suite come from the log.
    let log = LogStore::open(engine.clone(), GROUP, 64).unwrap();
    let db = engine.state.clone();
    let replica = Replica::open(engine.state.clone(), log.clone(), GROUP, |rows| {
        ShardState::open(db, rows, StateMemory::TEST)
    })
    .unwrap();
    (engine, log, replica)
}

struct Builder;

impl StoreBuilder<TypeConfig<Shard>, LogStore<Shard>, Replica<Shard>, TempDir> for Builder {
    async fn build(
        &self,
    ) -> Result<(TempDir, LogStore<Shard>, Replica<Shard>), StorageError<TypeConfig<Shard>>> {
        let dir = tempfile::tempdir().unwrap();
        let (_engine, log, replica) = open(&dir);
        Ok((dir, log, replica))
    }
}

#[test]
fn openrafts_storage_suite_passes() {
    let runtime = tokio::runtime::Runtime::new().unwrap();
    runtime
        .block_on(Suite::<TypeConfig<Shard>, _, _, _, _>::test_all(Builder))
        .unwrap();
}

pub(super) fn put(index: u64, key: &str) -> Entry<Shard> {
    let put = pb::Put {
        value: Bytes::from(format!("value of {key}")),
        may_create: true,
        ..Default::default()
    };
    let write = pb::Write {
        bucket: Bytes::from_static(b"aABCDEFGHIJKLM"),
        key: Bytes::copy_from_slice(key.as_bytes()),
        op: Some(pb::write::Op::Put(put)),
        condition: None,
    };
    let batch = pb::WriteBatch {
        time: 1000 * index,
        writes: vec![write],
    };
    let command = pb::ShardCommand {
        kind: Some(Kind::Writes(batch)),
    };
    Entry::<Shard> {
        log_id: log_id(1, index),
        payload: EntryPayload::Normal(Command::new(command)),
    }
}

pub(super) async fn apply(replica: &mut Replica<Shard>, entries: Vec<Entry<Shard>>) {
    let entries = entries.into_iter().map(|entry| Ok((entry, None)));
    replica
        .apply(futures_util::stream::iter(entries))
        .await
        .unwrap();
}

#[tokio::test]
async fn without_a_flush_a_restart_finds_the_state_after_an_earlier_entry() {
    let dir = tempfile::tempdir().unwrap();
    {
        let (engine, _log, mut replica) = open(&dir);
        apply(&mut replica, vec![put(1, "a"), put(2, "b")]).await;
        engine.state.flush().unwrap();
        apply(&mut replica, vec![put(3, "c")]).await;
        assert_eq!(replica.applied_state().await.unwrap().0, Some(log_id(1, 3)));
    }
    let (engine, _log, mut replica) = open(&dir);
    let applied = replica.applied_state().await.unwrap().0.unwrap();
    assert!(applied.index >= 2, "flushed entries are lost: {applied}");
    assert_eq!(
        engine.state.estimated_rows() > 0,
        applied.index > 0,
        "rows and position differ"
    );
}

#[tokio::test]
async fn a_snapshot_installs_a_whole_state_as_a_new_generation() {
    let (source_dir, target_dir) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
    let (_source_engine, _source_log, mut source) = open(&source_dir);
    let entries = (1..=500).map(|index| put(index, &format!("key-{index}")));
    apply(&mut source, entries.collect()).await;
    let mut builder = source.get_snapshot_builder().await;
    let snapshot = RaftSnapshotBuilder::<TypeConfig<Shard>>::build_snapshot(&mut builder)
        .await
        .unwrap();

    let (_engine, _log, mut target) = open(&target_dir);
    apply(&mut target, vec![put(1, "replaced")]).await;
    target
        .install_snapshot(&snapshot.meta, snapshot.snapshot)
        .await
        .unwrap();
    assert_eq!(
        target.applied_state().await.unwrap(),
        source.applied_state().await.unwrap()
    );
    drop((target, _log, _engine));
    // It is durable, and no rows of the old generation are left.
    let (engine, _log, mut target) = open(&target_dir);
    assert_eq!(
        target.applied_state().await.unwrap(),
        source.applied_state().await.unwrap()
    );
    let view = crate::shard::ShardState::open(
        engine.state.clone(),
        super::snapshot::current_rows(&engine.state, GROUP).unwrap(),
        StateMemory::TEST,
    )
    .unwrap()
    .view();
    let bucket = b"aABCDEFGHIJKLM";
    assert!(
        view.get(bucket, b"key-500", 0)
            .unwrap()
            .into_value()
            .is_some()
    );
    assert!(
        view.get(bucket, b"replaced", 0)
            .unwrap()
            .into_value()
            .is_none()
    );
    assert_eq!(view.bucket(bucket).unwrap().keys, 500);
}

/// Returns the entries of the recent changes behind an entry, and the one up to which they are
/// complete; `None` if the memory doesn't reach back.
fn recent_changes(replica: &Replica<Shard>, after: u64) -> Option<(Vec<u64>, u64)> {
    let range = ChangesRange {
        after,
        up_to: u64::MAX,
        bucket: None,
        filter: None,
        limit: 100,
    };
    let view = replica.state.view();
    let page = view.recent_changes().read(&range).ok()?;
    let indexes = page.changes.iter().map(|change| change.index);
    Some((indexes.collect(), page.up_to))
}

#[tokio::test]
async fn recent_changes_begin_at_the_applied_position_and_pass_entries_without_any() {
    let (dir, target_dir) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
    let blank = |index| Entry::<Shard> {
        log_id: log_id(1, index),
        payload: EntryPayload::Blank,
    };
    let (_target_engine, _target_log, mut target) = open(&target_dir);
    {
        let (engine, _log, mut replica) = open(&dir);
        let entries = vec![put(1, "a"), blank(2), put(3, "b"), blank(4)];
        apply(&mut replica, entries).await;
        assert_eq!(recent_changes(&replica, 0), Some((vec![1, 3], 4)));
        assert_eq!(recent_changes(&replica, 3), Some((vec![], 4)));
        // A reader that knows of more than this replica has applied.
        assert_eq!(recent_changes(&replica, 9), Some((vec![], 4)));
        engine.state.flush().unwrap();
        // A snapshot replaces everything: nothing before it is known.
        apply(&mut target, vec![put(1, "a")]).await;
        let mut builder = replica.get_snapshot_builder().await;
        let snapshot = RaftSnapshotBuilder::<TypeConfig<Shard>>::build_snapshot(&mut builder);
        let snapshot = snapshot.await.unwrap();
        let installed = target.install_snapshot(&snapshot.meta, snapshot.snapshot);
        installed.await.unwrap();
        assert_eq!(recent_changes(&target, 3), None);
        assert_eq!(recent_changes(&target, 4), Some((vec![], 4)));
    }
    let (_engine, _log, mut replica) = open(&dir);
    assert_eq!(recent_changes(&replica, 3), None);
    assert_eq!(recent_changes(&replica, 4), Some((vec![], 4)));
    for replica in [&mut replica, &mut target] {
        apply(replica, vec![put(5, "c")]).await;
        assert_eq!(recent_changes(replica, 4), Some((vec![5], 5)));
    }
}

#[tokio::test]
async fn the_log_is_never_purged_beyond_what_the_state_has_flushed() {
    let dir = tempfile::tempdir().unwrap();
    {
        let (_engine, mut log, mut replica) = open(&dir);
        let entries: Vec<_> = (1..=10)
            .map(|index| put(index, &format!("k{index}")))
            .collect();
        log.append(entries.clone(), openraft::storage::IOFlushed::noop())
            .await
            .unwrap();
        apply(&mut replica, entries).await;
        // Requests more than is flushed: the state is flushed first.
        log.purge(log_id(1, 8)).await.unwrap();
    }
    let (_engine, mut log, mut replica) = open(&dir);
    let applied = replica.applied_state().await.unwrap().0.unwrap();
    assert!(applied.index >= 8, "{applied}");
    let state = log.get_log_state().await.unwrap();
    assert_eq!(state.last_purged_log_id, Some(log_id(1, 8)));
    assert_eq!(state.last_log_id, Some(log_id(1, 10)));
    let left = log.try_get_log_entries(0..100).await.unwrap();
    assert_eq!(left.len(), 2);
}

#[test]
fn entries_and_positions_survive_encoding() {
    let entry = put(7, "key");
    let bytes = Bytes::from(codec::encode_entry::<Shard>(&entry));
    assert_eq!(codec::entry_log_id(bytes.clone()).unwrap(), log_id(1, 7));
    let decoded = codec::decode_entry::<Shard>(bytes.clone()).unwrap();
    assert_eq!(decoded.log_id, entry.log_id);
    match (decoded.payload, entry.payload) {
        (EntryPayload::Normal(decoded), EntryPayload::Normal(entry)) => {
            assert_eq!(decoded.get(), entry.get());
        }
        _ => panic!("a command was decoded as something else"),
    }
    for broken in [
        Bytes::new(),
        bytes.slice(..10),
        Bytes::from_static(&[9; 30]),
    ] {
        let error = codec::decode_entry::<Shard>(broken).unwrap_err();
        assert_eq!(error.kind(), io::ErrorKind::InvalidData);
    }
}

#[tokio::test]
async fn entries_on_the_disk_are_read_on_a_blocking_thread() {
    let dir = tempfile::tempdir().unwrap();
    let (_engine, mut log, _replica) = open(&dir);
    let entries = (1..=4).map(|index| put(index, "key"));
    log.append(entries, openraft::storage::IOFlushed::noop())
        .await
        .unwrap();
    let read = log.limited_get_log_entries(1, 5);
    let mut read = std::pin::pin!(read);
    // The calling task also drives heartbeats.
    assert!(
        futures_util::poll!(read.as_mut()).is_pending(),
        "the calling task waited for the disk"
    );
    assert_eq!(read.await.unwrap().len(), 4);
}

/// Log matching (Raft, 5.3): entries that a leader's reader returned after another leader's entries
/// have replaced its own would follow an entry that they never followed.
#[tokio::test]
async fn a_leaders_reader_returns_nothing_of_the_next_leaders_log() {
    let dir = tempfile::tempdir().unwrap();
    let (_engine, mut log, _replica) = open(&dir);
    let noop = openraft::storage::IOFlushed::noop;
    let entries = (1..=4).map(|index| put(index, "old"));
    log.append(entries, noop()).await.unwrap();
    let mut reader = log.get_log_reader().await;
    assert_eq!(reader.limited_get_log_entries(1, 5).await.unwrap().len(), 4);
    log.truncate_after(Some(log_id(1, 2))).await.unwrap();
    let later = (3..=4).map(|index| Entry::<Shard> {
        log_id: log_id(2, index),
        ..put(index, "new")
    });
    log.append(later, noop()).await.unwrap();
    assert!(
        reader
            .limited_get_log_entries(4, 5)
            .await
            .unwrap()
            .is_empty()
    );
    let mut reader = log.get_log_reader().await;
    let read = reader.limited_get_log_entries(4, 5).await.unwrap();
    assert_eq!(read[0].log_id, log_id(2, 4));
    // Applied entries are committed, and never truncated.
    assert_eq!(reader.try_get_log_entries(1..5).await.unwrap().len(), 4);
}
