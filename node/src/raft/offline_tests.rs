//! Tests of groups that are recovered while their node doesn't run: openraft starts them normally.

use std::time::Duration;

use cloudkv_proto::v1 as pb;
use openraft::StorageHelper;
use openraft::storage::{IOFlushed, RaftStateMachine};
use tokio::runtime::Handle;

use super::*;
use crate::raft::codec::log_id;
use crate::raft::durable_commit_tests::copy_after_crash;
use crate::raft::storage_tests::{GROUP, put};
use crate::raft::types::TypeConfig;
use crate::raft::{Group, GroupSettings, SnapshotSettings};
use crate::rpc::{Dialer, Peers, PeersSettings, RpcClientSettings, RpcRuntimes};
use crate::shard::{Shard, ShardState, StateMemory};
use crate::store::testing::small_engine;

const NODE: NodeId = NodeId::new(3);
const ADDRESS: &str = "n3:7070";
const BUCKET: &[u8] = b"aABCDEFGHIJKLM";
/// Timeout of waits for an expected state.
const STATE_TIMEOUT: Duration = Duration::from_secs(30);

fn open_group(engine: &Arc<Engine>) -> OfflineGroup<Shard> {
    let db = engine.state.clone();
    OfflineGroup::open(engine, GROUP, |rows| {
        ShardState::open(db, rows, StateMemory::TEST)
    })
    .unwrap()
}

fn key(index: u64) -> String {
    format!("key-{index}")
}

/// Appends entries of the first term, each of which puts a key, to the log.
async fn append(engine: &Arc<Engine>, indexes: std::ops::Range<u64>) {
    let mut log = LogStore::<Shard>::open(engine.clone(), GROUP, 64).unwrap();
    let entries: Vec<_> = indexes.map(|index| put(index, &key(index))).collect();
    log.append(entries, IOFlushed::noop()).await.unwrap();
}

fn has_key(group: &OfflineGroup<Shard>, key: &str) -> bool {
    let view = group.replica.state.view();
    let read = view.get(BUCKET, key.as_bytes(), 0).unwrap();
    read.into_value().is_some()
}

fn command(key: &str) -> pb::ShardCommand {
    match put(0, key).payload {
        EntryPayload::Normal(command) => command.get().clone(),
        EntryPayload::Blank | EntryPayload::Membership(_) => panic!("not a command"),
    }
}

/// Reads what openraft begins with, and checks that it is a group of this node alone. Returns the
/// position of its last entry.
async fn check_start(engine: &Arc<Engine>) -> LogId {
    let mut group = open_group(engine);
    let mut helper =
        StorageHelper::<TypeConfig<Shard>, _, _>::new(&mut group.log, &mut group.replica)
            .with_id(NODE);
    helper.get_initial_state().await.unwrap();
    let (applied, membership) = group.replica.applied_state().await.unwrap();
    let voters: Vec<_> = membership.voter_ids().collect();
    assert_eq!(voters, [NODE]);
    let log = group.log.get_log_state().await.unwrap();
    assert_eq!(log.last_log_id, applied);
    assert_eq!(log.last_purged_log_id, applied);
    applied.unwrap()
}

fn settings() -> GroupSettings {
    let peers = Peers::new(PeersSettings {
        cluster_id: "a".to_owned(),
        me: NODE,
        dialer: Dialer::default(),
        client: RpcClientSettings {
            max_calls: 1000,
            max_queue_bytes: 16 << 20,
            max_message_bytes: 16 << 20,
        },
        runtimes: RpcRuntimes::all_on(&Handle::current()),
    });
    GroupSettings {
        node: NODE,
        rpc_address: ADDRESS.to_owned(),
        peers,
        bootstraps: false,
        append_timeout: Duration::from_secs(1),
        heartbeat_interval: Duration::from_millis(50),
        election_timeout_min: Duration::from_millis(150),
        election_timeout_max: Duration::from_millis(300),
        log_cache_bytes: 1 << 20,
        log_retention_limits: (1000, 1 << 20),
        snapshots: SnapshotSettings::new(100),
        disk_space: Arc::default(),
    }
}

/// Runs the group, waits until this node leads it, puts a key, and stops it. Returns the index of
/// the entry that put the key, or of a later one.
async fn run_and_put(engine: &Arc<Engine>, key: &str) -> u64 {
    let db = engine.state.clone();
    let settings = settings();
    let started = Group::<Shard>::start(engine.clone(), GROUP, &settings, |rows| {
        ShardState::open(db, rows, StateMemory::TEST)
    });
    let group = started.await.unwrap();
    let mut leader = group.leader().clone();
    let elected = leader.wait_for(|leader| *leader == Some(NODE));
    let elected = tokio::time::timeout(STATE_TIMEOUT, elected).await;
    drop(
        elected
            .expect("timed out waiting for the election")
            .unwrap(),
    );
    let proposed = tokio::time::timeout(STATE_TIMEOUT, group.propose(command(key))).await;
    assert!(proposed.unwrap().is_ok());
    let applied = group.progress().applied_index();
    group.stop().await.unwrap();
    applied
}

#[tokio::test]
async fn entries_are_applied_whether_or_not_they_are_known_to_be_committed() {
    let dir = tempfile::tempdir().unwrap();
    let engine = Arc::new(small_engine(dir.path()));
    let mut group = open_group(&engine);
    assert!(group.is_empty());
    group.apply_log().await.unwrap();
    assert!(group.is_empty());
    append(&engine, 0..600).await;
    assert!(!group.is_empty());
    group.apply_log().await.unwrap();
    assert_eq!(group.replica.applied, Some(log_id(1, 599)));
    assert!(
        [0, 300, 599]
            .iter()
            .all(|index| has_key(&group, &key(*index)))
    );
    // The log doesn't claim that they are committed.
    assert_eq!(engine.log.committed(GROUP), None);
    append(&engine, 600..602).await;
    group.apply_log().await.unwrap();
    assert!(has_key(&group, &key(601)));
}

#[tokio::test]
async fn missing_entries_are_an_error_and_superseded_ones_are_not_applied() {
    let dir = tempfile::tempdir().unwrap();
    let engine = Arc::new(small_engine(dir.path()));
    append(&engine, 0..7).await;
    let mut group = open_group(&engine);
    // A snapshot of a later leader has replaced the state; its log was not cut off.
    group
        .apply_payload(log_id(2, 3), EntryPayload::Blank)
        .unwrap();
    group.apply_log().await.unwrap();
    assert_eq!(group.replica.applied, Some(log_id(2, 3)));
    assert!(!has_key(&group, &key(5)));

    let dir = tempfile::tempdir().unwrap();
    let engine = Arc::new(small_engine(dir.path()));
    append(&engine, 0..4).await;
    let purged = codec::encode_log_id(&log_id(1, 1));
    engine.log.purge(GROUP, 1, &purged).unwrap();
    let error = open_group(&engine).apply_log().await.unwrap_err();
    assert_eq!(error.to_string(), "apply log: entries 0 to 1 are missing");
}

/// The numbers of a case: entries in the log, entries that the state has, and the term of the vote.
type Replicated = (u64, u64, u64);

#[tokio::test]
async fn a_recovered_group_is_durable_goes_on_behind_a_gap_and_can_be_recovered_again() {
    let cases: [Replicated; 4] = [(0, 0, 0), (5, 0, 0), (5, 5, 1), (5, 3, 9)];
    for (entries, applied, vote_term) in cases {
        let dir = tempfile::tempdir().unwrap();
        let engine = Arc::new(small_engine(dir.path()));
        append(&engine, 0..applied).await;
        open_group(&engine).apply_log().await.unwrap();
        append(&engine, applied..entries).await;
        let mut group = open_group(&engine);
        if vote_term > 0 {
            let vote = Vote {
                leader_id: RaftLeaderId::new(vote_term, NodeId::new(1)),
                committed: true,
            };
            group.log.save_vote(&vote).await.unwrap();
        }
        group.apply_log().await.unwrap();
        group.apply(command("behind")).await.unwrap();
        group.become_sole_voter(NODE, ADDRESS).await.unwrap();

        let copy = copy_after_crash(dir.path());
        let copied = Arc::new(small_engine(copy.path()));
        let first = check_start(&copied).await;
        assert!(first.leader_id.term > vote_term.max(u64::from(entries > 0)));
        assert!(first.index >= entries + INDEX_GAP);
        for index in 0..entries {
            assert!(has_key(&open_group(&copied), &key(index)), "{index}");
        }
        assert!(has_key(&open_group(&copied), "behind"));

        let mut again = open_group(&engine);
        again.apply_log().await.unwrap();
        again.become_sole_voter(NODE, ADDRESS).await.unwrap();
        assert!(check_start(&engine).await > first);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn openraft_starts_a_recovered_group_and_goes_on() {
    let dir = tempfile::tempdir().unwrap();
    let engine = Arc::new(small_engine(dir.path()));
    append(&engine, 0..5).await;
    let mut group = open_group(&engine);
    group.apply_log().await.unwrap();
    group.become_sole_voter(NODE, ADDRESS).await.unwrap();
    let position = group.replica.applied.unwrap();
    drop(group);
    let first = run_and_put(&engine, "first").await;
    assert!(first > position.index, "{first}");
    let second = run_and_put(&engine, "second").await;
    assert!(second > first, "{second}");
    let group = open_group(&engine);
    for key in ["key-0", "key-4", "first", "second"] {
        assert!(has_key(&group, key), "{key}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_crash_before_the_log_begins_anew_leaves_a_group_that_starts_or_is_recovered() {
    for is_recovered_again in [false, true] {
        let dir = tempfile::tempdir().unwrap();
        let engine = Arc::new(small_engine(dir.path()));
        append(&engine, 0..5).await;
        let mut group = open_group(&engine);
        group.apply_log().await.unwrap();
        let position = group.move_state(NODE, ADDRESS).await.unwrap();
        drop(group);
        let copy = copy_after_crash(dir.path());
        let engine = Arc::new(small_engine(copy.path()));
        if is_recovered_again {
            let mut group = open_group(&engine);
            group.apply_log().await.unwrap();
            assert_eq!(group.replica.applied, Some(position));
            group.become_sole_voter(NODE, ADDRESS).await.unwrap();
        }
        assert!(run_and_put(&engine, "new").await > position.index);
        let group = open_group(&engine);
        assert!(has_key(&group, "new") && has_key(&group, "key-4"));
    }
}
