//! Tests of receiving snapshots at a running group over connections that break.

use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use cloudkv_proto::v1 as pb;
use cloudkv_proto::v1::snapshot_ack::Kind as Ack;
use cloudkv_proto::v1::snapshot_frame::Kind as Frame;
use futures_util::{FutureExt, StreamExt, stream};
use tempfile::TempDir;
use tokio::runtime::Handle;
use tokio::sync::mpsc;
use tokio_stream::wrappers::ReceiverStream;
use tonic::{Code, Status};

use super::group::Group;
use super::group::settings::GroupSettings;
use super::snapshot::{self, SnapshotData};
use super::snapshot_transfers::SnapshotSettings;
use super::storage_tests::{GROUP, apply, open, put};
use super::types::Vote;
use crate::background::BackgroundScheduler;
use crate::rpc::{
    Dialer, Peers, PeersSettings, RpcClientSettings, RpcRuntimes, SnapshotAcks, SnapshotFrames,
};
use crate::shard::{Shard, ShardState, StateMemory};
use crate::store::keys::{RowKind, Rows};
use crate::store::{Engine, EngineSettings};
use crate::types::NodeId;

const BUCKET: &[u8; 14] = b"aABCDEFGHIJKLM";
/// Number of records in a snapshot: several chunks of them.
pub(super) const KEY_COUNT: u64 = 12_000;

/// RPC clients of a node that doesn't know any other node yet.
pub(super) fn peers(me: NodeId) -> Arc<Peers> {
    Peers::new(PeersSettings {
        cluster_id: "a".to_owned(),
        me,
        dialer: Dialer::default(),
        client: RpcClientSettings {
            max_calls: 10,
            max_queue_bytes: 1 << 20,
            max_message_bytes: 16 << 20,
        },
        runtimes: RpcRuntimes::all_on(&Handle::current()),
    })
}

/// A group that was not bootstrapped, and waits for a leader.
pub(super) async fn group(dir: &TempDir) -> Arc<Group<Shard>> {
    let engine_settings = EngineSettings {
        block_cache_bytes: 1 << 20,
        write_buffer_bytes: 4 << 20,
        log_segment_bytes: 1 << 20,
        compaction_rate: 0,
    };
    let engine = Arc::new(Engine::open(dir.path(), &engine_settings).unwrap());
    let settings = GroupSettings {
        node: NodeId::from(1),
        rpc_address: "127.0.0.1:1".to_owned(),
        peers: peers(NodeId::from(1)),
        bootstraps: false,
        append_timeout: Duration::from_secs(1),
        heartbeat_interval: Duration::from_millis(50),
        election_timeout_min: Duration::from_millis(150),
        election_timeout_max: Duration::from_millis(300),
        log_cache_bytes: 1 << 20,
        log_retention_limits: (1000, 1 << 20),
        snapshots: SnapshotSettings::new(100),
        disk_space: Arc::default(),
    };
    let db = engine.state.clone();
    let open = |rows| ShardState::open(db, rows, StateMemory::TEST);
    Arc::new(Group::start(engine, GROUP, &settings, open).await.unwrap())
}

/// Returns the frames of a snapshot after entry `last`, as node 2 sends them, which leads in term
/// 1: each entry has written a key of its own, named after `prefix`.
async fn frames(prefix: &str, last: u64) -> Vec<pb::SnapshotFrame> {
    let dir = tempfile::tempdir().unwrap();
    let (engine, _log, mut source) = open(&dir);
    let entries = (1..=last).map(|index| put(index, &format!("{prefix}-{index}")));
    apply(&mut source, entries.collect()).await;
    let rows = snapshot::current_rows(&engine.state, GROUP).unwrap();
    let vote = Vote::new_committed(1, NodeId::from(2));
    let data = SnapshotData::live(engine.state.clone(), rows);
    let frames = data.frames(GROUP, &vote, BackgroundScheduler::new(100));
    ReceiverStream::new(frames).collect().await
}

fn header(frames: &[pb::SnapshotFrame]) -> pb::SnapshotHeader {
    match &frames[0].kind {
        Some(Frame::Header(head)) => head.clone(),
        _ => panic!("a snapshot begins with its header"),
    }
}

/// Counts the snapshot's records that the group has.
pub(super) fn count_records(engine: &Engine, prefix: &str, last: u64) -> usize {
    let rows = snapshot::current_rows(&engine.state, GROUP).unwrap();
    let view = ShardState::open(engine.state.clone(), rows, StateMemory::TEST)
        .unwrap()
        .view();
    let has = |index: &u64| {
        let key = format!("{prefix}-{index}");
        let found = view.get(BUCKET, key.as_bytes(), 0).unwrap();
        found.into_value().is_some()
    };
    (1..=last).filter(has).count()
}

/// Channel of acknowledgements, and its receiving end.
fn acks() -> (
    SnapshotAcks,
    mpsc::Receiver<Result<pb::SnapshotAck, Status>>,
) {
    mpsc::channel(1000)
}

/// Frames that arrive at once, after which the connection stays open and silent.
fn unfinished(frames: &[pb::SnapshotFrame]) -> SnapshotFrames {
    let frames = stream::iter(frames.to_vec()).map(Ok);
    frames.chain(stream::pending()).boxed()
}

/// Frames that arrive at once, after which the connection is lost.
fn lost(frames: &[pb::SnapshotFrame]) -> SnapshotFrames {
    stream::iter(frames.to_vec()).map(Ok).boxed()
}

/// Waits until `chunks` chunks are acknowledged.
async fn acknowledged(acks: &mut mpsc::Receiver<Result<pb::SnapshotAck, Status>>, chunks: u64) {
    while let Some(ack) = acks.recv().await {
        if ack.unwrap().kind == Some(Ack::Chunks(chunks)) {
            return;
        }
    }
    panic!("{chunks} chunks were never acknowledged");
}

#[tokio::test]
async fn a_snapshot_whose_sender_disconnects_during_installation_is_not_mixed_with_the_next() {
    let dir = tempfile::tempdir().unwrap();
    let group = group(&dir).await;
    let (first, second) = (
        frames("one", KEY_COUNT).await,
        frames("two", KEY_COUNT + 1).await,
    );

    // The first snapshot has arrived completely, and its installation begins; then the connection
    // is lost.
    let (all, sent) = tokio::sync::oneshot::channel();
    let mut all = Some(all);
    let watched = stream::iter(first[1..].to_vec()).map(move |frame| {
        if matches!(frame.kind, Some(Frame::Last(_)))
            && let Some(all) = all.take()
        {
            let _ = all.send(());
        }
        Ok(frame)
    });
    let reception = group.receive_snapshot(header(&first), watched.boxed(), acks().0);
    let mut reception = reception.boxed();
    tokio::select! {
        biased;
        all = sent => all.unwrap(),
        _ = &mut reception => panic!("the reception ended after its last frame"),
    }
    drop(reception);

    // The sender begins again, and stops before the end.
    let next = group.clone();
    let next = tokio::spawn(async move {
        let frames = unfinished(&second[1..2]);
        next.receive_snapshot(header(&second), frames, acks().0)
            .await
    });

    tokio::select! {
        () = group.wait_applied(KEY_COUNT) => {}
        stopped = group.wait_stopped() => panic!("the group has stopped: {stopped:?}"),
    }
    assert_eq!(group.progress().applied_index(), KEY_COUNT);
    let received = count_records(group.engine(), "one", KEY_COUNT);
    assert_eq!(received, usize::try_from(KEY_COUNT).unwrap());
    group.stop().await.unwrap();
    next.await.unwrap().unwrap_err();
}

#[tokio::test]
async fn a_snapshot_resumes_after_a_lost_connection() {
    let dir = tempfile::tempdir().unwrap();
    let group = group(&dir).await;
    let all = frames("one", KEY_COUNT).await;
    let chunks = u64::try_from(all.len() - 2).unwrap();
    assert!(chunks > 2, "{chunks} chunks");

    let (acks_sender, _acks) = acks();
    let end = group
        .receive_snapshot(header(&all), lost(&all[1..3]), acks_sender)
        .await;
    assert_eq!(end.unwrap_err().code(), Code::Cancelled);
    let (acks_sender, mut acks) = acks();
    let resumed = pb::SnapshotHeader {
        acknowledged: 2,
        ..header(&all)
    };
    let end = group.receive_snapshot(resumed, lost(&all[3..]), acks_sender);
    let end = end.await;
    acknowledged(&mut acks, 2).await;
    end.unwrap();
    assert_eq!(
        count_records(group.engine(), "one", KEY_COUNT),
        usize::try_from(KEY_COUNT).unwrap()
    );
    let statuses = group.transfers().statuses();
    assert_eq!((statuses[0].chunks, statuses[0].state()), (chunks, "done"));
    group.stop().await.unwrap();
}

#[tokio::test]
async fn a_sender_that_lost_the_reply_gets_it_again() {
    let dir = tempfile::tempdir().unwrap();
    let group = group(&dir).await;
    let all = frames("one", KEY_COUNT).await;
    let end = group.receive_snapshot(header(&all), lost(&all[1..]), acks().0);
    let answer = end.await.unwrap();
    let rows = snapshot::current_rows(&group.engine().state, GROUP).unwrap();

    let resumed = pb::SnapshotHeader {
        acknowledged: 1,
        ..header(&all)
    };
    let end = group.receive_snapshot(resumed, unfinished(&[]), acks().0);
    assert_eq!(end.await.unwrap(), answer);
    // A snapshot that begins is another one, even with the same transfer number.
    let begun = group.receive_snapshot(header(&all), lost(&[]), acks().0);
    assert_eq!(begun.await.unwrap_err().code(), Code::Cancelled);
    let now = snapshot::current_rows(&group.engine().state, GROUP).unwrap();
    assert_eq!(now.generation(), rows.generation());
    group.stop().await.unwrap();
}

#[tokio::test]
async fn the_newest_connection_takes_over_and_discarded_chunks_are_not_resumed() {
    let dir = tempfile::tempdir().unwrap();
    let group = group(&dir).await;
    let (first, second) = (
        frames("one", KEY_COUNT).await,
        frames("two", KEY_COUNT).await,
    );
    let (acks_sender, mut received_acks) = acks();
    let (old, frames) = (group.clone(), unfinished(&first[1..3]));
    let start = header(&first);
    let old = tokio::spawn(async move { old.receive_snapshot(start, frames, acks_sender).await });
    acknowledged(&mut received_acks, 2).await;

    let end = group.receive_snapshot(header(&second), lost(&second[1..]), acks().0);
    end.await.unwrap();
    assert_eq!(old.await.unwrap().unwrap_err().code(), Code::Cancelled);
    assert_eq!(
        count_records(group.engine(), "two", KEY_COUNT),
        usize::try_from(KEY_COUNT).unwrap()
    );
    assert_eq!(count_records(group.engine(), "one", KEY_COUNT), 0);

    let resumed = pb::SnapshotHeader {
        acknowledged: 2,
        ..header(&first)
    };
    let end = group.receive_snapshot(resumed, lost(&first[3..]), acks().0);
    assert_eq!(end.await.unwrap_err().code(), Code::FailedPrecondition);
    group.stop().await.unwrap();
}

#[tokio::test]
async fn a_snapshot_with_a_wrong_checksum_is_refused() {
    let dir = tempfile::tempdir().unwrap();
    let group = group(&dir).await;
    let good = frames("one", KEY_COUNT).await;
    let mut changed = good.clone();
    let Some(Frame::Chunk(chunk)) = &mut changed[2].kind else {
        panic!("a chunk");
    };
    chunk.rows[0].value = Bytes::from_static(b"other");
    let mut missing = good.clone();
    missing.remove(2);
    for frames in [changed, missing] {
        let end = group.receive_snapshot(header(&frames), lost(&frames[1..]), acks().0);
        assert_eq!(end.await.unwrap_err().code(), Code::DataLoss);
        assert_eq!(group.progress().applied_index(), 0);
    }
    let end = group.receive_snapshot(header(&good), lost(&good[1..]), acks().0);
    end.await.unwrap();
    assert_eq!(group.progress().applied_index(), KEY_COUNT);
    group.stop().await.unwrap();
}

#[tokio::test]
async fn a_sender_of_a_version_without_acknowledgements_is_served() {
    let dir = tempfile::tempdir().unwrap();
    let group = group(&dir).await;
    let mut frames = frames("one", KEY_COUNT).await;
    let Some(Frame::Last(last)) = frames.pop().and_then(|frame| frame.kind) else {
        panic!("the last frame");
    };
    let kind = Some(Frame::End(last.rows));
    frames.push(pb::SnapshotFrame { kind });
    for frame in &mut frames {
        if let Some(Frame::Chunk(chunk)) = &mut frame.kind {
            chunk.number = 0;
        }
    }
    let start = pb::SnapshotHeader {
        transfer: 0,
        ..header(&frames)
    };
    let end = group.receive_snapshot(start, lost(&frames[1..]), acks().0);
    end.await.unwrap();
    assert_eq!(
        count_records(group.engine(), "one", KEY_COUNT),
        usize::try_from(KEY_COUNT).unwrap()
    );
    group.stop().await.unwrap();
}

#[tokio::test]
async fn leftovers_of_other_generations_are_removed() {
    let dir = tempfile::tempdir().unwrap();
    let (engine, _log, mut replica) = open(&dir);
    apply(&mut replica, vec![put(1, "a")]).await;
    let rows = snapshot::current_rows(&engine.state, GROUP).unwrap();
    for generation in [2, 5, 900] {
        let chunk = pb::SnapshotChunk {
            rows: vec![pb::SnapshotRow {
                key: Bytes::from_static(&[1]),
                value: Bytes::from_static(b"left"),
            }],
            number: 0,
        };
        snapshot::write_chunk(&engine.state, Rows::new(GROUP, generation), chunk).unwrap();
    }
    snapshot::remove_leftovers(&engine.state, rows).unwrap();
    let left = |generation| {
        let key = Rows::new(GROUP, generation).single(RowKind::Applied);
        engine.state.get(&key).unwrap().is_some()
    };
    assert!(left(rows.generation()));
    assert!(![2, 5, 900].into_iter().any(left));
}

#[test]
fn generations_that_cannot_be_read_are_removed_without_the_current_one() {
    for current in [1, 3, 900] {
        let dir = tempfile::tempdir().unwrap();
        let state = crate::store::testing::small_engine(dir.path()).state;
        let marker = |generation| Rows::new(GROUP, generation).single(RowKind::Applied);
        let mut batch = crate::store::RowBatch::default();
        for generation in [1, 2, 3, 4, 900] {
            batch.put(marker(generation), b"");
        }
        state.write(batch).unwrap();
        snapshot::remove_all_but(&state, Rows::new(GROUP, current)).unwrap();
        let left = |generation| state.get(&marker(generation)).unwrap().is_some();
        let left: Vec<u32> = [1, 2, 3, 4, 900]
            .into_iter()
            .filter(|it| left(*it))
            .collect();
        assert_eq!(left, [current]);
    }
}
