//! Tests the shard's state against a simple model, with random commands in random batches.

use std::collections::BTreeMap;
use std::error::Error as _;

use bytes::Bytes;
use cloudkv_proto::v1::{
    self as pb, condition::Kind as Condition, shard_command::Kind, touch::Expiry, write::Op,
};
use proptest::prelude::*;
use prost::Message;

use super::feature_level::MAX_FEATURE_LEVEL;
use super::record;
use super::response::{ShardResponse, WriteOutcome};
use super::state::{ShardState, StateMemory};
use super::test_region::TestRegion;
use crate::raft::MachineState;
use crate::store::keys::{GroupId, RowKind, Rows};
use crate::store::{Engine, EngineSettings, RowBatch};
use crate::types::{ListQuery, ReadResult, Version};

const BUCKETS: [&[u8; 14]; 2] = [b"aAAAAAAAAAAAAA", b"aBBBBBBBBBBBBB"];

/// A key of the model.
#[derive(Clone)]
struct ModelRecord {
    version: Version,
    expires_at: u64,
    value: Bytes,
    metadata: Bytes,
}

/// Simple model of a shard's content.
#[derive(Default)]
struct Model {
    keys: BTreeMap<(Bytes, Bytes), ModelRecord>,
    dropped: Vec<Bytes>,
    last_version: u64,
}

impl Model {
    fn write(&mut self, time: u64, write: &pb::Write) -> bool {
        if self.dropped.contains(&write.bucket) {
            return false;
        }
        let id = (write.bucket.clone(), write.key.clone());
        let now = time.max(self.last_version + 1);
        let stored = self.keys.get(&id);
        let live = stored.filter(|it| it.expires_at == 0 || now < it.expires_at);
        let condition = write
            .condition
            .as_ref()
            .and_then(|condition| condition.kind.as_ref());
        let holds = match condition {
            Some(Condition::Exists(_)) => live.is_some(),
            Some(Condition::Absent(_)) => live.is_none(),
            _ => true,
        };
        let Some(op) = write.op.as_ref().filter(|_| holds) else {
            return false;
        };
        match op {
            Op::Put(put) if !put.may_create && stored.is_none() => return false,
            Op::Put(put) => {
                let expires_at = match put {
                    pb::Put { ttl: 1.., .. } => now + put.ttl,
                    _ => put.expires_at,
                };
                let record = ModelRecord {
                    version: version_at(now),
                    expires_at,
                    value: put.value.clone(),
                    metadata: put.metadata.clone(),
                };
                self.keys.insert(id, record);
            }
            Op::Touch(touch) => {
                let Some(live) = live else { return false };
                let record = ModelRecord {
                    version: version_at(now),
                    expires_at: match touch.expiry {
                        None => live.expires_at,
                        Some(Expiry::Ttl(ttl)) => now + ttl,
                        Some(Expiry::ExpiresAt(time)) => time,
                        Some(Expiry::Persist(_)) => 0,
                    },
                    value: live.value.clone(),
                    metadata: touch.metadata.clone().unwrap_or(live.metadata.clone()),
                };
                self.keys.insert(id, record);
            }
            Op::Delete(_) => {
                self.keys.remove(&id);
            }
        }
        self.last_version = now;
        true
    }

    fn apply(&mut self, command: &Kind) {
        match command {
            Kind::Writes(batch) => {
                for write in &batch.writes {
                    self.write(batch.time, write);
                }
            }
            Kind::Expire(expire) => {
                self.keys
                    .retain(|_, it| it.expires_at == 0 || it.expires_at > expire.time);
                self.last_version = self.last_version.max(expire.time);
            }
            Kind::DropBucket(drop) => {
                self.keys.retain(|(bucket, _), _| *bucket != drop.bucket);
                self.dropped.push(drop.bucket.clone());
            }
            _ => {}
        }
    }
}

fn version_at(time: u64) -> Version {
    Version { time, region: 1 }
}

fn bucket() -> impl Strategy<Value = Bytes> {
    (0..2_usize).prop_map(|n| Bytes::from_static(BUCKETS[n]))
}

fn write() -> impl Strategy<Value = pb::Write> {
    let value = proptest::collection::vec(any::<u8>(), 0..20).prop_map(Bytes::from);
    let metadata = || {
        let small = proptest::collection::vec(any::<u8>(), 0..5).prop_map(Bytes::from);
        prop_oneof![2 => Just(Bytes::new()), 1 => small]
    };
    let expiry = prop_oneof![
        2 => Just((0_u64, 0_u64)),
        1 => (1..300_u64).prop_map(|ttl| (ttl, 0)),
        1 => (1..1500_u64).prop_map(|expires_at| (0, expires_at)),
    ];
    let put = (value, metadata(), expiry, 0..8_u8);
    let touched_expiry = prop_oneof![
        Just(None),
        (1..300_u64).prop_map(|ttl| Some(Expiry::Ttl(ttl))),
        (1..1500_u64).prop_map(|time| Some(Expiry::ExpiresAt(time))),
        Just(Some(Expiry::Persist(true))),
    ];
    let touch = (touched_expiry, proptest::option::of(metadata()));
    let op = prop_oneof![
        3 => put.prop_map(|(value, metadata, (ttl, expires_at), create)| Op::Put(pb::Put {
            value, metadata, ttl, expires_at, may_create: create > 0, ..Default::default()
        })),
        1 => touch.prop_map(|(expiry, metadata)| Op::Touch(pb::Touch { expiry, metadata })),
        1 => Just(Op::Delete(pb::Delete {})),
    ];
    let condition = prop_oneof![
        4 => Just(None),
        1 => Just(Some(Condition::Exists(true))),
        1 => Just(Some(Condition::Absent(true))),
    ];
    (bucket(), 0..6_u8, op, condition).prop_map(|(bucket, key, op, condition)| pb::Write {
        bucket,
        key: Bytes::from(format!("k{key}")),
        op: Some(op),
        condition: condition.map(|kind| pb::Condition { kind: Some(kind) }),
    })
}

fn command() -> impl Strategy<Value = Kind> {
    prop_oneof![
        12 => (0..1000_u64, proptest::collection::vec(write(), 1..6))
            .prop_map(|(time, writes)| Kind::Writes(pb::WriteBatch { time, writes })),
        3 => (0..1200_u64)
            .prop_map(|time| Kind::Expire(pb::ExpireUpTo { time, limit: 1000 })),
        1 => bucket().prop_map(|bucket| Kind::DropBucket(pb::DropBucket { bucket })),
    ]
}

/// A shard's state, and the batch that is not written yet.
struct TestShard {
    engine: Engine,
    state: ShardState,
    batch: RowBatch,
    _dir: tempfile::TempDir,
}

impl TestShard {
    fn new() -> Self {
        Self::with_cache(1 << 20)
    }

    /// Creates a shard with a record cache of this size, in bytes.
    fn with_cache(bytes: usize) -> Self {
        let dir = tempfile::tempdir().unwrap();
        let settings = EngineSettings {
            block_cache_bytes: 1 << 20,
            write_buffer_bytes: 1 << 20,
            log_segment_bytes: 1 << 20,
            compaction_rate: 0,
        };
        let engine = Engine::open(dir.path(), &settings).unwrap();
        let rows = Rows::new(GroupId::shard(0), 1);
        let memory = StateMemory {
            record_cache: bytes,
            ..StateMemory::TEST
        };
        let mut state = ShardState::open(engine.state.clone(), rows, memory).unwrap();
        let bootstrap = pb::BootstrapShard {
            region: 1,
            incarnation: 7,
            level: 1,
            ..Default::default()
        };
        let mut batch = RowBatch::default();
        state
            .apply(&to_command(Kind::Bootstrap(bootstrap)), &mut batch)
            .unwrap();
        Self {
            engine,
            state,
            batch,
            _dir: dir,
        }
    }

    /// Applies a command like `raft::Replica`, and ends the batch after it if requested.
    fn apply(&mut self, command: Kind, end_batch: bool) -> ShardResponse {
        let command = to_command(command);
        let is_scan = ShardState::is_scan(&command);
        if is_scan {
            self.end_batch();
        }
        let response = self.state.apply(&command, &mut self.batch).unwrap();
        if is_scan || end_batch {
            self.end_batch();
        }
        response
    }

    fn end_batch(&mut self) {
        let mut batch = std::mem::take(&mut self.batch);
        self.state.finish_batch(&mut batch);
        self.engine.state.write(batch).unwrap();
        self.state.batch_written();
    }
}

fn to_command(kind: Kind) -> pb::ShardCommand {
    pb::ShardCommand { kind: Some(kind) }
}

fn digest_of_all(shard: &TestShard) -> u64 {
    let view = shard.state.view();
    let mut digest = 0_u64;
    for bucket in BUCKETS {
        let query = ListQuery {
            limit: usize::MAX,
            ..ListQuery::default()
        };
        for info in view.page(bucket, &query, 0).unwrap().into_keys() {
            let row = shard.state.rows.record(bucket, &info.key);
            let row = shard.engine.state.get(&row).unwrap().unwrap();
            let record = record::decode(row).unwrap();
            digest = digest.wrapping_add(record::digest(bucket, &info.key, &record));
        }
    }
    digest
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 64, ..ProptestConfig::default() })]

    #[test]
    fn the_state_matches_the_model(
        commands in proptest::collection::vec((command(), any::<bool>()), 1..40)
    ) {
        let mut shard = TestShard::new();
        let mut model = Model::default();
        for (command, end_batch) in commands {
            model.apply(&command);
            shard.apply(command, end_batch);
        }
        // Expired keys are still counted until an entry removes them.
        let expire = Kind::Expire(pb::ExpireUpTo { time: 5000, limit: 1000 });
        model.apply(&expire);
        shard.apply(expire, true);
        let view = shard.state.view();
        for bucket in BUCKETS {
            let expected: Vec<_> = model
                .keys
                .iter()
                .filter(|((of, _), _)| of == &bucket[..])
                .map(|((_, key), it)| {
                    (key.clone(), it.version, it.value.clone(), it.metadata.clone())
                })
                .collect();
            let query = ListQuery { limit: 1000, ..ListQuery::default() };
            let listed: Vec<_> = view
                .page(bucket, &query, 0)
                .unwrap()
                .into_keys()
                .map(|info| {
                    let entry = view.get(bucket, &info.key, 0).unwrap().into_value().unwrap();
                    (info.key, info.version, entry.value, entry.metadata)
                })
                .collect();
            let bytes: usize = listed
                .iter()
                .map(|(key, _, value, metadata)| key.len() + value.len() + metadata.len())
                .sum();
            let state = view.bucket(bucket).unwrap();
            prop_assert_eq!(state.keys, listed.len() as u64);
            prop_assert_eq!(state.bytes, bytes as u64);
            prop_assert_eq!(state.dropped, model.dropped.iter().any(|id| id == &bucket[..]));
            prop_assert_eq!(listed, expected);
        }
        prop_assert_eq!(view.digest(), digest_of_all(&shard));
        prop_assert!(!view.has_expired_keys(5000));
    }

    #[test]
    fn replicas_agree_however_their_entries_were_batched(
        commands in proptest::collection::vec((command(), any::<bool>(), any::<bool>()), 1..40)
    ) {
        // The other one caches almost nothing.
        let (mut one, mut other) = (TestShard::new(), TestShard::with_cache(0));
        for (command, end_one, end_other) in commands {
            let first = one.apply(command.clone(), end_one);
            let second = other.apply(command, end_other);
            prop_assert_eq!(first, second);
        }
        one.end_batch();
        other.end_batch();
        prop_assert_eq!(one.state.header, other.state.header);
    }
}

fn put(time: u64, key: &str, ttl: u64) -> Kind {
    let put = pb::Put {
        ttl,
        may_create: true,
        ..Default::default()
    };
    let write = pb::Write {
        bucket: Bytes::from_static(BUCKETS[0]),
        key: Bytes::copy_from_slice(key.as_bytes()),
        op: Some(Op::Put(put)),
        condition: None,
    };
    Kind::Writes(pb::WriteBatch {
        time,
        writes: vec![write],
    })
}

fn put_expiring_at(key: &str, expires_at: u64) -> Kind {
    let put = pb::Put {
        expires_at,
        may_create: true,
        ..Default::default()
    };
    let write = pb::Write {
        bucket: Bytes::from_static(BUCKETS[0]),
        key: Bytes::copy_from_slice(key.as_bytes()),
        op: Some(Op::Put(put)),
        condition: None,
    };
    Kind::Writes(pb::WriteBatch {
        time: 1,
        writes: vec![write],
    })
}

#[test]
fn keys_of_one_expiry_are_removed_in_parts_each_from_where_the_last_ended() {
    const EXPIRY: u64 = 500;
    let mut shard = TestShard::new();
    for number in 0..9 {
        shard.apply(put_expiring_at(&format!("k{number}"), EXPIRY), true);
    }
    let expire = || {
        Kind::Expire(pb::ExpireUpTo {
            time: EXPIRY,
            limit: 2,
        })
    };
    let more = ShardResponse::Expired { has_more: true };
    assert_eq!(shard.apply(expire(), true), more);
    let row = |key: &str| shard.state.rows.expiry(EXPIRY, BUCKETS[0], key.as_bytes());
    assert_eq!(shard.state.expiry_from, Some(row("k2")));
    // A key that comes before the place at which the next part begins.
    let early = row("a");
    shard.apply(put_expiring_at("a", EXPIRY), true);
    assert_eq!(shard.state.expiry_from, Some(early));
    for _ in 0..3 {
        assert_eq!(shard.apply(expire(), true), more);
    }
    assert_eq!(
        shard.apply(expire(), true),
        ShardResponse::Expired { has_more: false }
    );
    let view = shard.state.view();
    assert_eq!(view.bucket(BUCKETS[0]).unwrap().keys, 0);
    assert!(!view.has_expired_keys(EXPIRY));
}

#[test]
fn versions_rise_whatever_the_clock() {
    let mut shard = TestShard::new();
    let mut last = 0;
    for time in [100, 50, 50, 7, 200, 0] {
        let ShardResponse::Writes(outcomes) = shard.apply(put(time, "k", 0), false) else {
            panic!("a write answers with outcomes");
        };
        let WriteOutcome::Written(written) = outcomes[0] else {
            panic!("{outcomes:?}")
        };
        assert!(written.version.time > last && written.version.time >= time);
        last = written.version.time;
    }
}

#[test]
fn with_other_regions_a_change_is_indexed_once_and_a_delete_leaves_a_tombstone() {
    let mut shard = TestShard::new();
    let peer = |region| pb::Peer {
        region,
        incarnation: 7,
    };
    let peers = pb::SetPeers {
        epoch: 1,
        peers: vec![peer(2), peer(3)],
    };
    shard.apply(Kind::SetPeers(peers), true);
    for time in 1..=3 {
        shard.apply(put(time, "k", 0), true);
    }
    let delete = pb::Write {
        bucket: Bytes::from_static(BUCKETS[0]),
        key: Bytes::from_static(b"k"),
        op: Some(Op::Delete(pb::Delete {})),
        condition: None,
    };
    let batch = pb::WriteBatch {
        time: 10,
        writes: vec![delete],
    };
    shard.apply(Kind::Writes(batch), true);
    assert_eq!(shard.state.header.change_last, 4);
    let change = |sequence| {
        let row = shard.state.rows.change(sequence);
        shard.engine.state.get(&row).unwrap().is_some()
    };
    assert_eq!([1, 2, 3, 4].map(change), [false, false, false, true]);
    let row = shard.state.rows.record(BUCKETS[0], b"k");
    let record = record::decode(shard.engine.state.get(&row).unwrap().unwrap()).unwrap();
    assert!(record.tombstone && record.change == 4);
    assert_eq!(shard.state.view().bucket(BUCKETS[0]).unwrap().keys, 0);
    let result = shard.state.view().get(BUCKETS[0], b"k", 0).unwrap();
    assert!(matches!(result, ReadResult::Deleted(_)), "{result:?}");
}

#[test]
fn a_command_of_a_later_version_is_an_error_with_advice() {
    let mut shard = TestShard::new();
    let unknown = pb::ShardCommand { kind: None };
    let error = shard
        .state
        .apply(&unknown, &mut RowBatch::default())
        .unwrap_err();
    assert!(error.to_string().contains("upgrade"), "{error}");
}

#[test]
fn a_state_of_a_later_feature_level_is_refused() {
    let mut region = TestRegion::new(1, false);
    let header = |level| pb::ShardHeader {
        level,
        ..Default::default()
    };
    let rows = Rows::new(GroupId::shard(0), 2);
    let mut write = |level| {
        let mut batch = RowBatch::default();
        let row = header(level).encode_to_vec();
        batch.put(rows.single(RowKind::Header), &row);
        region.write_rows(batch);
        region.state.reload(rows)
    };
    write(MAX_FEATURE_LEVEL).unwrap();
    let error = write(MAX_FEATURE_LEVEL + 1).unwrap_err();
    let error = error.source().unwrap().to_string();
    assert!(error.contains("upgrade it"), "{error}");
}

#[test]
fn a_shard_takes_supported_feature_levels_only_and_never_a_lower_one() {
    let mut shard = TestShard::new();
    let set_level = |level| Kind::SetLevel(pb::SetLevel { level });
    let later = MAX_FEATURE_LEVEL + 1;
    let error = shard
        .state
        .apply(&to_command(set_level(later)), &mut RowBatch::default())
        .unwrap_err();
    assert_eq!(error.kind(), std::io::ErrorKind::Unsupported);
    let error = error.to_string();
    assert!(error.contains(&format!("level {later}")), "{error}");
    assert_eq!(shard.state.header.level, 1);
    shard.apply(set_level(MAX_FEATURE_LEVEL), true);
    shard.apply(set_level(0), true);
    assert_eq!(shard.state.header.level, MAX_FEATURE_LEVEL);
    let bootstrap = Kind::Bootstrap(pb::BootstrapShard {
        region: 1,
        level: later,
        ..Default::default()
    });
    let error = shard
        .state
        .apply(&to_command(bootstrap), &mut RowBatch::default())
        .unwrap_err();
    assert_eq!(error.kind(), std::io::ErrorKind::Unsupported);
}
