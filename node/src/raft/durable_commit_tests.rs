//! Tests of a crash of a group that shows nothing before its commit is durable.

use std::path::Path;
use std::sync::Arc;

use cloudkv_proto::v1 as pb;
use cloudkv_proto::v1::meta_command::Kind;
use openraft::storage::{IOFlushed, RaftLogStorage, RaftStateMachine};
use openraft::{EntryPayload, StorageHelper};

use super::codec::log_id;
use super::log_store::LogStore;
use super::replica::Replica;
use super::types::{Command, Entry, LogId, TypeConfig};
use crate::meta::{Meta, MetaState};
use crate::store::keys::GroupId;
use crate::store::{Engine, EngineSettings};
use crate::types::NodeId;

fn open(dir: &Path) -> (Arc<Engine>, LogStore<Meta>, Replica<Meta>) {
    let settings = EngineSettings {
        block_cache_bytes: 1 << 20,
        write_buffer_bytes: 1 << 20,
        log_segment_bytes: 1 << 20,
        compaction_rate: 0,
    };
    let engine = Arc::new(Engine::open(dir, &settings).unwrap());
    let log = LogStore::open(engine.clone(), GroupId::META, 1 << 20).unwrap();
    let db = engine.state.clone();
    let state = engine.state.clone();
    let open = |rows| MetaState::open(db, rows);
    let replica = Replica::open(state, log.clone(), GroupId::META, open).unwrap();
    (engine, log, replica)
}

fn set_level(index: u64) -> Entry<Meta> {
    let command = pb::MetaCommand {
        time: index,
        kind: Some(Kind::SetLevel(pb::SetMetaLevel { level: 1 })),
    };
    Entry::<Meta> {
        log_id: log_id(1, index),
        payload: EntryPayload::Normal(Command::new(command)),
    }
}

/// Copies the files as a crash now would leave them, while the node has them open.
pub(super) fn copy_after_crash(dir: &Path) -> tempfile::TempDir {
    let copy = tempfile::tempdir().unwrap();
    for folder in ["", "log", "state"] {
        let (from, to) = (dir.join(folder), copy.path().join(folder));
        std::fs::create_dir_all(&to).unwrap();
        for entry in std::fs::read_dir(from).unwrap() {
            let entry = entry.unwrap();
            if entry.file_type().unwrap().is_file() {
                std::fs::copy(entry.path(), to.join(entry.file_name())).unwrap();
            }
        }
    }
    copy
}

/// Returns the applied position after a start that reaches no other member.
async fn applied_after_start(dir: &Path) -> Option<LogId> {
    let (_engine, mut log, mut replica) = open(dir);
    let mut helper = StorageHelper::<TypeConfig<Meta>, _, _>::new(&mut log, &mut replica)
        .with_id(NodeId::from(1));
    helper.get_initial_state().await.unwrap();
    replica.applied_state().await.unwrap().0
}

#[tokio::test]
async fn visible_entries_are_applied_again_without_another_member() {
    let dir = tempfile::tempdir().unwrap();
    let (_engine, mut log, mut replica) = open(dir.path());
    for index in 0..3 {
        let entry = set_level(index);
        let appended = log.append([entry.clone()], IOFlushed::noop());
        appended.await.unwrap();
        log.save_committed(Some(log_id(1, index))).await.unwrap();
        let entries = futures_util::stream::iter([Ok((entry, None))]);
        replica.apply(entries).await.unwrap();
        let copy = copy_after_crash(dir.path());
        let applied = applied_after_start(copy.path()).await;
        assert_eq!(applied, Some(log_id(1, index)));
    }
}

#[tokio::test]
async fn entries_committed_together_share_syncs() {
    let dir = tempfile::tempdir().unwrap();
    let (engine, mut log, mut replica) = open(dir.path());
    let entries: Vec<_> = (0..50).map(set_level).collect();
    let appended = log.append(entries.clone(), IOFlushed::noop());
    appended.await.unwrap();
    log.save_committed(Some(log_id(1, 49))).await.unwrap();
    let entries = entries.into_iter().map(|entry| Ok((entry, None)));
    let entries = futures_util::stream::iter(entries);
    replica.apply(entries).await.unwrap();
    let syncs = &engine.log.sync_stats().syncs;
    assert!(syncs.load(std::sync::atomic::Ordering::Relaxed) <= 5);
    let applied = applied_after_start(copy_after_crash(dir.path()).path()).await;
    assert_eq!(applied, Some(log_id(1, 49)));
}
