//! A shard of a region without any network, for tests of propagation.

use std::collections::BTreeMap;

use bytes::Bytes;
use cloudkv_proto::v1::{self as pb, shard_command::Kind, write::Op};

use super::change_log::ChangeQuery;
use super::feature_level::MAX_FEATURE_LEVEL;
use super::peers::acknowledged_by_all;
use super::record;
use super::response::ShardResponse;
use super::state::{ShardState, StateMemory};
use super::view::ShardView;
use crate::raft::{MachineState, applied_row};
use crate::store::keys::{GroupId, RowKind, Rows};
use crate::store::{Engine, EngineSettings, RowBatch};
use crate::types::{ListQuery, Version};

/// Bucket of all keys.
pub(super) const BUCKET: &[u8; 14] = b"aAAAAAAAAAAAAA";

/// Shard of one region.
pub(super) struct TestRegion {
    pub state: ShardState,
    engine: Engine,
    pub identity: pb::Peer,
    pub clock: u64,
    /// Commands applied so far.
    pub applied: Vec<pb::ShardCommand>,
    /// Index of the last entry that was applied, and of the last one whose effects are written.
    index: u64,
    written: u64,
    batch: RowBatch,
    _dir: tempfile::TempDir,
}

impl TestRegion {
    pub(super) fn new(number: u32, adopts: bool) -> Self {
        Self::with_memory(number, adopts, StateMemory::TEST)
    }

    pub(super) fn with_memory(number: u32, adopts: bool, memory: StateMemory) -> Self {
        let dir = tempfile::tempdir().unwrap();
        let settings = EngineSettings {
            block_cache_bytes: 1 << 20,
            write_buffer_bytes: 1 << 20,
            log_segment_bytes: 1 << 20,
            compaction_rate: 0,
        };
        let engine = Engine::open(dir.path(), &settings).unwrap();
        let rows = Rows::new(GroupId::shard(0), 1);
        let state = ShardState::open(engine.state.clone(), rows, memory).unwrap();
        let me = pb::Peer {
            region: number,
            incarnation: 100 + u64::from(number),
        };
        let mut region = Self {
            state,
            engine,
            identity: me,
            // Clocks that are apart, and advance independently.
            clock: u64::from(number) * 7,
            applied: Vec::new(),
            index: 0,
            written: 0,
            batch: RowBatch::default(),
            _dir: dir,
        };
        region.apply(Kind::Bootstrap(pb::BootstrapShard {
            region: number,
            incarnation: me.incarnation,
            level: MAX_FEATURE_LEVEL,
            must_seed: adopts,
        }));
        region
    }

    /// Applies a command in a batch of its own.
    pub(super) fn apply(&mut self, kind: Kind) -> ShardResponse {
        self.write_batch();
        let response = self.apply_to_batch(kind);
        self.write_batch();
        response
    }

    /// Applies a command like `raft::Replica`: a scan in a batch of its own.
    pub(super) fn apply_to_batch(&mut self, kind: Kind) -> ShardResponse {
        let command = pb::ShardCommand { kind: Some(kind) };
        let is_scan = ShardState::is_scan(&command);
        if is_scan {
            self.write_batch();
        }
        let response = self.state.apply(&command, &mut self.batch).unwrap();
        self.index += 1;
        self.state.entry_applied(self.index);
        self.applied.push(command);
        if is_scan {
            self.write_batch();
        }
        response
    }

    /// Writes the batch, with the position after it.
    pub(super) fn write_batch(&mut self) {
        if self.index == self.written {
            return;
        }
        let mut batch = std::mem::take(&mut self.batch);
        self.state.finish_batch(&mut batch);
        let position = self.state.rows.single(RowKind::Applied);
        batch.put(position, applied_row(self.index));
        self.engine.state.write(batch).unwrap();
        self.state.batch_written();
        self.written = self.index;
    }

    /// Discards the batch, and reads the state again, as after a snapshot.
    pub(super) fn reload(&mut self) {
        self.batch = RowBatch::default();
        self.index = self.written;
        let rows = self.state.rows;
        self.state.reload(rows).unwrap();
    }

    /// Index of the last entry whose effects are written.
    pub(super) fn written_index(&self) -> u64 {
        self.written
    }

    /// Writes rows past the state machine.
    pub(super) fn write_rows(&self, batch: RowBatch) {
        self.engine.state.write(batch).unwrap();
    }

    pub(super) fn set_peers(&mut self, epoch: u64, peers: Vec<pb::Peer>) {
        let me = self.identity.region;
        let peers = peers.into_iter().filter(|peer| peer.region != me).collect();
        self.apply(Kind::SetPeers(pb::SetPeers { epoch, peers }));
    }

    pub(super) fn write(&mut self, key: u8, op: Op) {
        let writes = vec![pb::Write {
            bucket: Bytes::from_static(BUCKET),
            key: Bytes::from(vec![b'k', key]),
            op: Some(op),
            condition: None,
        }];
        let time = self.clock;
        self.apply(Kind::Writes(pb::WriteBatch { time, writes }));
    }

    pub(super) fn put(&mut self, key: u8, value: &str, ttl: u64) {
        self.write(
            key,
            Op::Put(pb::Put {
                value: Bytes::copy_from_slice(value.as_bytes()),
                ttl,
                may_create: true,
                ..Default::default()
            }),
        );
    }

    pub(super) fn view(&self) -> std::sync::Arc<ShardView> {
        self.state.view()
    }

    pub(super) fn peer(&self, region: u32) -> pb::PeerState {
        let mut peers = self.state.header.peers.iter();
        *peers.find(|peer| peer.region == region).unwrap()
    }

    /// Reads the batches for a region that has all up to a position, of at most `records` each.
    pub(super) fn batches(&self, to: u32, from: u64, records: usize) -> Vec<pb::Merge> {
        let mut batches = Vec::new();
        let mut position = from;
        loop {
            let query = ChangeQuery {
                peer: to,
                after: position,
                max_records: records,
            };
            let batch = self.view().read_batch(query).unwrap();
            position = batch.merge.to;
            batches.push(pb::Merge {
                stable: acknowledged_by_all(&self.state.header),
                ..batch.merge
            });
            if !batch.has_more {
                return batches;
            }
        }
    }

    pub(super) fn merge(&mut self, merge: pb::Merge) -> u64 {
        let time = self.clock;
        let merges = vec![merge];
        match self.apply(Kind::Merges(pb::Merges { time, merges })) {
            ShardResponse::Merges(outcomes) => {
                assert!(outcomes[0].is_known);
                outcomes[0].cursor
            }
            other => panic!("{other:?}"),
        }
    }

    pub(super) fn acknowledge(&mut self, peer: pb::Peer, position: u64) {
        let peers = vec![pb::PeerPosition {
            region: peer.region,
            incarnation: peer.incarnation,
            position,
        }];
        self.apply(Kind::Acknowledge(pb::Acknowledge { peers }));
    }

    pub(super) fn expire(&mut self, time: u64) {
        self.apply(Kind::Expire(pb::ExpireUpTo { time, limit: 1000 }));
    }

    pub(super) fn collect(&mut self) {
        let tombstones = self.view().collectable_tombstones(1000).unwrap();
        self.apply(Kind::Collect(pb::Collect { tombstones }));
    }

    /// Returns live keys with version and value.
    pub(super) fn live_entries(&self) -> BTreeMap<Bytes, (Version, Bytes)> {
        let view = self.view();
        let query = ListQuery {
            limit: 1000,
            ..ListQuery::default()
        };
        let keys = view.page(BUCKET, &query, 0).unwrap().into_keys();
        keys.map(|info| {
            let entry = view
                .get(BUCKET, &info.key, 0)
                .unwrap()
                .into_value()
                .unwrap();
            (info.key, (info.version, entry.value))
        })
        .collect()
    }

    /// Returns the version of a key, or of its tombstone.
    pub(super) fn version(&self, key: u8) -> Option<Version> {
        let row = self.state.rows.record(BUCKET, &[b'k', key]);
        let record = self.state.record(&row).unwrap();
        record.map(|record| record::version_of(&record))
    }
}
